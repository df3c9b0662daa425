"""Judges: what each asks for, how it decides, and that an auditor decides the same; with scripted engines."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from specreason_graph import EnginePair, create_specreason
from specreason_graph.audit.ask.thresholds import curve, suggest
from specreason_graph.audit.ask.whatif import what_if
from specreason_graph.audit.check.recompute import recompute
from specreason_graph.audit.check.rescore import rescore
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.fork import fork, plan_fork
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.audit.show.report import render_run
from specreason_graph.config import make_config
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import ConfigError
from specreason_graph.judging import (
    AllOf,
    AnyOf,
    CalibratedJudge,
    Cascade,
    ConfidenceJudge,
    DigitJudge,
    EntropyJudge,
    LikelihoodJudge,
)
from specreason_graph.judging.fitting import fit
from specreason_graph.judging.labelled_steps import auroc
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.record.records import Score, Step, Usage
from specreason_graph.strategy import Judge, register
from tests.fuzz.judged import STRATEGIES, differing
from tests.support.pages import Page
from tests.support.reseal import resealed
from tests.support.scripts import judging, writing

LIKELIHOODS = (-1.0, -20.0, -4.0)
"""What the base makes of the draft's steps, again and again: log-probabilities of whole steps."""
CONFIDENCES = (-2.0, -3.0, -30.0)
"""What the draft makes of its own."""
ENTROPIES = (0.1, 2.0, 0.1)
OPINIONS = (9, 2, 8)
STEPS = 6
THREAD: Any = {"configurable": {"thread_id": "judged"}}


def number(prompt: str) -> int:
    """Which step is written or judged behind a prompt."""
    return prompt.count("\n\n")


def pair() -> EnginePair:
    """Engines that think six steps, of which the draft is sure, and the base convinced, now and then."""
    draft = FakeEngine(
        writing("draft", STEPS), name="draft",
        confidences=lambda text: CONFIDENCES[int(text.split()[1]) % 3] if text.startswith("Step") else -0.1,
        entropies=lambda text: ENTROPIES[int(text.split()[1]) % 3] if text.startswith("Step") else 0.0,
    )  # fmt: skip
    base = FakeEngine(
        writing("base", STEPS), judging(OPINIONS), name="base",
        likelihoods=lambda prompt, _: LIKELIHOODS[number(prompt) % 3],
    )  # fmt: skip
    return EnginePair(draft, base)


class Ran:
    """A run under a judge, and what its engines were asked."""

    def __init__(self, judge: Any, **settings: Any) -> None:
        saver = InMemorySaver()
        with pair() as self.engines:
            self.graph = create_specreason(self.engines, judge=judge, **settings).compile(checkpointer=saver)
            self.outcome = self.graph.invoke({"question": "What is it?"}, THREAD)
            (self.run,) = read_runs(saver, "judged")
            self.rescored = rescore(self.run, self.engines)
        self.saver = saver

    @property
    def authors(self) -> str:
        """Who wrote each step, as initials; the last one, which ends the thinking, is left out."""
        return "".join(step["author"][0] for step in self.outcome["trace"])[:STEPS]

    @property
    def asked(self) -> list[int]:
        """How often the base was asked for a digit, and for a likelihood, before it was asked again for the audit."""
        calls = [call.kind for call in self.engines.base.calls]  # type: ignore[attr-defined]
        return [calls.count("next_token"), calls.count("likelihood")]

    @property
    def steps(self) -> list[Step]:
        """The record."""
        return self.run.steps


def assert_audited(run: RecordedRun) -> None:
    """The record is whole, and every decision follows from it."""
    assert (verify(run).ok, verify(run).findings) == (True, [])
    assert recompute(run).differences == []
    assert what_if(run).changed == []


