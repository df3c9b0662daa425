"""What a run gained or lost, and the one setting that would have done better, from the record's own seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from specreason_graph import EnginePair, create_specreason
from specreason_graph.audit.ask.advice import advise
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.read.recorded import Finding, RecordedRun
from specreason_graph.audit.show.report import render_run
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.models.abacus.problems import held_out_short

SECONDS = {"draft": 0.1, "score": 0.4, "regenerate": 1.0, "answer": 1.0}
"""What each call is taken to have lasted."""


def recorded(scores: list[Any], drafts: list[str], bases: list[str], **settings: Any) -> RecordedRun:
    """A run in which every call took as long as `SECONDS` says, one after the other."""
    draft = FakeEngine([*(f"{text}\n\n" for text in drafts), "</think>"], name="draft")
    base = FakeEngine([*(f"{text}\n\n" for text in bases), "</think>", "The answer."], scores, name="base")
    saver = InMemorySaver()
    with EnginePair(draft, base) as pair:
        graph = create_specreason(pair, lookahead=0, temperature=0, **settings).compile(checkpointer=saver)
        graph.invoke({"question": "What is it?"}, {"configurable": {"thread_id": "t"}})
    (run,) = read_runs(saver, "t")
    for step in run.trace:
        for cost in step["costs"]:
            cost["usage"]["seconds"] = SECONDS[cost["purpose"]]
        step["elapsed"] = sum(cost["usage"]["seconds"] for cost in step["costs"])
    run.result["usage"]["seconds"] = SECONDS["answer"]
    return RecordedRun("t", "", manifest=run.manifest, trace=run.trace, values=run.values)


def words(number: int) -> str:
    return f"step {number} of the thing that is worked out here at length"


def test_a_run_that_gained_says_so_and_needs_no_other_setting() -> None:
    run = recorded([9] * 4, [words(each) for each in range(4)], [])
    run.manifest["config"]["lookahead"] = None
    found = advise(run)
    assert found is not None
    assert (found.gain > 1.5, found.better) == (True, None)
    assert found.sentences == [
        f"steps took {found.seconds:.2f} s, the base alone about {found.base_only_seconds:.2f} s: "
        f"speculation was {found.gain:.2f} times as fast (estimate)"
    ]


def test_a_run_that_lost_is_told_to_do_without() -> None:
    run = recorded([0] * 3, [words(each) for each in range(3)], [f"another {words(each)}" for each in range(3)])
    found = advise(run)
    assert found is not None
    assert found.better is not None
    assert found.gain < 1
    assert found.better.option == "the base alone (--first-steps-by-base 256)"
    assert "0 of 3 drafted steps got in" in found.sentences[1]
    assert "speculation took" in found.sentences[0]
    page = render_run(run)
    assert "Better: the base alone" in page


def test_rejections_in_vain_speak_for_a_lower_threshold() -> None:
    same = [words(each) for each in range(4)]
    found = advise(recorded([3, 3, 3, 9], same, same[:3]))
    assert found is not None
    assert found.better is not None
    assert found.better.option == "--threshold 0"
    assert found.better.why == "3 rejected steps the base wrote in the same words"


def test_a_run_in_turns_is_told_of_work_ahead() -> None:
    found = advise(recorded([9] * 4, [words(each) for each in range(4)], []))
    assert found is not None
    assert found.better is not None
    assert found.better.option == "--lookahead 4"


@pytest.mark.parametrize("change", ["unfinished", "damaged", "alone"])
def test_no_advice_where_the_record_does_not_tell(change: str) -> None:
    run = recorded([9] * 2, [words(each) for each in range(2)], [])
    if change == "unfinished":
        run.values["result"] = {}
    elif change == "damaged":
        run.findings.append(Finding(step=None, problem="something"))
    else:
        run = recorded([], [], [words(0)], first_steps_by_base=9)
    assert advise(run) is None


def test_solve_says_what_the_run_gained(here: Callable[..., Any]) -> None:
    question = held_out_short()[0].question
    found = here("solve", "--temperature", "0", question)
    assert "(estimate)" in found.stdout.splitlines()[-1]
    advice = json.loads(here("solve", "--json", "--temperature", "0", question).stdout)["advice"]
    assert {"seconds", "base_only_seconds", "better", "gain"} == advice.keys()
