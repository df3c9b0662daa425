"""Runs that must be in time: the answer is there when it is due, others are let go first, and demands are eased."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from specreason_graph import Step, create_specreason
from specreason_graph.audit.check.recompute import recompute
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.config import SpecReasonConfig
from specreason_graph.engines.slots import CallSlots, Priority
from specreason_graph.errors import ConfigError, EngineError
from specreason_graph.lookahead.estimates import CostEstimates
from specreason_graph.policies.deadlines import answer_tokens, judge_in_force, proposals_in_force, slo_ratio
from specreason_graph.record.progress import Progress
from tests.support.counting import QUESTION, idle, slow_pair
from tests.support.recording import THREAD, record
from tests.support.scripts import done, is_closed


def is_judges(prompt: str) -> bool:
    return prompt.endswith("Score: ")


def endless(prompt: str, scored: int = 0) -> Any:
    """A score that does not come, behind some that do; who waits for it waits in vain."""
    in_vain = is_judges(prompt) and done(prompt) > scored
    return asyncio.wait_for(asyncio.Event().wait(), 60) if in_vain else None


def begun_at(run: RecordedRun, seconds: float) -> RecordedRun:
    """The run as if its answer had been begun so early."""
    return replace(run, values={**run.values, "result": {**run.result, "begun": seconds}})


def test_a_step_that_takes_too_long_is_cut_short_and_the_answer_is_written() -> None:
    with slow_pair((9,), draft=0.01) as pair:
        engines: Any = pair.base, pair.draft
        engines[0].at_call = endless
        run: Any = record(pair, deadline_seconds=0.3)
        assert idle(pair)
    assert (run.stop_reason, len(run.steps), run.answer.text, run.answer.forced_close) == (
        "deadline", 0, "The answer.", True,
    )  # fmt: skip
    assert {(cost.purpose, cost.wasted) for cost in run.answer.wasted} >= {("draft", True), ("score", True)}
    assert sum(cost.usage.calls for cost in run.answer.wasted) + 1 == sum(engine.begun for engine in engines)
    assert verify(run).ok
    assert recompute(run).differences == []


def test_the_time_of_a_step_that_was_cut_short_is_used_up_when_the_answer_comes_later() -> None:
    saver = InMemorySaver()
    with slow_pair((9,), draft=0.01) as pair:
        base: Any = pair.base
        base.at_call = partial(endless, scored=1)
        base.failure = lambda prompt: None if is_judges(prompt) else EngineError("it is gone", engine="base")
        graph = create_specreason(pair, deadline_seconds=0.3, lookahead=0).compile(checkpointer=saver)
        with pytest.raises(EngineError, match="it is gone"):
            graph.invoke(QUESTION, THREAD)
        base.at_call, base.failure = lambda _: None, None
        graph.invoke(None, THREAD)
    (run,) = read_runs(saver, "one")
    assert (run.stop_reason, len(run.steps)) == ("deadline", 1)
    assert run.answer
    assert run.answer.begun
    assert recompute(run).differences == []
    assert recompute(begun_at(run, 0.0)).differences  # as it would be if only the time since then counted


def test_time_is_kept_for_the_answer_when_it_is_known_what_one_takes() -> None:
    with slow_pair((9,), draft=0.01, base=0.05, steps=100) as pair:
        first = record(pair, deadline_seconds=1000.0, max_steps=2)
        run: Any = record(pair, deadline_seconds=0.8, max_steps=100)
    assert [step.reserve for step in first.steps] == [0.0, 0.0]  # nobody has answered yet
    assert all(step.reserve for step in run.steps)
    assert run.answer.reserve
    assert run.stop_reason == "deadline"
    assert 0 < len(run.steps) < 100
    assert recompute(run).differences == []


def test_no_step_is_begun_where_there_is_time_for_the_answer_only() -> None:
    with slow_pair((9,), draft=0.001, base=0.001) as pair:
        base: Any = pair.base
        base.at_call = lambda prompt: asyncio.sleep(0.3) if is_closed(prompt) else None
        assert len(record(pair, deadline_seconds=1000.0, max_steps=2).steps) == 2
        run = record(pair, deadline_seconds=0.2, max_steps=2)
    assert (run.stop_reason, run.steps) == ("deadline", [])


def test_a_deadline_that_is_not_reached_changes_nothing() -> None:
    with slow_pair((9, 9, 5, 9)) as pair:
        told = []
        for deadline in (None, 1000.0, None, 1000.0):  # the pair is as it was, then as runs have left it
            run: Any = record(pair, deadline_seconds=deadline, threshold_floor=4, proposals=2, seed=3)
            steps = [(s.author, s.token_ids, s.seed, s.decision, s.tokens_left) for s in run.steps]
            drafted = {call.sampling for call in pair.draft.calls}  # type: ignore[attr-defined]
            answered = pair.base.calls[-1]  # type: ignore[attr-defined]
            told.append((steps, run.stop_reason, run.answer.token_ids, run.answer.forced_close, answered, drafted))
            pair.draft.calls.clear()  # type: ignore[attr-defined]
    assert len(told[0][0]) == 13
    assert told[1:] == told[:-1]


def test_a_stop_that_the_clock_does_not_bear_out_is_found() -> None:
    with slow_pair((9,), draft=0.01, base=0.05, steps=100) as pair:
        run = record(pair, deadline_seconds=0.6)
    assert run.stop_reason == "deadline"
    assert recompute(run).differences == []
    hasty = replace(begun_at(run, 0.1), trace=[{**step, "elapsed": 0.001} for step in run.trace])
    assert any("stop reason" in found.problem for found in recompute(hasty).differences)


def ratio(
    config: SpecReasonConfig, step: float, seconds: float = 0.0, steps: int = 0, average: float | None = None
) -> float:
    return slo_ratio(config, Progress(seconds=seconds, steps=steps), step_seconds=step, average_steps=average)


def test_a_run_that_is_late_asks_for_less() -> None:
    config = SpecReasonConfig(threshold=7, threshold_floor=3, proposals=4, step_seconds=1.0)
    late = [ratio(config, each) for each in (0.5, 1.0, 1.5, 2.0, 9.0)]
    assert late == [0.5, 1.0, 1.5, 2.0, 9.0]
    assert [judge_in_force(config, each).accepts_from for each in late] == [7, 7, 5, 3, 3]
    assert [proposals_in_force(config, each) for each in late] == [4, 4, 1, 1, 1]
    strict = SpecReasonConfig(threshold=7, step_seconds=1.0)
    assert judge_in_force(strict, 9.0).accepts_from == 7


def test_a_deadline_is_dealt_out_to_the_steps_that_runs_take() -> None:
    config = SpecReasonConfig(deadline_seconds=10.0)
    assert ratio(config, 1.0) == 0.0  # nobody knows how many steps there will be
    assert ratio(config, 1.0, average=10.0) == pytest.approx(1.0)
    assert ratio(config, 1.0, seconds=5.0, average=10.0) == pytest.approx(2.0)
    assert ratio(config, 1.0, seconds=5.0, steps=8, average=10.0) == pytest.approx(0.4)


def test_an_answer_is_as_long_as_there_is_time_for() -> None:
    config, known = SpecReasonConfig(answer_tokens=500), CostEstimates()
    assert answer_tokens(config, 1.0, known.token_seconds) == 500  # the base has not written yet
    known.took("regenerate", 1.0, 100)
    found = [answer_tokens(config, left, known.token_seconds) for left in (None, 100.0, 1.0, 0.01, -5.0)]
    assert found == [500, 500, 100, 16, 16]


def test_the_threshold_that_was_eased_stands_in_the_decision() -> None:
    with slow_pair((5,), draft=0.01, base=0.03, steps=20) as pair:
        run = record(pair, step_seconds=0.001, threshold=7, threshold_floor=4)
    scored = [step for step in run.steps if step.score]
    assert (scored[0].decision.accepted, scored[0].decision.threshold) == (False, 7)
    assert (scored[-1].decision.accepted, scored[-1].decision.threshold) == (True, 4)
    assert recompute(run).differences == []


def test_a_threshold_below_the_floor_is_found() -> None:
    with slow_pair((5,), draft=0.01, base=0.03) as pair:
        run = record(pair, step_seconds=0.001, threshold=7, threshold_floor=4)
    run.trace[-2]["decision"]["threshold"] = 2.0
    assert any("threshold" in found.problem for found in recompute(run).differences)


def test_a_floor_above_the_threshold_is_refused() -> None:
    with pytest.raises(ConfigError, match="threshold_floor = 8 is above threshold = 7"), slow_pair() as pair:
        create_specreason(pair, threshold_floor=8)


async def taken(slots: CallSlots, order: list[str], name: str, priority: Priority) -> None:
    async with slots.slot(priority):
        order.append(name)
        await asyncio.sleep(0.001)


async def test_the_highest_priority_is_let_in_first() -> None:
    slots, order = CallSlots(1), list[str]()
    priorities = {"x": 9.0, "a": 3.0, "b": 2.0, "c": 1.0, "d": 3.0}
    await asyncio.gather(*(taken(slots, order, name, partial(float, each)) for name, each in priorities.items()))
    assert "".join(order) == "xcbad"


async def test_who_becomes_urgent_while_waiting_is_let_in_first() -> None:
    slots, order = CallSlots(1), list[str]()
    tasks = [asyncio.create_task(taken(slots, order, name, lambda: 5.0)) for name in "abd"]
    tasks.append(asyncio.create_task(taken(slots, order, "c", lambda: 1.0 if "b" in order else 9.0)))
    await asyncio.gather(*tasks)
    assert "".join(order) == "abcd"


async def test_work_ahead_that_a_run_has_come_up_to_is_as_urgent_as_the_run() -> None:
    with slow_pair((9,), draft=0.004, base=0.004, steps=12, max_concurrency=1) as pair:
        graph = create_specreason(pair).compile()
        ended = list[str]()

        async def ask(name: str, **knobs: float) -> None:
            await graph.ainvoke({"question": name}, {"configurable": {"specreason": knobs}})
            ended.append(name)

        others = [ask(f"other {n}", step_seconds=8.0, lookahead=0) for n in range(6)]
        await asyncio.gather(*others, ask("urgent", deadline_seconds=6.0, lookahead=4))
        assert ended[0] == "urgent"


async def test_who_leaves_the_queue_leaves_no_gap() -> None:
    slots, order, leave = CallSlots(1), list[str](), asyncio.Event()

    async def first() -> None:
        async with slots.slot(lambda: 1.0):
            order.append("a")
            await leave.wait()

    tasks = [asyncio.create_task(first())]
    tasks += [asyncio.create_task(taken(slots, order, name, lambda: 1.0)) for name in "bcde"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    leave.set()
    await asyncio.sleep(0)  # the slot has been given to c, who has not woken up yet
    tasks[2].cancel()
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert [task.cancelled() for task in tasks] == [False, True, True, False, False]
    async with asyncio.timeout(5), slots.slot(lambda: 1.0):
        assert order == ["a", "d", "e"]


@pytest.mark.parametrize("most", [1, 3])
def test_an_engine_works_on_as_many_calls_at_once_as_it_has_places(most: int) -> None:
    with slow_pair((9, 9, 9, 2), max_concurrency=most) as pair:
        outcome = create_specreason(pair, lookahead=8).compile().invoke(QUESTION)
        assert pair.base.most == most  # type: ignore[attr-defined]
    assert Step.load(outcome["trace"][-1]).ending == "think_end"