JUDGES: list[tuple[Any, str]] = [
    (DigitJudge(), "dbddbd"),
    (DigitJudge(threshold=2, reduction="greedy"), "dddddd"),
    (LikelihoodJudge(), "dbddbd"),
    (LikelihoodJudge(threshold=-2), "dbbdbb"),
    (LikelihoodJudge(reduction="difference", threshold=0), "dbddbd"),  # 1, -17, 26
    (LikelihoodJudge(reduction="mean", threshold=-0.1), "dbbdbb"),  # of 22 tokens
    (ConfidenceJudge(), "ddbddb"),
    (ConfidenceJudge(reduction="lowest", threshold=-0.12), "dbbdbb"),
    (EntropyJudge(), "dbddbd"),
    (Cascade(first=ConfidenceJudge(), low=-10, high=-2.5, then=LikelihoodJudge()), "dbbdbb"),
    (AllOf(judges=(ConfidenceJudge(), LikelihoodJudge())), "dbbdbb"),
    (AnyOf(judges=(ConfidenceJudge(), LikelihoodJudge())), "dddddd"),
    (CalibratedJudge(weights={"base_sum": 1.0}, bias=5.0), "dbddbd"),
    (CalibratedJudge(weights={"base_sum": 1.0, "digit_mean": 1.0}, bias=-6.0), "dbbdbb"),
]


def named(judge: Any) -> str:
    """A name for a case."""
    return str(judge.kind)


@pytest.mark.parametrize(("judge", "authors"), JUDGES, ids=lambda value: getattr(value, "kind", ""))
def test_a_judge_decides_and_its_decisions_are_recomputed(judge: Judge, authors: str) -> None:
    found = Ran(judge)
    assert found.authors == authors
    assert_audited(found.run)
    assert (found.rescored.flipped, found.rescored.drift) == ([], 0)
    for step in found.steps[:STEPS]:
        assert step.score is not None
        assert judge.decide(step.score).accepted is (step.author == "draft")
    assert found.run.typed_manifest.config.judge == judge


def test_evidence_is_what_was_asked_for_and_no_more() -> None:
    likelihood = Ran("likelihood").steps[1]
    assert likelihood.score is not None
    assert set(likelihood.score.dump()) == {"base_logprobs", "usage"}
    assert likelihood.score.base_logprobs == [round(-20 / 22, 5)] * 22
    assert (likelihood.decision.judge, likelihood.decision.score_reduction) == ("likelihood", None)
    assert likelihood.decision.number == pytest.approx(-20, abs=1e-3)
    confident = Ran("confidence")
    assert confident.steps[0].score is not None
    assert set(confident.steps[0].score.dump()) == {"draft_logprobs", "usage"}
    assert confident.steps[0].score.usage == Usage()
    assert all("logprobs" not in (step.dump()["discarded"] or {}) for step in confident.steps[:STEPS])
    assert set(Ran("digit").outcome["trace"][0]["score"]) == {
        "digit_logprobs", "other_mass", "greedy", "mean", "prompt_tokens", "usage",
    }  # fmt: skip


def test_no_call_is_made_that_a_judge_does_not_need() -> None:
    assert calls_of("digit") == (STEPS, 0)
    assert calls_of("likelihood") == (0, STEPS)
    assert calls_of("confidence") == calls_of("entropy") == (0, 0)
    # of each three steps: sure enough, in doubt, hopeless
    assert calls_of(Cascade(first=ConfidenceJudge(), low=-10, high=-2.5, then=LikelihoodJudge())) == (0, 2)
    assert calls_of(AllOf(judges=(ConfidenceJudge(), LikelihoodJudge()))) == (0, 4)
    assert calls_of(AnyOf(judges=(ConfidenceJudge(), DigitJudge()))) == (2, 0)


def calls_of(judge: Any) -> tuple[int, int]:
    """Digits and likelihoods that a run asks for, with a window and without."""
    counts = set()
    for lookahead in (0, 4):
        with pair() as engines:
            create_specreason(engines, judge=judge, lookahead=lookahead).compile().invoke({"question": "What is it?"})
            kinds = [call.kind for call in engines.base.calls]  # type: ignore[attr-defined]
        counts.add((kinds.count("next_token"), kinds.count("likelihood")))
    (found,) = counts
    return found


SCORES = [
    Score(base_logprobs=[base], draft_logprobs=[draft], usage=Usage())
    for base in (-12.0, -8.0, -2.0)
    for draft in (-12.0, -8.0, -2.0)
]


