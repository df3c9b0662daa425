"""Work ahead of the commit point: the same trace with it, nothing of it left, and what it cost in the evidence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from specreason_graph import EnginePair, Step, create_specreason
from specreason_graph.audit.reader import read_runs
from specreason_graph.audit.replay import replay
from specreason_graph.audit.verify import verify
from specreason_graph.config import Band
from specreason_graph.engines.base import Completion, NextToken, Sampling
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.policies.pace import Pace
from specreason_graph.positions import Prompt
from specreason_graph.windows import windows_of
from tests.audited import CLOSE

QUESTION: Any = {"question": "What?"}
STEPS = 12
DEPTHS = (0, 1, 4, None)


def done(prompt: str) -> int:
    """Steps that stand in a prompt; the judge's has another opened thinking behind them."""
    return prompt.count("\n\n")


class Slow(FakeEngine):
    """Takes its time over every call, and keeps count of those that are under way."""

    running = most = finished = begun = 0
    enters: Callable[[], None] = staticmethod(lambda: None)

    async def generate(self, prompt_ids: Any, sampling: Sampling, on_token: Any = None) -> Completion:
        with self:
            return await super().generate(prompt_ids, sampling, on_token)

    async def next_token(self, prompt_ids: Any, candidates: Any) -> NextToken:
        with self:
            return await super().next_token(prompt_ids, candidates)

    def __enter__(self) -> None:
        self.running += 1
        self.begun += 1
        self.most = max(self.most, self.running)
        self.enters()

    def __exit__(self, kind: object, *_: object) -> None:
        self.running -= 1
        self.finished += kind is None


def slow_pair(
    opinions: tuple[int, ...] = (9, 9, 9, 2), draft: float = 0.003, base: float = 0.01, steps: int = STEPS
) -> EnginePair:
    """A pair that thinks ``steps`` steps and says the same to the same prompt, however often it is asked."""

    def write(prompt: str, author: str) -> str:
        if CLOSE in prompt.rpartition("<think>\n")[2]:
            return "The answer."
        return f"Step {done(prompt)} of the {author}.\n\n" if done(prompt) < steps else CLOSE

    def judge(prompt: str) -> int:
        return opinions[(done(prompt) - 1) % len(opinions)]

    drafting = Slow(lambda prompt: write(prompt, "draft"), name="draft", delay=draft)
    return EnginePair(drafting, Slow(lambda prompt: write(prompt, "base"), judge, name="base", delay=base))


@pytest.fixture
def pair() -> Iterator[EnginePair]:
    with slow_pair() as opened:
        yield opened


def said(outcome: Any) -> list[Any]:
    return [(s["author"], s["token_ids"], s["seed"], s["decision"], s["discarded"] and s["discarded"]["token_ids"])
            for s in outcome["trace"]] + [outcome["answer"], outcome["stop_reason"]]  # fmt: skip


def idle(pair: Any) -> bool:
    """Whether both engines have nothing to do, now or within a second."""
    until = time.monotonic() + 1
    while (pair.base.running or pair.draft.running) and time.monotonic() < until:
        time.sleep(0.01)
    return not pair.base.running and not pair.draft.running


@pytest.mark.parametrize("opinions", [(9,), (9, 9, 9, 2), (2, 9), (2,), (5, 6, 9)])
def test_the_trace_is_the_same_at_every_depth(opinions: tuple[int, ...]) -> None:
    told = []
    for depth in DEPTHS:
        with slow_pair(opinions) as pair:
            told.append(said(create_specreason(pair, window=depth).compile().invoke(QUESTION)))
            assert idle(pair)
    assert len(told[0]) == STEPS + 3
    assert all(each == told[0] for each in told)


def test_the_reference_pair_commits_the_same_at_every_depth(abacus: EnginePair) -> None:
    graph = create_specreason(abacus).compile()
    for number, problem in enumerate(held_out()[200:204]):
        told = [
            [(step.author, step.token_ids, step.decision.reason) for step in map(Step.load, outcome["trace"])]
            for depth in DEPTHS
            for outcome in [graph.invoke({"question": problem.question}, settings(window=depth, seed=number))]
        ]
        assert all(each == told[0] for each in told)


def settings(**knobs: Any) -> Any:
    return {"configurable": {"specreason": knobs}}


def test_the_draft_writes_while_the_base_judges(pair: Any) -> None:
    create_specreason(pair, window=4).compile().invoke(QUESTION)
    assert pair.base.most >= 2  # scores of several steps at once
    with slow_pair() as strict:
        create_specreason(strict, window=0).compile().invoke(QUESTION)
        assert strict.base.most == strict.draft.most == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("runs", "room", "depth", "goes_ahead"),
    [(1, 1, None, False), (1, 2, None, True), (3, 2, None, False), (3, 2, 4, True), (3, 4, None, True)],
)
def test_work_that_may_be_in_vain_takes_no_place_from_other_runs(
    pair: Any, runs: int, room: int, depth: int | None, goes_ahead: bool
) -> None:
    doubtful: list[bool] = []

    def look() -> None:
        places = [place for window in windows_of(pair)._open.values() for place in window.at.everywhere()]
        doubtful.extend(bool(place.calls) and not place.standing for place in places)

    pair.base.at_once = pair.draft.at_once = room
    pair.base.enters = pair.draft.enters = look
    asyncio.run(create_specreason(pair, window=depth).compile().abatch([QUESTION] * runs))
    assert max(pair.base.most, pair.draft.most) <= room
    assert any(doubtful) is goes_ahead


