"""When the thinking ends: settled answers, words, strategies; with scripted engines."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from specreason_graph import EnginePair, create_specreason
from specreason_graph.audit.ask.whatif import what_if
from specreason_graph.audit.check.recompute import recompute
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.fork import fork, plan_fork
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.cli.options import parse_settings
from specreason_graph.config import make_config, overridden
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import ConfigError
from specreason_graph.judging import DigitJudge
from specreason_graph.policies.stopping import SettledAnswer, Words
from specreason_graph.record.progress import Progress
from specreason_graph.record.records import Proposal, Step, StopReason
from specreason_graph.strategy import Stopping, register
from tests.support.reseal import resealed
from tests.support.scripts import CLOSE, done, is_closed, judging, writing

STEPS, OPINIONS = 12, (9, 2, 8)
THREAD: Any = {"configurable": {"thread_id": "stopped"}}
ANSWERS = ("1", "7", "7", "3", "42", "42", "42", "42")
"""What the base would answer behind so many steps; from the last on always the same."""


def answering(prompt: str) -> str:
    """The base: steps, and behind a closed thinking the answer of that place."""
    if is_closed(prompt):
        return ANSWERS[min(prompt.rpartition("<think>\n")[2].count("\n\n") - 1, len(ANSWERS) - 1)] + "\nBecause of it."
    return writing("base", STEPS)(prompt)


def pair() -> EnginePair:
    """A pair that thinks twelve steps, and whose answer is settled behind the fourth."""
    return EnginePair(
        FakeEngine(writing("draft", STEPS), name="draft"), FakeEngine(answering, judging(OPINIONS), name="base")
    )


def ran(**settings: Any) -> tuple[dict[str, Any], Any, EnginePair]:
    """The outcome, the recorded run and the engines."""
    saver = InMemorySaver()
    with pair() as engines:
        graph = create_specreason(engines, **settings).compile(checkpointer=saver)
        outcome = graph.invoke({"question": "What is it?"}, THREAD)
        (run,) = read_runs(saver, "stopped")
    assert (verify(run).findings, recompute(run).differences, what_if(run).changed) == ([], [], [])
    return outcome, run, engines


def told(outcome: dict[str, Any]) -> list[tuple[str, list[int]]]:
    """Who wrote which tokens."""
    return [(step["author"], step["token_ids"]) for step in outcome["trace"]]


def test_the_thinking_ends_when_the_answer_is_settled() -> None:
    outcome, run, _ = ran(stopping="settled")
    assert [step.probe.text for step in run.steps if step.probe] == ["1", "7", "7", "3", "42", "42", "42"]
    assert (outcome["stop_reason"], outcome["answer"], len(run.steps)) == ("answer_settled", "42\nBecause of it.", 7)
    whole, *_ = ran()
    assert (whole["stop_reason"], len(whole["trace"])) == ("answered", STEPS + 1)
    assert told(outcome) == told(whole)[:7]  # a probe is in no prompt
    probing = [cost for step in run.steps for cost in step.costs if cost.purpose == "probe"]
    assert [cost.usage.calls for cost in probing] == [1] * 7
    assert all("probe" not in step for step in whole["trace"])


@pytest.mark.parametrize(("settings", "steps"), [({"agree": 2}, 3), ({"agree": 4}, 8), ({"agree": 2, "tokens": 1}, 3)])
def test_how_many_probes_have_to_agree(settings: dict[str, int], steps: int) -> None:
    outcome, *_ = ran(stopping=SettledAnswer(**settings))
    assert len(outcome["trace"]) == steps


def test_the_trace_does_not_depend_on_work_ahead() -> None:
    found = [ran(stopping="settled", lookahead=lookahead)[0] for lookahead in (0, 4, None)]
    assert told(found[0]) == told(found[1]) == told(found[2])
    assert {outcome["stop_reason"] for outcome in found} == {"answer_settled"}


def test_the_words_of_a_probe() -> None:
    _, _, engines = ran(stopping=SettledAnswer(prefill="It is {", until="}", tokens=5))
    asked = [call for call in engines.base.calls if call.sampling and call.sampling.stop == ("}",)]  # type: ignore[attr-defined]
    assert {(call.sampling.max_tokens, call.sampling.temperature) for call in asked} == {(5, 0.0)}
    texts = [engines.base.vocabulary.decode(call.prompt_ids) for call in asked]
    assert all(text.endswith(f"{CLOSE}\n\nIt is {{") for text in texts), texts[0][-40:]
    assert sorted(map(done, texts))


def test_a_run_that_is_left_goes_on_with_what_was_probed() -> None:
    saver = InMemorySaver()
    with pair() as engines:
        graph = create_specreason(engines, stopping="settled").compile(checkpointer=saver)
        stream = graph.stream({"question": "What is it?"}, THREAD, stream_mode="values")
        next(state for state in stream if len(state.get("trace", ())) == 6)
        stream.close()  # type: ignore[attr-defined]
        outcome = graph.invoke(None, THREAD)
        (run,) = read_runs(saver, "stopped")
        assert told(outcome) == told(ran(stopping="settled")[0])
        forked = graph.invoke(None, fork(graph, "forked", plan_fork(run, engines, at=5)))
        (other,) = read_runs(saver, "forked")
    for each in (run, other):
        assert (verify(each).findings, recompute(each).differences) == ([], [])
    assert told(forked) == told(outcome)


def test_words_end_the_thinking() -> None:
    outcome, run, _ = ran(stopping=Words(words=("Step 4",)))
    assert (outcome["stop_reason"], len(run.steps)) == ("stopping_rule", 5)


@register
class AfterBase(Stopping):
    """Ends the thinking behind the first step of the base."""

    kind: Literal["after_base"] = "after_base"

    def ends(self, last: Step | Proposal, progress: Progress) -> StopReason | None:
        """Behind such a step."""
        return "stopping_rule" if last.author == "base" and progress.steps else None


def test_a_rule_on_the_command_line() -> None:
    given = parse_settings(["stopping.kind=settled", "stopping.agree=4", "writer=cues", "judge.threshold=5"])
    config = make_config(**given)
    assert (config.stopping, config.writer.kind) == (SettledAnswer(agree=4), "cues")
    assert make_config(**parse_settings(["stopping=settled"])).stopping == SettledAnswer()


def test_a_rule_of_the_callers_own() -> None:
    outcome, *_ = ran(stopping="after_base")
    assert (outcome["stop_reason"], [step["author"] for step in outcome["trace"]]) == (
        "stopping_rule",
        ["draft", "base"],
    )


def test_a_rule_that_is_not_here_is_passed_over_in_verifying_and_named_in_a_replay() -> None:
    _, run, _ = ran(stopping="after_base")
    other = resealed(run, "after_base", "forgotten")
    assert (verify(other).ok, verify(other).findings) == (True, [])
    with pytest.raises(
        ConfigError, match="there is no stopping rule 'forgotten' here; register the class that the run"
    ):
        recompute(other)


def test_a_changed_probe_is_found() -> None:
    _, run, _ = ran(stopping="settled")
    run.trace[5]["probe"]["text"] = "43"
    assert not verify(run).ok
    run.__dict__.pop("steps", None)
    assert {finding.problem.partition(":")[0] for finding in recompute(run).differences} >= {"stop reason", "settled"}


def test_the_strategy_of_the_paper() -> None:
    outcome, run, _ = ran(strategy="paper")
    config = run.typed_manifest.config
    assert (config.lookahead, config.max_step_tokens, config.judge_in_force.threshold) == (0, 512, 7)
    assert isinstance(config.judge, DigitJudge)
    assert config.judge.reduction == "greedy"
    assert config.stopping == Words()
    assert outcome["stop_reason"] == "answered"
    eager = make_config(strategy="paper", threshold=5)
    assert (eager.judge_in_force.threshold, eager.judge) == (5, config.judge)
    assert overridden(make_config(stopping="settled"), {"stopping": {"agree": 5}}).stopping == SettledAnswer(agree=5)
    with pytest.raises(ConfigError, match="there is no strategy 'papre'; write paper"):
        make_config(strategy="papre")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("never", "there is no stopping 'never' here; write one of .*closed, settled, words"),
        ({"kind": "settled", "agree": 1}, r"stopping\.agree = 1 is not allowed"),
        ({"kind": "words", "words": []}, r"stopping\.words = \[\] is not allowed"),
    ],
)
def test_a_bad_rule_is_refused(given: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        make_config(stopping=given)


def test_answers_are_not_probed_where_the_reply_is_the_trace() -> None:
    with pair() as engines, pytest.raises(ConfigError, match="stopping = settled asks for answers behind a thinking"):
        create_specreason(engines, stopping="settled", thinking="none").compile().invoke({"question": "What?"})