@pytest.mark.parametrize("score", SCORES, ids=lambda score: f"{score.base_logprobs[0]:g},{score.draft_logprobs[0]:g}")
def test_laws_of_combined_judges(score: Score) -> None:
    cheap, dear = ConfidenceJudge(threshold=-5), LikelihoodJudge(threshold=-5)
    empty = Cascade(first=cheap, low=-5, high=-5, then=dear)
    assert empty.decide(score) == cheap.decide(score)
    whole = Cascade(first=cheap, low=-100, high=0, then=dear)
    assert whole.decide(score) == dear.decide(score)
    for several in (AllOf, AnyOf):
        assert several(judges=(cheap,)).decide(score) == cheap.decide(score)
        assert several(judges=(cheap, cheap)).decide(score) == cheap.decide(score)
        nested = several(judges=(several(judges=(cheap, dear)), dear))
        assert nested.decide(score).accepted is several(judges=(cheap, dear)).decide(score).accepted
    both = [judge.decide(score).accepted for judge in (cheap, dear)]
    assert AllOf(judges=(cheap, dear)).decide(score).accepted is all(both)
    assert AnyOf(judges=(cheap, dear)).decide(score).accepted is any(both)
    assert AllOf(judges=(cheap, dear)).with_threshold(-1).judges[1].threshold == -1


