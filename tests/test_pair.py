"""The pair's own loop: calls, errors and cancellations cross over."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from typing import Self

import pytest

from specreason_graph import EnginePair
from specreason_graph.engines.fake import FakeEngine

VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="unset")


async def where() -> tuple[int, str]:
    return threading.get_ident(), VARIABLE.get()


class Door(FakeEngine):
    """Writes down when it is opened and closed; ``opening`` may fail, or take its time."""

    def __init__(self, log: list[str], name: str, opening: Callable[[], Awaitable[None]] | None = None) -> None:
        super().__init__(name=name)
        self.log, self.opening = log, opening

    async def __aenter__(self) -> Self:
        if self.opening:
            try:
                await self.opening()
            except BaseException as error:
                self.log.append(f"{self.name} {type(error).__name__}")
                raise
        self.log.append(f"{self.name} opened")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.log.append(f"{self.name} closed")


def test_work_runs_on_one_loop_with_the_callers_context() -> None:
    with EnginePair(FakeEngine(), FakeEngine()) as pair:
        token = VARIABLE.set("mine")
        first, second = pair.run(where), pair.run(where)
        VARIABLE.reset(token)
    assert first == second
    assert first[0] != threading.get_ident()
    assert first[1] == "mine"


def test_errors_reach_the_caller() -> None:
    async def fail() -> None:
        raise ValueError("from the loop")

    with EnginePair(FakeEngine(), FakeEngine()) as pair, pytest.raises(ValueError, match="from the loop"):
        pair.run(fail)


async def test_cancelling_the_caller_cancels_the_work() -> None:
    cancelled = threading.Event()
    begun = threading.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with EnginePair(FakeEngine(), FakeEngine()) as pair:
        task = asyncio.create_task(pair.arun(wait))
        await asyncio.to_thread(begun.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(cancelled.wait, 5)


def test_closing_leaves_no_thread_and_the_pair_opens_again() -> None:
    log: list[str] = []
    pair = EnginePair(Door(log, "draft"), Door(log, "base"))
    for times in (1, 2, 3):
        before = threading.active_count()
        with pair:
            assert threading.active_count() == before + 1
            pair.run(where)
        assert threading.active_count() == before
        assert log.count("base opened") == log.count("draft opened") == times
        assert log.count("base closed") == log.count("draft closed") == times


def test_a_pair_tells_what_is_still_loading() -> None:
    log: list[str] = []
    may_open, broken = threading.Event(), [OSError("no memory")]

    async def waits() -> None:
        await asyncio.to_thread(may_open.wait, 5)
        if broken:
            raise broken.pop()

    pair = EnginePair(Door(log, "draft", waits), Door(log, "base"))
    assert pair.loading == ["base", "draft"]
    for ended in (OSError, None):
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(pair.run, where)
            ends = time.monotonic() + 5
            while pair.loading != ["draft"]:
                assert time.monotonic() < ends
                time.sleep(0.01)
            may_open.set()
            assert isinstance(opening.exception(5), ended or type(None))
        may_open.clear()
    assert pair.loading == []
    pair.close()
    assert pair.loading == ["base", "draft"]
    both = Door(log, "both")
    with EnginePair(both, both) as one:
        assert one.loading == []
    assert one.loading == ["base"]


def test_one_engine_in_both_roles_is_opened_and_closed_once() -> None:
    log: list[str] = []
    engine = Door(log, "both")
    with EnginePair(engine, engine) as pair:
        assert pair.shares_vocabulary
        assert log == ["both opened"]
    assert log == ["both opened", "both closed"]


def test_closing_cancels_what_still_runs_before_the_engines_are_closed() -> None:
    log: list[str] = []
    pair = EnginePair(Door(log, "draft"), Door(log, "base"))
    begun = threading.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            log.append("work ended")

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(pair.run, wait)
        assert begun.wait(5)
        pair.close()
        with pytest.raises(CancelledError):
            call.result(5)
    assert log[2] == "work ended"
    assert sorted(log[3:]) == ["base closed", "draft closed"]


def test_an_engine_that_does_not_open_leaves_nothing_open() -> None:
    log: list[str] = []
    opened, broken = threading.Event(), [OSError("no memory")]

    async def breaks_once() -> None:
        await asyncio.to_thread(opened.wait, 5)  # the other engine is open by now
        if broken:
            raise broken.pop()

    async def opens() -> None:
        asyncio.get_running_loop().call_soon(opened.set)

    pair = EnginePair(Door(log, "draft", breaks_once), Door(log, "base", opens))
    with pytest.raises(OSError, match="no memory"):
        pair.run(where)
    assert log == ["base opened", "draft OSError", "base closed"]
    assert not pair.is_open
    log.clear()
    assert pair.run(where) == pair.run(where)
    assert log == ["base opened", "draft opened"]
    pair.close()
    assert sorted(log[2:]) == ["base closed", "draft closed"]


def test_closing_while_another_thread_opens_leaves_nobody_waiting_and_nothing_open() -> None:
    log: list[str] = []
    threads, begun = threading.active_count(), threading.Event()

    async def never() -> None:
        begun.set()
        await asyncio.sleep(60)

    drafting = Door(log, "draft", never)
    pair = EnginePair(drafting, Door(log, "base"))
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(pair.__enter__)
        assert begun.wait(5)
        pair.close()
        with pytest.raises(CancelledError):
            opening.result(5)
    assert log == ["base opened", "draft CancelledError", "base closed"]
    assert not pair.is_open
    assert threading.active_count() <= threads
    drafting.opening = None
    with pair:
        assert log[3:] == ["base opened", "draft opened"]


def test_two_threads_that_close_at_once_close_the_engines_once() -> None:
    log: list[str] = []

    class Slow(Door):
        async def __aexit__(self, *_: object) -> None:
            await asyncio.sleep(0.1)
            await super().__aexit__(*_)

    for _ in range(5):
        pair = EnginePair(Slow(log, "draft"), Slow(log, "base")).__enter__()
        with ThreadPoolExecutor(3) as pool:
            closing = [pool.submit(pair.close) for _ in range(3)]
        assert [each.result(20) for each in closing] == [None] * 3
        assert sorted(log) == ["base closed", "base opened", "draft closed", "draft opened"]
        assert not pair.is_open
        pair.close()
        log.clear()


def test_calls_that_begin_while_the_pair_closes_end_and_leave_nothing_open() -> None:
    log: list[str] = []
    pair = EnginePair(Door(log, "draft"), Door(log, "base"))

    def call() -> None:
        for _ in range(40):
            with suppress(CancelledError):
                pair.run(where)

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(call) for _ in range(3)]
        while not all(each.done() for each in calls):
            pair.close()
    assert [each.result() for each in calls] == [None] * 3
    pair.close()
    assert log.count("base opened") == log.count("base closed")
    assert log.count("draft opened") == log.count("draft closed")


def test_work_that_is_cancelled_before_it_begins_does_nothing() -> None:
    done: list[str] = []

    async def work() -> None:
        done.append("a step")

    with EnginePair(FakeEngine(), FakeEngine()) as pair:

        async def hold() -> None:
            time.sleep(0.3)  # the engines' loop is busy, so what comes next waits

        async def leave() -> None:
            holding = asyncio.create_task(pair.arun(hold))
            await asyncio.sleep(0.1)
            task = asyncio.create_task(pair.arun(work))
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.gather(holding, task, return_exceptions=True)

        asyncio.run(leave())
        pair.run(where)
    assert done == []
