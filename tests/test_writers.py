"""Writers: who writes the next step, why, and that an auditor and the work ahead find the same; scripted engines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from specreason_graph import EnginePair, create_specreason
from specreason_graph.audit.ask.whatif import what_if
from specreason_graph.audit.check.recompute import recompute
from specreason_graph.audit.check.rerun import rerun
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.fork import fork, plan_fork
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.audit.show.report import render_run
from specreason_graph.cli.options import parse_settings
from specreason_graph.config import make_config, read_config_file
from specreason_graph.errors import ConfigError, EngineError
from specreason_graph.policies.writers import (
    AfterRejectionWriter,
    CuesWriter,
    DraftWriter,
    SeveralWriters,
    TriggersWriter,
)
from specreason_graph.record.seal import head_of, seal_answer, seal_manifest, seal_step
from specreason_graph.strategy import PastStep, Writer, register
from tests.support.counting import Counting, idle
from tests.support.scripts import done, is_closed, judging, writing

STEPS = 9
QUESTION: Any = {"question": "What is it?"}
THREAD: Any = {"configurable": {"thread_id": "written"}}
CUES = {1: "Wait, is that so?", 5: "But hmm, it may be."}
AGAIN = {2: "It is three, as I said.", 4: "It is three, as I said."}
SURE: Any = lambda text: -0.01 * len(text.encode())  # noqa: E731 - the same for each token of one byte


def pair(texts: Mapping[int, str] = MappingProxyType({}), opinions: Sequence[int] = (9,), **script: Any) -> EnginePair:
    """Engines that think nine steps and go by the prompt alone; ``texts``: what the draft writes at some places."""
    usual = writing("draft", STEPS)

    def write(prompt: str) -> str:
        own = None if is_closed(prompt) else texts.get(done(prompt))
        return own + "\n\n" if own else usual(prompt)

    draft = Counting(write, name="draft", delay=0.001, **script)
    return EnginePair(draft, Counting(writing("base", STEPS), judging(opinions), name="base", delay=0.003))


class Ran:
    """A run under a writer, and how often its draft was asked."""

    def __init__(self, writer: Any, script: Mapping[str, Any] = MappingProxyType({}), **settings: Any) -> None:
        self.saver = InMemorySaver()
        with pair(**script) as engines:
            self.graph = create_specreason(engines, writer=writer, **settings).compile(checkpointer=self.saver)
            self.outcome = self.graph.invoke(QUESTION, THREAD)
            assert idle(engines)
            self.drafts = engines.draft.begun  # type: ignore[attr-defined]
        (self.run,) = read_runs(self.saver, "written")

    @property
    def authors(self) -> str:
        """Who wrote each step, as initials; the last one, which ends the thinking, is left out."""
        return "".join(step["author"][0] for step in self.outcome["trace"])[:STEPS]

    @property
    def handed(self) -> dict[int, str]:
        """The steps that the writer handed over, and why."""
        return handed(self.run)


def handed(run: RecordedRun) -> dict[int, str]:
    """The steps of a run that its writer handed over, and why."""
    found = {step.index: step.decision for step in run.steps if step.decision.reason == "writer_chose_base"}
    assert all(step.decision.writer is None for step in run.steps if step.index not in found)
    return {index: str(decision.writer) for index, decision in found.items() if index < STEPS}


def said(outcome: Any) -> list[Any]:
    """What a run came to."""
    return [(s["author"], s["token_ids"], s["seed"], s["decision"], s["discarded"] and s["discarded"]["token_ids"])
            for s in outcome["trace"]] + [outcome["answer"], outcome["stop_reason"]]  # fmt: skip


def assert_audited(run: RecordedRun) -> None:
    """The record is whole, and every decision follows from it."""
    assert (verify(run).ok, verify(run).findings) == (True, [])
    assert recompute(run).differences == []
    assert what_if(run).changed == []


REJECTED = (9, 2, 9, 9, 2, 9, 9, 9, 9)
CASES: list[tuple[Writer, dict[str, Any], str, dict[int, str]]] = [
    (DraftWriter(), {"opinions": (9, 2)}, "dbdbdbdbd", {}),
    (CuesWriter(), {"texts": CUES}, "ddbdddddd", {2: "cues: wait"}),
    (CuesWriter(where="anywhere"), {"texts": CUES}, "ddbdddbdd", {2: "cues: wait", 6: "cues: hmm"}),
    (CuesWriter(steps=2), {"texts": CUES}, "ddbbddddd", {2: "cues: wait", 3: "cues: wait"}),
    (CuesWriter(words=("step  4", "so")), {"texts": CUES}, "dddddbddd", {5: "cues: step 4"}),
    (
        TriggersWriter(confident_above=-0.05, confident_steps=2), {"confidences": SURE}, "bbddbddbd",
        {0: "triggers: plan", 1: "triggers: plan", 4: "triggers: overconfidence", 7: "triggers: overconfidence"},
    ),
    (TriggersWriter(plan_steps=0, confident_steps=1), {}, "ddddddddd", {}),  # -0.1 a token is not too sure
    (
        TriggersWriter(plan_steps=0, confident_above=None), {"texts": AGAIN, "confidences": SURE}, "dddddbddd",
        {5: "triggers: loop, as in step 3"},
    ),
    (
        TriggersWriter(plan_steps=1, confident_above=None, loop_steps=1), {"texts": AGAIN}, "bdddddddd",
        {0: "triggers: plan"},
    ),
    (
        # "Step 0 of the draft." and "Step 1 of the draft.": four words of six
        TriggersWriter(plan_steps=0, confident_above=None, loop_similarity=0.6), {}, "ddbdbdbdb",
        dict.fromkeys((2, 4, 6, 8), "triggers: loop, as in step 1"),
    ),
    (
        AfterRejectionWriter(), {"opinions": REJECTED}, "dbbbbbbdd",
        {index: f"after_rejection: step {2 if index < 4 else 5} was rejected" for index in (2, 3, 5, 6)},
    ),
    (AfterRejectionWriter(probe_every=1), {"opinions": REJECTED}, "dbddbdddd", {}),
    (
        SeveralWriters(writers=(CuesWriter(), AfterRejectionWriter(probe_every=2))),
        {"texts": {1: "Wait, is that so?"}, "opinions": (9, 9, 9, 2, 9, 9, 9, 9, 9)}, "ddbbbdddd",
        {2: "several: cues: wait", 4: "several: after_rejection: step 4 was rejected"},
    ),
]  # fmt: skip


def named(value: Any) -> str:
    """A name for a case."""
    return str(value.kind) if isinstance(value, Writer) else ""


@pytest.mark.parametrize(("writer", "script", "authors", "why"), CASES, ids=named)
def test_a_writer_decides_and_its_decisions_are_recomputed(
    writer: Writer, script: Any, authors: str, why: dict[int, str]
) -> None:
    found = Ran(writer, script)
    assert (found.authors, found.handed) == (authors, why)
    assert_audited(found.run)
    assert found.run.typed_manifest.config.writer == writer
    with pair(**script) as engines:
        assert rerun(found.run, engines).difference is None


@pytest.mark.parametrize(("writer", "script", "authors", "why"), CASES, ids=named)
def test_the_trace_is_the_same_at_every_depth_and_what_is_ahead_knows_who_writes(
    writer: Writer, script: Any, authors: str, why: dict[int, str]
) -> None:
    strict, *others = [Ran(writer, script, lookahead=depth) for depth in (0, 4, None)]
    assert strict.authors == authors
    for ahead in others:
        assert said(ahead.outcome) == said(strict.outcome)
        if "opinions" not in script:  # nothing is rejected: the draft is asked where the writer asks it, and only there
            assert ahead.drafts == strict.drafts


@pytest.mark.parametrize(("writer", "script", "authors", "why"), CASES[2:], ids=named)
@pytest.mark.parametrize("lookahead", [0, 4])
def test_a_run_that_is_left_and_resumed_goes_on_as_if_it_had_not_been(
    writer: Writer, script: Any, authors: str, why: dict[int, str], lookahead: int
) -> None:
    whole = said(Ran(writer, script).outcome)
    for steps in range(1, len(authors), 2):
        saver = InMemorySaver()
        with pair(**script) as engines:
            graph = create_specreason(engines, writer=writer, lookahead=lookahead).compile(checkpointer=saver)
            stream = graph.stream(QUESTION, THREAD, stream_mode="updates")
            for update in stream:
                steps -= bool(update.keys() & {"accept", "regenerate"})
                if not steps:
                    break
            stream.close()  # type: ignore[attr-defined]
            (half,) = read_runs(saver, "written")
            assert verify(half).findings == []
            assert recompute(half).differences == []
        with pair(**script) as engines:  # another process: other engines, and nothing of the lookahead is left
            graph = create_specreason(engines, writer="draft").compile(checkpointer=saver)
            assert said(graph.invoke(None, THREAD)) == whole


def past(text: str = "A step.", author: Any = "draft", logprob: float | None = None, *, asked: bool = True) -> PastStep:
    """A step of a trail."""
    return PastStep(author, asked, text, logprob)


@pytest.mark.parametrize(
    ("writer", "trail", "why"),
    [
        (CuesWriter(), [], None),
        (CuesWriter(), [past('"LET  me\ncheck that')], "let me check"),
        (CuesWriter(), [past("Waiting is no cue.")], None),
        (CuesWriter(), [past("Wait!", "base")], "wait"),  # its own version of a proposal that was rejected
        (CuesWriter(steps=3), [past("Wait!"), past("Hmm.", "base", asked=False)], "wait"),
        (CuesWriter(), [past("Wait!"), past("Hmm.", "base", asked=False)], None),
        (CuesWriter(words=("a+b",)), [past("a+b is it")], "a+b"),
        (TriggersWriter(), [past()], "plan"),
        (TriggersWriter(plan_steps=0), [past(str(n), logprob=-0.01) for n in range(3)], None),
        (TriggersWriter(plan_steps=0), [past(str(n), logprob=-0.01) for n in range(4)], "overconfidence"),
        (TriggersWriter(plan_steps=0), [past(str(n), logprob=-0.02) for n in range(4)], None),
        (TriggersWriter(plan_steps=0), [past(str(n)) for n in range(4)], None),  # not told
        (TriggersWriter(plan_steps=0), [past("x = 1"), past("y", "base"), past("X  =  1")], "loop, as in step 1"),
        (TriggersWriter(plan_steps=0), [past("x = 1"), past("x = 2")], None),
        (TriggersWriter(plan_steps=0), [past("x"), past("x", "base", asked=False)], None),
        (TriggersWriter(plan_steps=0), [past(""), past("")], None),
        (AfterRejectionWriter(), [], None),
        (AfterRejectionWriter(), [past(author="base", asked=False)], None),  # a first step by the base
        (AfterRejectionWriter(), [past(author="human")], "step 1 was rejected"),
        (AfterRejectionWriter(), [past(author="base"), past()], None),
        (AfterRejectionWriter(), [past(author="base"), past(author="base", asked=False)], "step 1 was rejected"),
        (AfterRejectionWriter(), [past(author="base"), *2 * [past(author="base", asked=False)]], None),
    ],
)  # fmt: skip
def test_the_rule_of_a_writer(writer: Writer, trail: list[PastStep], why: str | None) -> None:
    assert writer.handover(trail) == why
    several = SeveralWriters(writers=(DraftWriter(), writer, writer))
    assert several.handover(trail) == (None if why is None else f"{writer.kind}: {why}")


def test_the_draft_tells_its_probabilities_to_a_writer_that_needs_them_and_to_no_other() -> None:
    for writer, told in ((TriggersWriter(), True), (TriggersWriter(confident_above=None), False)):
        step = Ran(SeveralWriters(writers=(CuesWriter(), writer))).run.steps[2]
        assert step.score is not None
        assert (step.score.draft_logprobs is not None) is told


def test_the_other_reasons_of_the_base_go_before_the_writer() -> None:
    first = Ran(TriggersWriter(plan_steps=3, confident_above=None), first_steps_by_base=2)
    reasons = [step.decision.reason for step in first.run.steps]
    assert reasons[:4] == [*2 * ["first_steps_by_base"], "writer_chose_base", "score_reaches_threshold"]
    assert_audited(first.run)

    def fails(prompt: str) -> Exception | None:
        return EngineError("out of memory", engine="draft") if done(prompt) == 4 else None

    failed = Ran("after_rejection", {"opinions": (9, 2), "failure": fails})
    assert failed.authors == "dbbbbbbbb"
    assert set(failed.handed) == {2, 3}
    assert {step.decision.reason for step in failed.run.steps[4:]} == {"draft_failed"}
    assert_audited(failed.run)


def test_under_another_policy_nobody_knows_what_the_writer_would_say_behind_a_change() -> None:
    run = Ran(AfterRejectionWriter(), {"opinions": REJECTED}).run
    assert what_if(run, threshold=8).changed == []
    other = what_if(run, threshold=1).changed
    assert [(each.step, each.would_be) for each in other] == [
        (1, True), (2, None), (3, None), (4, True), (5, None), (6, None),
    ]  # fmt: skip


def test_a_fork_goes_on_under_another_writer_and_both_parts_are_recomputed() -> None:
    first = Ran(AfterRejectionWriter(), {"opinions": REJECTED})
    with pair(CUES, REJECTED) as engines:
        graph = create_specreason(engines).compile(checkpointer=first.saver)
        graph.invoke(None, fork(graph, "forked", plan_fork(first.run, engines, at=3, writer="draft")))
        graph.invoke(None, fork(graph, "same", plan_fork(first.run, engines, at=3)))
        graph.invoke(None, fork(graph, "none", plan_fork(first.run, engines, at=0, writer="triggers")))
    forked, same, none = [read_runs(first.saver, thread)[0] for thread in ("forked", "same", "none")]
    for run in (forked, same, none):
        assert_audited(run)
    assert set(handed(forked)) == {2}
    assert set(handed(same)) == {2, 3, 5, 6}
    assert set(handed(none)) == {0, 1}


def sealed_again(run: RecordedRun, manifest: Any, trace: list[Any], result: Any) -> RecordedRun:
    """A forged record, in a chain made anew."""
    manifest, sealed = seal_manifest(manifest), list[Any]()
    for step in trace:
        sealed.append(seal_step(step, head_of(manifest, sealed)))
    result = seal_answer(result, str(run.stop_reason), head_of(manifest, sealed))
    values = {**run.values, "manifest": manifest, "trace": sealed, "result": result}
    return replace(run, manifest=manifest, trace=sealed, values=values)


def test_a_choice_that_does_not_follow_from_the_steps_is_found() -> None:
    run = Ran(CuesWriter(), {"texts": CUES}).run
    other = json.loads(json.dumps(run.manifest).replace('"wait"', '"so"'))
    assert [each.step for each in recompute(sealed_again(run, other, run.trace, run.result)).differences] == [2]
    trace = json.loads(json.dumps(run.trace).replace("writer_chose_base", "first_steps_by_base"))
    assert [each.step for each in recompute(sealed_again(run, run.manifest, trace, run.result)).differences] == [2]
    trace = json.loads(json.dumps(run.trace).replace("Step 3 of the draft", "Wait 3 of the draft"))
    assert [each.step for each in recompute(sealed_again(run, run.manifest, trace, run.result)).differences] == [4]


def test_a_writer_that_is_put_in_beside_the_ledger_is_found() -> None:
    saver = InMemorySaver()
    with pair(CUES) as engines:
        graph = create_specreason(engines, writer="cues").compile(checkpointer=saver, interrupt_before=["regenerate"])
        graph.invoke(QUESTION, THREAD)
    (run,) = read_runs(saver, "written")
    assert (verify(run).findings, run.progress["handover"]) == ([], "cues: wait")
    run.values["progress"] = {**run.progress, "handover": None}
    assert any("handover: recorded None, computed 'cues: wait'" in each.problem for each in verify(run).findings)


@register
class EveryThird(Writer):
    """The base writes every third step."""

    kind: Literal["every_third"] = "every_third"

    def handover(self, trail: Sequence[PastStep]) -> str | None:
        """When it is its turn."""
        return "its turn" if len(trail) % 3 == 2 else None


def test_a_writer_of_the_callers_own() -> None:
    found = Ran("every_third")
    assert (found.authors, found.handed) == ("ddbddbddb", dict.fromkeys((2, 5, 8), "every_third: its turn"))
    assert_audited(found.run)
    both = Ran(SeveralWriters(writers=(CuesWriter(), EveryThird())), {"texts": CUES})
    assert both.authors == "ddbddbddb"
    assert_audited(both.run)


def test_a_record_of_a_writer_that_is_not_here_is_verified_and_says_what_is_missing() -> None:
    run = Ran("every_third").run
    manifest, trace = json.loads(json.dumps([run.manifest, run.trace]).replace("every_third", "forgotten"))
    forgotten = sealed_again(run, manifest, trace, run.result)
    assert (verify(forgotten).ok, verify(forgotten).findings) == (True, [])
    with pytest.raises(ConfigError, match="there is no writer 'forgotten' here; register the class that the run had"):
        recompute(forgotten)
    assert what_if(forgotten).changed == []


def test_a_writer_says_why_in_words() -> None:
    @register
    class Silent(Writer):
        kind: Literal["silent"] = "silent"

        def handover(self, trail: Sequence[PastStep]) -> Any:
            return bool(trail)

    with pytest.raises(ConfigError, match="the writer 'silent': its reason is False; return a text, or None to ask"):
        Ran(Silent())


@pytest.mark.parametrize(
    ("writer", "problem"),
    [
        ("oracle", r"there is no writer 'oracle' here; write one of .*cues, draft.*, or register"),
        (7, "a writer has a kind, and got 7"),
        ({"kind": "cues", "word": "so"}, r"writer\.word = 'so' is not allowed"),
        ({"kind": "cues", "words": []}, r"writer\.words = \[\] is not allowed"),
        ({"kind": "cues", "words": [" "]}, r"writer\.words\.0 = ' ' is not allowed"),
        ({"kind": "cues", "steps": True}, r"writer\.steps = True is not allowed: true and false"),
        ({"kind": "after_rejection", "probe_every": 0}, r"writer\.probe_every = 0 is not allowed"),
        ({"kind": "triggers", "confident_above": 0.5}, r"writer\.confident_above = 0\.5 is not allowed"),
        ({"kind": "several", "writers": []}, r"writer\.writers = \[\] is not allowed"),
        ({"kind": "several", "writers": ["oracle"]}, "there is no writer 'oracle' here"),
        ({"words": ["so"]}, r"writer\.words = \['so'\] is not allowed"),  # the draft writer has none
    ],
)  # fmt: skip
def test_a_bad_writer_is_refused(writer: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        make_config(writer=writer)


def test_the_settings_of_a_writer_on_every_way_in(tmp_path: Path) -> None:
    wanted = CuesWriter(words=("so", "but"), steps=2)
    table = {"kind": "cues", "words": ["so", "but"], "steps": 2}
    assert make_config(writer=table).writer == wanted
    pairs = ['writer.words=["so", "but"]', "writer=cues", "writer.steps=2"]
    assert make_config(**parse_settings(pairs)).writer == wanted
    assert make_config(**parse_settings([f"writer={json.dumps(table)}"])).writer == wanted
    file = tmp_path / "c.toml"
    file.write_text('[writer]\nkind = "cues"\nwords = ["so", "but"]\nsteps = 2\n')
    assert make_config(**read_config_file(file)).writer == wanted
    assert make_config().writer == DraftWriter()


def test_the_report_says_why_the_base_wrote() -> None:
    run = Ran("cues", {"texts": CUES}).run
    assert "not drafted: the writer has the base write (cues: wait)" in render_run(run)