def test_the_settings_of_a_judge_on_every_way_in() -> None:
    for judge in ("likelihood", {"kind": "likelihood"}, LikelihoodJudge()):
        assert make_config(judge=judge).judge == LikelihoodJudge()
    assert make_config(judge="likelihood", threshold=-3).judge_in_force.threshold == -3
    assert make_config(judge={"reduction": "greedy"}).judge == DigitJudge(reduction="greedy")
    nested = {
        "kind": "cascade",
        "first": "confidence",
        "low": -9,
        "high": -1,
        "then": {"kind": "digit", "threshold": 5},
    }
    assert make_config(judge=nested).judge_in_force.accepts_from == 5
    assert make_config(judge=nested, threshold=6).judge_in_force.accepts_from == 6
    found = Ran(nested)
    assert_audited(found.run)
    assert found.run.manifest["config"]["judge"]["then"] == DigitJudge(threshold=5).model_dump()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"judge": "oracle"}, r"there is no judge 'oracle' here; write one of .*digit.*likelihood.*, or register"),
        ({"judge": {"kind": "likelihood", "treshold": -3}}, r"judge\.treshold = -3 is not allowed"),
        ({"judge": {"kind": "confidence", "threshold": 3}}, r"judge\.threshold = 3 is not allowed: "),
        ({"judge": 7}, "a judge has a kind, and got 7"),
        ({"judge": "confidence", "threshold": 3}, "threshold = 3 is not allowed: the scale of the conf"),
        ({"judge": {"kind": "cascade", "first": "oracle", "low": 0, "high": 1, "then": "digit"}}, "no judge 'oracle'"),
        ({"judge": {"kind": "cascade", "first": "digit", "low": 2, "high": 1, "then": "digit"}}, "low = 2 is above"),
        ({"judge": {"kind": "all_of", "judges": [], "threshold": 1}}, "judges"),
        ({"judge": {"kind": "all_of", "judges": ["digit"], "threshold": 1}}, "no threshold of its own"),
        ({"judge": {"kind": "calibrated", "weights": {"mood": 1}}}, "weights are of some of .* got mood"),
        ({"score_reduction": "greedy"}, r"is now the judge's; write judge\.reduction"),
    ],
)  # fmt: skip
def test_a_bad_judge_is_refused(settings: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        make_config(**settings)


def test_questions_about_other_judges_are_answered_where_the_record_tells() -> None:
    run = Ran(AnyOf(judges=(ConfidenceJudge(threshold=0), LikelihoodJudge()))).run
    assert [change.step for change in what_if(run, judge="likelihood").changed] == []
    other = what_if(run, judge={"kind": "confidence", "threshold": -8})
    assert [(change.step, change.would_be) for change in other.changed] == [
        (1, True),
        (2, False),
        (4, True),
        (5, False),
    ]
    unknown = what_if(run, judge="digit").changed
    assert {change.would_be for change in unknown} == {None}
    assert [(change.step, change.would_be) for change in what_if(run, threshold=-30).changed] == [(1, True), (4, True)]


def test_thresholds_are_compared_on_the_scale_of_the_judge() -> None:
    run = Ran("likelihood").run
    points = {round(point.threshold, 2): point.acceptance for point in curve([run])}
    assert [points[each] for each in (-32, -16, -2, 0)] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert suggest([run] * 200, 0.5).threshold == pytest.approx(-4 * math.sqrt(2), abs=0.01)
    with pytest.raises(ConfigError, match="several judges: digit, likelihood"):
        curve([run, Ran("digit").run])


def test_a_fork_goes_on_under_another_judge_and_both_parts_are_recomputed() -> None:
    first = Ran(Cascade(first=ConfidenceJudge(), low=-10, high=-2.5, then=LikelihoodJudge()))
    with pair() as engines:
        graph = create_specreason(engines).compile(checkpointer=first.saver)
        planned = plan_fork(first.run, engines, at=3, judge="digit")
        graph.invoke(None, fork(graph, "forked", planned))
        (forked,) = read_runs(first.saver, "forked")
        graph.invoke(None, fork(graph, "again", plan_fork(forked, engines, at=5, judge="confidence")))
        (again,) = read_runs(first.saver, "again")
    for run, authors in ((forked, "dbbdbd"), (again, "dbbdbb")):
        assert_audited(run)
        assert "".join(step.author[0] for step in run.steps)[:STEPS] == authors
    lineage = again.typed_manifest.forked_from
    assert lineage is not None
    assert [(each.until, each.judge.kind) for each in lineage.judges] == [(3, "cascade"), (5, "digit")]


def test_a_fork_of_a_fork_keeps_the_digit_of_the_first_steps() -> None:
    first = Ran("digit")
    with pair() as engines:
        graph = create_specreason(engines).compile(checkpointer=first.saver)
        graph.invoke(None, fork(graph, "forked", plan_fork(first.run, engines, at=3, judge="confidence")))
        (forked,) = read_runs(first.saver, "forked")
        graph.invoke(None, fork(graph, "again", plan_fork(forked, engines, at=5, judge="likelihood")))
        (again,) = read_runs(first.saver, "again")
    assert_audited(again)
    lineage = again.typed_manifest.forked_from
    assert lineage is not None
    assert [(each.until, each.judge.kind) for each in lineage.judges] == [(3, "digit"), (5, "confidence")]


@register
class FewWords(Judge):
    """Accepts short steps."""

    needs: ClassVar = ("few_words",)
    kind: Literal["few_words"] = "few_words"
    threshold: float = -4.0

    async def measure(self, asking: Any) -> dict[str, int]:
        """How many words."""
        await asyncio.sleep(0)
        assert asking.before.startswith("<|user|>What is it?")
        return {"words": len(asking.proposal.text.split())}

    def number(self, score: Score) -> float:
        """Fewer are better."""
        return -float(score.found["few_words"]["words"])


def test_a_judge_of_the_callers_own() -> None:
    found = Ran("few_words")
    assert found.authors == "b" * STEPS  # "Step 0 of the draft." has five words
    assert_audited(found.run)
    assert found.steps[0].score is not None
    assert found.steps[0].score.found == {"few_words": {"words": 5}}
    assert Ran({"kind": "few_words", "threshold": -5}).authors == "d" * STEPS
    mixed = Ran(AllOf(judges=(FewWords(threshold=-5), LikelihoodJudge())))
    assert mixed.authors == "dbddbd"
    assert_audited(mixed.run)


@pytest.fixture
def forgotten() -> RecordedRun:
    """A run whose judge is not known when it is audited: another name stands in its place, in a chain made anew."""
    run = Ran({"kind": "few_words", "threshold": -5}).run
    return resealed(run, "few_words", "forgotten")


def test_a_record_of_a_judge_that_is_not_here_is_verified_and_says_what_is_missing(forgotten: RecordedRun) -> None:
    assert (verify(forgotten).ok, verify(forgotten).findings) == (True, [])
    with pytest.raises(ConfigError, match="there is no judge 'forgotten' here; register the class that the run had"):
        recompute(forgotten)
    with pytest.raises(ConfigError, match="there is no judge 'forgotten' here"):
        make_config(judge="forgotten")


def test_nothing_takes_the_place_of_a_judge_that_is_known() -> None:
    with pytest.raises(ConfigError, match="there is a judge 'digit' already: DigitJudge"):
        register(type("Mine", (Judge,), {"__annotations__": {"kind": str}, "kind": "digit"}))


def test_what_nobody_measures_is_refused() -> None:
    @register
    class Wanting(Judge):
        needs: ClassVar = ("mood",)
        kind: Literal["wanting"] = "wanting"
        threshold: float = 0

    with pytest.raises(ConfigError, match="the judge 'wanting' wants 'mood', which nobody measures"):
        Ran(Wanting())


def test_a_class_that_is_not_registered_is_refused_before_anything_is_run() -> None:
    class Unknown(Judge):
        kind: Literal["unknown"] = "unknown"
        threshold: float = 0

    with pytest.raises(ConfigError, match="the judge 'unknown' is not registered; put @register above its class"):
        make_config(judge=Unknown())


def test_the_report_shows_the_evidence_of_other_judges() -> None:
    run = Ran(AllOf(judges=(ConfidenceJudge(), FewWords(threshold=-9), LikelihoodJudge()))).run
    page = Page(render_run(run, verify(run)))
    assert "by likelihood, threshold -8" in page.words
    assert "by confidence, threshold -8" in page.words
    assert "log-probability under the base -20.00" in page.words
    assert "few_words" in page.words
    assert "base: 22 tokens, lowest 40%" in page.words


def changed(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every number and text in a record."""
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from changed(each, (*path, key))
    else:
        yield path


@pytest.mark.parametrize("kind", ["likelihood", "confidence", "entropy", "few_words"])
def test_every_changed_value_of_the_evidence_is_found(kind: str) -> None:
    run = Ran({"kind": kind, "threshold": -1.0 if kind != "few_words" else -9}).run
    score = run.trace[1]["score"]
    places = list(changed(score))
    assert len(places) > 8
    for *path, last in places:
        holder = score
        for key in path:
            holder = holder[key]
        before = holder[last]
        holder[last] = "x" if isinstance(before, str) else 1 if before is None else before - 0.25
        assert not verify(run).ok, (path, last)
        holder[last] = before
    assert verify(run).ok


@pytest.mark.parametrize("name", STRATEGIES)
def test_traces_do_not_depend_on_work_ahead_or_on_a_break(name: str, abacus: EnginePair) -> None:
    questions = [problem.question for problem in held_out()[:3]]
    assert list(differing(abacus, STRATEGIES[name], questions)) == []


def test_a_judge_is_fitted_on_labelled_steps() -> None:
    chance = random.Random(1)
    scores, good = [], []
    for _ in range(60):
        fine = chance.random() < 0.6
        logprob = -chance.uniform(0, 4) - (0 if fine else 3)
        scores.append(Score(base_logprobs=[logprob], draft_logprobs=[-chance.uniform(0, 5)], usage=Usage()))
        good.append(fine)
    judge = fit(scores, good)
    assert set(judge.weights) & {"base_sum", "base_mean", "base_lowest"}
    assert not any(name.startswith("draft") for name in judge.weights)
    numbers = [judge.number(score) for score in scores]
    right, wrong = ([n for n, label in zip(numbers, good, strict=True) if label is of] for of in (True, False))
    assert auroc(right, wrong) > 0.85
    assert sum(n >= 0.5 for n in right) > len(right) / 2 > sum(n >= 0.5 for n in wrong)
    assert make_config(judge=judge.model_dump()).judge == judge
    with pytest.raises(ConfigError, match="there are 0 labelled steps of one label; label 5 of each or more"):
        fit(scores[:9], [True] * 9)