def test_the_base_starts_early_as_soon_as_the_steps_before_are_decided() -> None:
    doubts: list[int] = []

    def look() -> None:
        for window in windows_of(racing)._open.values():
            places = [place for place in window.at.everywhere() if ("regenerate",) in place.calls]
            doubts.extend(place.doubtful for place in places if place is not window.at and not place.decided)

    with slow_pair((2, 9, 2, 9, 2), steps=40) as racing:
        racing.base.enters = racing.draft.enters = look  # type: ignore[attr-defined]
        create_specreason(racing, window=4).compile().invoke(QUESTION)
    assert doubts
    assert not any(doubts)


def test_no_call_is_made_twice(pair: Any) -> None:
    create_specreason(pair, window=4).compile().invoke(QUESTION)
    for engine in (pair.base, pair.draft):
        asked = [(call.kind, tuple(call.prompt_ids)) for call in engine.calls]
        assert len(asked) == len(set(asked))


def test_work_done_in_vain_is_charged_to_the_step_that_made_it_so(pair: Any) -> None:
    outcome = create_specreason(pair, window=4).compile().invoke(QUESTION)
    steps = [Step.load(step) for step in outcome["trace"]]
    lost = {step.index: [cost for cost in step.costs if cost.lost] for step in steps}
    assert any(lost.values())
    for index, costs in lost.items():  # where the draft got in, only what the base had begun was for nothing
        assert steps[index].author == "base" or {cost.purpose for cost in costs} <= {"regenerate"}
    paid = sum(cost.usage.calls for step in steps for cost in step.costs) + 1  # the answer
    assert paid == len(pair.base.calls) + len(pair.draft.calls)
    totals = outcome["trace_summary"]
    assert totals["discarded"]["calls"] == sum(step.discarded is not None for step in steps)
    assert totals["lost"]["calls"] == sum(map(len, lost.values()))


def test_without_rejections_nothing_is_in_vain() -> None:
    with slow_pair((9,)) as pair:
        outcome = create_specreason(pair, window=8).compile().invoke(QUESTION)
    assert not any(cost["lost"] for step in outcome["trace"] for cost in step["costs"])


def test_records_of_work_ahead_hold_in_the_audit(pair: EnginePair) -> None:
    saver = InMemorySaver()
    graph = create_specreason(pair, window=4).compile(checkpointer=saver)
    graph.invoke(QUESTION, {"configurable": {"thread_id": "one"}})
    (run,) = read_runs(saver, "one")
    assert verify(run).ok
    assert replay(run).differences == []
    assert all(step.elapsed and step.elapsed > 0 for step in run.steps)


def test_a_window_goes_no_farther_than_it_is_told() -> None:
    for depth in (1, 2, 5):
        with slow_pair((9,), draft=0.0, base=0.05) as pair:
            create_specreason(pair, window=depth).compile().invoke(QUESTION)
            assert pair.base.most == depth + 1  # type: ignore[attr-defined]  # its own score and those ahead


def test_who_leaves_a_stream_leaves_no_work(pair: Any) -> None:
    stream = create_specreason(pair, window=8).compile().stream(QUESTION, stream_mode="updates")
    for update in stream:
        if "accept" in update:
            break
    stream.close()  # type: ignore[attr-defined]
    assert idle(pair)
    assert windows_of(pair)._open == {}


async def test_a_cancelled_run_leaves_no_work() -> None:
    with slow_pair(base=0.05) as pair:
        task = asyncio.create_task(create_specreason(pair, window=8).compile().ainvoke(QUESTION))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(idle, pair)
        assert windows_of(pair)._open == {}


@pytest.mark.parametrize("depth", [0, 8])
async def test_who_leaves_a_stream_late_does_not_end_the_run_that_was_resumed(depth: int) -> None:
    with slow_pair(base=0.05) as pair:
        graph = create_specreason(pair, window=depth).compile(checkpointer=InMemorySaver())
        config: Any = {"configurable": {"thread_id": "one"}}
        left = graph.astream(QUESTION, config, stream_mode="updates")
        async for update in left:
            if "accept" in update:
                break
        resumed = asyncio.create_task(graph.ainvoke(None, config))
        await asyncio.sleep(0.2)
        await left.aclose()  # type: ignore[attr-defined]
        outcome = await resumed
        assert (outcome["answer"], outcome["stop_reason"]) == ("The answer.", "answered")
        assert await asyncio.to_thread(idle, pair)
        assert windows_of(pair)._open == {}


