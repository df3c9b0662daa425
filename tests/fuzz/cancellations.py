"""Leaves runs at random instants, in all ways there are: ``python -m tests.fuzz.cancellations``."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypedDict
from uuid import uuid4

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command

from specreason_graph import EnginePair, create_specreason
from specreason_graph.config import Band
from specreason_graph.lookahead.registry import LookaheadRegistry
from tests.support.scripts import stepwise

QUESTION: Any = {"question": "How many pens?"}
OPINIONS = (9, 9, 2, 9, 5, 2)
LONGEST = 0.15
"""Seconds within which a run is left; it would take about three times as long."""


class Asked(TypedDict, total=False):
    question: str
    answer: str
    other: str


class Leaving:
    """Begins runs over a pair, each of which is left somewhere."""

    def __init__(self, pair: EnginePair, seed: int) -> None:
        self.random = random.Random(seed)
        self.graph = create_specreason(pair, seed=seed).compile()
        self.reviewed = create_specreason(pair, review=Band(low=4, high=6)).compile(InMemorySaver())
        self.parent = self._parent()

    def _parent(self) -> Any:
        async def fail(_: Asked) -> Asked:
            await asyncio.sleep(self.random.uniform(0, LONGEST))
            raise ValueError("elsewhere")

        graph: Any = StateGraph(Asked)
        graph.add_node("think", self.graph)
        graph.add_node("fail", fail)
        for name in ("think", "fail"):
            graph.add_edge(START, name)
            graph.add_edge(name, END)
        return graph.compile()

    def ways(self) -> list[Callable[[], Coroutine[Any, Any, object]]]:
        """The ways in which a run can be left."""
        return [
            self.cancel, self.cancel, self.time_out, self.break_off, self.close_stream, self.fail_elsewhere,
            self.leave_review, self.cancel_review,
        ]  # fmt: skip

    def soon(self) -> float:
        return self.random.uniform(0, LONGEST)

    async def cancel(self) -> None:
        await _cancel_after(self.soon(), self.graph.ainvoke(QUESTION))

    async def time_out(self) -> None:
        async with asyncio.timeout(self.soon()):
            await self.graph.ainvoke(QUESTION)

    async def break_off(self) -> None:
        parts, last = self.graph.astream(QUESTION, stream_mode="updates"), self.random.randrange(8)
        async for _ in parts:
            if not last:
                break
            last -= 1
        await parts.aclose()  # type: ignore[attr-defined]

    async def close_stream(self) -> None:
        number = self.random.randrange(8)
        await asyncio.to_thread(self._close_stream, number)

    def _close_stream(self, number: int) -> None:
        parts = self.graph.stream(QUESTION, stream_mode="updates")
        for _ in range(number):
            next(parts, None)
        parts.close()  # type: ignore[attr-defined]

    async def fail_elsewhere(self) -> None:
        await self.parent.ainvoke(QUESTION)

    async def leave_review(self) -> None:
        await self.reviewed.ainvoke(QUESTION, _thread())

    async def cancel_review(self) -> None:
        thread = _thread()
        if "__interrupt__" in await self.reviewed.ainvoke(QUESTION, thread):
            await _cancel_after(self.soon(), self.reviewed.ainvoke(Command(resume="accept"), thread))


def _thread() -> Any:
    return {"configurable": {"thread_id": uuid4().hex}}


async def _cancel_after(seconds: float, work: Coroutine[Any, Any, Any]) -> None:
    task = asyncio.ensure_future(work)
    await asyncio.wait([task], timeout=seconds)
    task.cancel()
    await task


async def _leave(leaving: Leaving, count: int, at_once: int) -> None:
    places = asyncio.Semaphore(at_once)

    async def one(way: Callable[[], Coroutine[Any, Any, object]]) -> None:
        async with places:
            with suppress(asyncio.CancelledError, TimeoutError, ValueError):
                await way()

    await asyncio.gather(*(one(leaving.random.choice(leaving.ways())) for _ in range(count)))


def leave_runs(seed: int, count: int) -> tuple[int, list[str]]:
    """Leave ``count`` runs on two event loops; how many count as under way then, and the tasks that are left."""

    async def others() -> list[str]:
        for _ in range(200):
            left = [str(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            if not left and not LookaheadRegistry.of(pair).runs:
                break
            await asyncio.sleep(0.02)
        return left

    with stepwise(30, OPINIONS, draft=0.002, base=0.006) as pair:
        halves = [
            threading.Thread(target=asyncio.run, args=(_leave(Leaving(pair, seed + half), count // 2, 8),))
            for half in range(2)
        ]
        for half in halves:
            half.start()
        for half in halves:
            half.join()
        tasks = pair.run(others)
        return LookaheadRegistry.of(pair).runs, tasks


def main() -> None:
    """Leave runs, ``--count`` for each seed; exit with 1 if any counts as under way or has left a task."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    bad = 0
    for seed in range(given.first, given.first + given.seeds):
        runs, tasks = leave_runs(seed, given.count)
        print(f"seed {seed}: {runs} of {given.count} runs count as under way, {len(tasks)} tasks are left", flush=True)
        for task in tasks[:5]:
            print("   ", task[:300])
        bad += bool(runs or tasks)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
