"""Work ahead of the commit point: the same trace with it, nothing of it left, and what it cost in the evidence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from specreason_graph import EnginePair, Step, create_specreason
from specreason_graph.audit.check.recompute import recompute
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.config import Band
from specreason_graph.engines.base import Completion
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.lookahead.estimates import CostEstimates
from specreason_graph.lookahead.registry import LookaheadRegistry
from specreason_graph.models.abacus.problems import held_out
from tests.fuzz.cancellations import leave_runs
from tests.support.counting import QUESTION, STEPS, Counting, idle, slow_pair
from tests.support.scripts import done, writing
from tests.support.waiting import until

DEPTHS = (0, 1, 4, None)


@pytest.fixture
def pair() -> Iterator[EnginePair]:
    with slow_pair() as opened:
        yield opened


def said(outcome: Any) -> list[Any]:
    return [(s["author"], s["token_ids"], s["seed"], s["decision"], s["discarded"] and s["discarded"]["token_ids"])
            for s in outcome["trace"]] + [outcome["answer"], outcome["stop_reason"]]  # fmt: skip


@pytest.mark.parametrize("opinions", [(9,), (9, 9, 9, 2), (2, 9), (2,), (5, 6, 9)])
def test_the_trace_is_the_same_at_every_depth(opinions: tuple[int, ...]) -> None:
    told = []
    for depth in DEPTHS:
        with slow_pair(opinions) as pair:
            told.append(said(create_specreason(pair, lookahead=depth).compile().invoke(QUESTION)))
            assert idle(pair)
    assert len(told[0]) == STEPS + 3
    assert all(each == told[0] for each in told)


def test_the_reference_pair_commits_the_same_at_every_depth(abacus: EnginePair) -> None:
    graph = create_specreason(abacus).compile()
    for number, problem in enumerate(held_out()[200:204]):
        told = [
            [(step.author, step.token_ids, step.decision.reason) for step in map(Step.load, outcome["trace"])]
            for depth in DEPTHS
            for outcome in [graph.invoke({"question": problem.question}, settings(lookahead=depth, seed=number))]
        ]
        assert all(each == told[0] for each in told)


def settings(**knobs: Any) -> Any:
    return {"configurable": {"specreason": knobs}}


def test_the_draft_writes_while_the_base_judges(pair: Any) -> None:
    create_specreason(pair, lookahead=4).compile().invoke(QUESTION)
    assert pair.base.most >= 2  # scores of several steps at once
    with slow_pair() as strict:
        create_specreason(strict, lookahead=0).compile().invoke(QUESTION)
        assert strict.base.most == strict.draft.most == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("runs", "room", "depth", "goes_ahead"),
    [(1, 1, None, False), (1, 2, None, True), (3, 2, None, False), (3, 2, 4, True), (3, 4, None, True)],
)
def test_work_that_may_be_wasted_takes_no_slot_from_other_runs(
    pair: Any, runs: int, room: int, depth: int | None, goes_ahead: bool
) -> None:
    unverified: list[bool] = []

    def look(_: str) -> None:
        nodes = [node for each in LookaheadRegistry.of(pair).lookaheads.values() for node in each.node.subtree()]
        unverified.extend(bool(node.calls) and not node.verified for node in nodes)

    pair.base.max_concurrency = pair.draft.max_concurrency = room
    pair.base.at_call = pair.draft.at_call = look
    asyncio.run(create_specreason(pair, lookahead=depth).compile().abatch([QUESTION] * runs))
    assert max(pair.base.most, pair.draft.most) <= room
    assert any(unverified) is goes_ahead


def test_the_base_starts_early_as_soon_as_the_steps_before_are_decided() -> None:
    depths: list[int] = []

    def look(_: str) -> None:
        for each in LookaheadRegistry.of(hedging).lookaheads.values():
            nodes = [node for node in each.node.subtree() if ("regenerate",) in node.calls]
            depths.extend(node.unverified_depth for node in nodes if node is not each.node and not node.decided)

    with slow_pair((2, 9, 2, 9, 2), steps=40) as hedging:
        hedging.base.at_call = hedging.draft.at_call = look  # type: ignore[attr-defined]
        create_specreason(hedging, lookahead=4).compile().invoke(QUESTION)
    assert depths
    assert not any(depths)


def test_no_call_is_made_twice(pair: Any) -> None:
    create_specreason(pair, lookahead=4).compile().invoke(QUESTION)
    for engine in (pair.base, pair.draft):
        asked = [(call.kind, tuple(call.prompt_ids)) for call in engine.calls]
        assert len(asked) == len(set(asked))


def test_wasted_work_is_charged_to_the_step_that_made_it_so(pair: Any) -> None:
    outcome = create_specreason(pair, lookahead=4).compile().invoke(QUESTION)
    steps = [Step.load(step) for step in outcome["trace"]]
    wasted = {step.index: [cost for cost in step.costs if cost.wasted] for step in steps}
    assert any(wasted.values())
    for index, costs in wasted.items():  # where the draft got in, only what the base had begun was for nothing
        assert steps[index].author == "base" or {cost.purpose for cost in costs} <= {"regenerate"}
    paid = sum(cost.usage.calls for step in steps for cost in step.costs) + 1  # the answer
    assert paid == len(pair.base.calls) + len(pair.draft.calls)
    totals = outcome["trace_summary"]
    assert totals["discarded"]["calls"] == sum(step.discarded is not None for step in steps)
    assert totals["wasted"]["calls"] == sum(map(len, wasted.values()))


def test_without_rejections_nothing_is_wasted() -> None:
    with slow_pair((9,)) as pair:
        outcome = create_specreason(pair, lookahead=8).compile().invoke(QUESTION)
    assert not any(cost["wasted"] for step in outcome["trace"] for cost in step["costs"])


def test_records_of_work_ahead_hold_in_the_audit(pair: EnginePair) -> None:
    saver = InMemorySaver()
    graph = create_specreason(pair, lookahead=4).compile(checkpointer=saver)
    graph.invoke(QUESTION, {"configurable": {"thread_id": "one"}})
    (run,) = read_runs(saver, "one")
    assert verify(run).ok
    assert recompute(run).differences == []
    assert None not in [step.elapsed for step in run.steps]


def test_a_lookahead_goes_no_farther_than_it_is_told() -> None:
    for depth in (1, 2, 5):
        with slow_pair((9,), draft=0.0, base=0.05) as pair:
            create_specreason(pair, lookahead=depth).compile().invoke(QUESTION)
            assert pair.base.most == depth + 1  # type: ignore[attr-defined]  # its own score and those ahead


def test_who_leaves_a_stream_leaves_no_work(pair: Any) -> None:
    stream = create_specreason(pair, lookahead=8).compile().stream(QUESTION, stream_mode="updates")
    for update in stream:
        if "accept" in update:
            break
    stream.close()  # type: ignore[attr-defined]
    assert idle(pair)
    assert LookaheadRegistry.of(pair).runs == 0


async def test_a_cancelled_run_leaves_no_work() -> None:
    with slow_pair(base=0.05) as pair:
        base: Any = pair.base
        task = asyncio.create_task(create_specreason(pair, lookahead=8).compile().ainvoke(QUESTION))
        await until(lambda: base.running > 0 and base.begun > 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(idle, pair)
        assert LookaheadRegistry.of(pair).runs == 0


@pytest.mark.parametrize("depth", [0, 8])
async def test_who_leaves_a_stream_late_does_not_end_the_run_that_was_resumed(depth: int) -> None:
    with slow_pair(base=0.05) as pair:
        graph = create_specreason(pair, lookahead=depth).compile(checkpointer=InMemorySaver())
        config: Any = {"configurable": {"thread_id": "one"}}
        left = graph.astream(QUESTION, config, stream_mode="updates")
        async for update in left:
            if "accept" in update:
                break
        base: Any = pair.base
        begun, resumed = base.begun, asyncio.create_task(graph.ainvoke(None, config))
        await until(lambda: base.begun > begun + 1)
        await left.aclose()  # type: ignore[attr-defined]
        outcome = await resumed
        assert (outcome["answer"], outcome["stop_reason"]) == ("The answer.", "answered")
        assert await asyncio.to_thread(idle, pair)
        assert LookaheadRegistry.of(pair).runs == 0


def test_a_run_that_waits_for_a_human_leaves_no_work_and_goes_on() -> None:
    with slow_pair((9, 9, 6)) as pair:
        saver = InMemorySaver()
        graph = create_specreason(pair, lookahead=8, review=Band(low=5, high=7)).compile(checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "one"}}
        outcome = graph.invoke(QUESTION, config)
        assert outcome["__interrupt__"]
        assert idle(pair)
        assert LookaheadRegistry.of(pair).runs == 0


@pytest.mark.parametrize("depth", [0, 8])
def test_what_a_step_took_before_a_human_was_asked_counts(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0], monotonic=time.monotonic)
    monkeypatch.setattr("specreason_graph.lookahead.commit_point.time", clock)

    def doubts(prompt: str) -> int:
        if done(prompt) != 3:
            return 9
        now[0] = 5.0  # the score that leads to the human takes so long
        return 6

    draft, base = Counting(writing("draft", STEPS), name="draft"), Counting(writing("base", STEPS), doubts, name="base")
    with EnginePair(draft, base) as pair:
        graph = create_specreason(pair, lookahead=depth, review=Band(low=5, high=7)).compile(
            checkpointer=InMemorySaver()
        )
        config: Any = {"configurable": {"thread_id": "one"}}
        graph.invoke(QUESTION, config)
        begun = base.begun + draft.begun
        now[0] += 1000.0  # the human takes their time, which does not count
        outcome = graph.invoke(Command(resume="accept"), config)
    steps = [Step.load(step) for step in outcome["trace"][:3]]
    costs = [cost for step in steps for cost in step.costs]
    assert sum(cost.usage.calls for cost in costs) == begun
    assert any(cost.wasted for cost in steps[2].costs) == (depth > 0)
    assert sum(step.elapsed or 0.0 for step in steps) == 5.0
    assert depth or [step.elapsed for step in steps] == [0.0, 0.0, 5.0]


async def test_a_stream_that_is_left_after_its_pair_was_closed_leaves_no_lookahead() -> None:
    async with slow_pair() as pair:
        stream = create_specreason(pair, lookahead=8).compile().astream(QUESTION, stream_mode="updates")
        async for update in stream:
            if "accept" in update:
                break
    await stream.aclose()  # type: ignore[attr-defined]
    assert LookaheadRegistry.of(pair).runs == 0


def test_a_run_of_the_first_schema_works_ahead_like_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specreason_graph.record.state.seal_manifest", lambda manifest: manifest)
    with slow_pair((9,), draft=0.0, base=0.05) as pair:
        outcome = create_specreason(pair, lookahead=4).compile().invoke(QUESTION)
        assert pair.base.most == 5  # type: ignore[attr-defined]  # its own score and those ahead
    assert outcome["trace"][0].get("hash") is None


def test_what_a_stage_waits_for_is_not_stopped_by_work_ahead() -> None:
    saver = InMemorySaver()
    thread: Any = {"configurable": {"thread_id": "one"}}
    with slow_pair() as usual, EnginePair(FakeEngine(lambda _: "", name="draft"), usual.base) as blank:
        create_specreason(blank).compile(checkpointer=saver, interrupt_before=["regenerate"]).invoke(QUESTION, thread)
    with slow_pair((9,), draft=0.001, base=0.001) as back:  # the draft writes again, and quicker than the base
        write = back.base.generate

        async def late(*given: Any) -> Completion:
            await asyncio.sleep(0.1)
            return await write(*given)

        back.base.generate = late  # type: ignore[assignment, method-assign]
        outcome = create_specreason(back).compile(checkpointer=saver).invoke(None, thread)
    assert outcome["trace"][0]["author"] == "base"
    assert outcome["answer"]


def test_an_engine_that_fails_ahead_is_asked_again() -> None:
    with slow_pair((9,)) as pair:
        failed: list[bool] = []

        def fails_once(prompt: str) -> Exception | None:
            if failed or done(prompt) != 5:
                return None
            failed.append(True)
            return RuntimeError("out of memory")

        pair.draft.failure = fails_once  # type: ignore[attr-defined]
        outcome = create_specreason(pair, lookahead=8).compile().invoke(QUESTION)
    assert failed
    assert outcome["stop_reason"] == "answered"
    assert len(outcome["trace"]) == STEPS + 1


def known(draft: float, score: float) -> CostEstimates:
    estimates = CostEstimates()
    estimates.took("draft", draft)
    estimates.took("score", score)
    return estimates


def depth(estimates: CostEstimates, runs: int) -> int:
    """Steps that nobody has scored yet and that have another one drafted behind them, 8 at most."""
    return sum(estimates.pays_ahead(estimates.acceptance**steps, runs) for steps in range(1, 9))


def test_depth_follows_acceptance_and_costs() -> None:
    estimates = known(0.01, 0.02)
    for _ in range(50):
        estimates.scored(accepted=True, after_rejection=False)
    assert depth(estimates, 1) == 8
    depths = []
    for _ in range(12):
        estimates.scored(accepted=False, after_rejection=False)
        depths.append(depth(estimates, 1))
    assert depths == sorted(depths, reverse=True)
    assert depths[-1] == 0
    assert 0 < depth(CostEstimates(), 1) <= 8


def test_depth_is_less_the_more_runs_there_are() -> None:
    depths = [depth(known(0.02, 0.01), runs) for runs in (1, 4, 16, 64, 256)]
    assert depths == sorted(depths, reverse=True)
    assert (depths[0] > 2, depths[-1]) == (True, 0)


def test_a_run_begins_with_the_estimates_of_its_pair() -> None:
    whole = CostEstimates(weight=0.02)
    for _ in range(400):
        CostEstimates(whole).scored(accepted=False, after_rejection=False)
    assert CostEstimates(whole).acceptance < 0.05


def test_acceptance_behind_a_rejection_is_kept_apart() -> None:
    estimates = known(0.1, 0.1)
    estimates.took("regenerate", 0.1, 10)
    for _ in range(50):
        estimates.scored(accepted=True, after_rejection=False)
        estimates.scored(accepted=False, after_rejection=True)
    kept, lost = (estimates.likelihood(after_rejection=after) for after in (False, True))
    assert (kept > 0.99, lost < 0.01) == (True, True)
    assert not estimates.pays_to_hedge(kept, 1)
    assert estimates.pays_to_hedge(lost, 1)  # behind a rejection the base goes on at once


def test_the_base_hedges_where_a_rejection_is_likely() -> None:
    estimates = CostEstimates()
    assert not estimates.pays_to_hedge(0.5, 1)  # nobody knows yet how fast the base is
    for purpose in ("draft", "score", "regenerate"):
        estimates.took(purpose, 0.1, 10)
    assert estimates.pays_to_hedge(0.5, 1)
    assert not estimates.pays_to_hedge(0.5, 64)  # others would have to wait
    assert not estimates.pays_to_hedge(1.0, 1)


def test_a_clock_that_is_set_back_makes_no_seconds_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    hours, clock = iter(range(10**6)), time.time
    monkeypatch.setattr(time, "time", lambda: clock() - 3600 * next(hours))  # set back at each look
    with slow_pair((2, 9)) as pair:
        outcome = create_specreason(pair, lookahead=4).compile().invoke(QUESTION)
    costs = [cost for step in map(Step.load, outcome["trace"]) for cost in step.costs]
    assert any(cost.wasted for cost in costs)
    assert all(0 <= cost.usage.seconds < 60 for cost in costs)
    assert 0 <= outcome["trace_summary"]["wasted"]["seconds"] < 60


def test_runs_that_are_left_at_random_instants_are_under_way_no_longer() -> None:
    for seed in range(2):
        assert leave_runs(seed, 200) == (0, []), f"seed {seed}"


async def test_a_run_that_waits_for_a_human_is_not_under_way() -> None:
    with slow_pair((9,), steps=6) as pair:
        graph = create_specreason(pair, review=Band(low=9, high=9)).compile(InMemorySaver())
        thread: Any = {"configurable": {"thread_id": "reviewed"}}
        assert "__interrupt__" in await graph.ainvoke(QUESTION, thread)
        assert LookaheadRegistry.of(pair).runs == 0