def test_a_run_that_waits_for_a_human_leaves_no_work_and_goes_on() -> None:
    with slow_pair((9, 9, 6)) as pair:
        saver = InMemorySaver()
        graph = create_specreason(pair, window=8, review=Band(low=5, high=7)).compile(checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "one"}}
        outcome = graph.invoke(QUESTION, config)
        assert outcome["__interrupt__"]
        assert idle(pair)
        assert windows_of(pair)._open == {}


@pytest.mark.parametrize("depth", [0, 8])
def test_what_a_step_took_before_a_human_was_asked_counts(depth: int) -> None:
    with slow_pair((9, 9, 6), draft=0.02, base=0.1) as pair:
        graph = create_specreason(pair, window=depth, review=Band(low=5, high=7)).compile(checkpointer=InMemorySaver())
        config: Any = {"configurable": {"thread_id": "one"}}
        graph.invoke(QUESTION, config)
        begun = pair.base.begun + pair.draft.begun  # type: ignore[attr-defined]
        time.sleep(0.5)  # that a human takes their time does not
        outcome = graph.invoke(Command(resume="accept"), config)
    steps = [Step.load(step) for step in outcome["trace"][:3]]
    costs = [cost for step in steps for cost in step.costs]
    assert sum(cost.usage.calls for cost in costs) == begun
    assert any(cost.lost for cost in steps[2].costs) == (depth > 0)
    assert depth or 0.1 < (steps[2].elapsed or 0.0) < 0.5


async def test_a_stream_that_is_left_after_its_pair_was_closed_leaves_no_window() -> None:
    async with slow_pair() as pair:
        stream = create_specreason(pair, window=8).compile().astream(QUESTION, stream_mode="updates")
        async for update in stream:
            if "accept" in update:
                break
    await stream.aclose()  # type: ignore[attr-defined]
    assert windows_of(pair)._open == {}


def test_a_run_of_the_first_schema_works_ahead_like_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specreason_graph.state.seal_manifest", lambda manifest: manifest)
    with slow_pair((9,), draft=0.0, base=0.05) as pair:
        outcome = create_specreason(pair, window=4).compile().invoke(QUESTION)
        assert pair.base.most == 5  # type: ignore[attr-defined]  # its own score and those ahead
    assert outcome["trace"][0].get("hash") is None


def test_what_a_stage_waits_for_is_not_stopped_by_work_ahead() -> None:
    saver = InMemorySaver()
    thread: Any = {"configurable": {"thread_id": "one"}}
    with slow_pair() as blank:
        blank.draft._reply = lambda _: ""  # type: ignore[attr-defined]
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
        drafting: Any = pair.draft
        works = drafting._reply
        failed: list[bool] = []

        def fails_once(ids: Any) -> str:
            if not failed and done(drafting.vocabulary.decode(ids)) == 5:
                failed.append(True)
                raise RuntimeError("out of memory")
            return str(works(ids))

        drafting._reply = fails_once
        outcome = create_specreason(pair, window=8).compile().invoke(QUESTION)
    assert failed
    assert outcome["stop_reason"] == "answered"
    assert len(outcome["trace"]) == STEPS + 1


def test_depth_follows_acceptance_and_costs() -> None:
    pace = Pace()
    pace.took("draft", 0.01)
    pace.took("score", 0.02)
    for _ in range(50):
        pace.judged(accepted=True)
    assert pace.depth(8, 1) == 8
    depths = []
    for _ in range(12):
        pace.judged(accepted=False)
        depths.append(pace.depth(8, 1))
    assert depths == sorted(depths, reverse=True)
    assert depths[-1] == 0
    assert 0 < Pace().depth(8, 1) <= 8


def test_depth_is_less_the_more_runs_there_are() -> None:
    pace = Pace()
    pace.took("draft", 0.02)
    pace.took("score", 0.01)
    depths = [pace.depth(8, runs) for runs in (1, 4, 16, 64, 256)]
    assert depths == sorted(depths, reverse=True)
    assert (depths[0] > 2, depths[-1]) == (True, 0)


def test_a_run_begins_with_the_pace_of_its_pair() -> None:
    whole = Pace(weight=0.02)
    for _ in range(400):
        Pace(whole).judged(accepted=False)
    assert Pace(whole).acceptance < 0.05


def test_prompts_grow_apart_and_settle() -> None:
    head = Prompt([1, 2, 3])
    one, other = head.extended([4, 5]), head.extended([6])
    assert (list(one), list(other), len(one), one[3], other[1:]) == ([1, 2, 3, 4, 5], [1, 2, 3, 6], 5, 4, [2, 3, 6])
    behind = one.extended([7])
    one.settle()
    assert (list(head), list(one), list(behind), list(one.extended([]))) == (
        [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 7], [1, 2, 3, 4, 5],
    )  # fmt: skip
