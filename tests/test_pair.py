"""The pair's own loop: calls, errors and cancellations cross over."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Self

import pytest

from specreason_graph import EnginePair
from specreason_graph.engines.fake import FakeEngine

VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="unset")


async def _where() -> tuple[int, str]:
    return threading.get_ident(), VARIABLE.get()


def test_work_runs_on_one_loop_with_the_callers_context() -> None:
    with EnginePair(FakeEngine(), FakeEngine()) as pair:
        token = VARIABLE.set("mine")
        first, second = pair.run(_where), pair.run(_where)
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
    pair = EnginePair(FakeEngine(), FakeEngine())
    for _ in range(3):
        before = threading.active_count()
        with pair:
            assert threading.active_count() == before + 1
            pair.run(_where)
        assert threading.active_count() == before


def test_one_engine_may_play_both_roles() -> None:
    engine = FakeEngine()
    with EnginePair(engine, engine) as pair:
        assert pair.shares_vocabulary


def test_closing_cancels_what_still_runs() -> None:
    pair = EnginePair(FakeEngine(), FakeEngine())
    begun = threading.Event()
    outcome: list[BaseException] = []

    async def wait() -> None:
        begun.set()
        await asyncio.sleep(60)

    def call() -> None:
        try:
            pair.run(wait)
        except BaseException as error:
            outcome.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    assert begun.wait(5)
    pair.close()
    caller.join(5)
    assert not caller.is_alive()
    assert isinstance(outcome[0], CancelledError)


def test_an_engine_that_does_not_open_leaves_nothing_open() -> None:
    class Broken(FakeEngine):
        """Opens at the second try."""

        tries = 0

        async def __aenter__(self) -> Broken:
            Broken.tries += 1
            if Broken.tries == 1:
                raise OSError("no memory")
            return self

    pair = EnginePair(Broken(), FakeEngine())
    with pytest.raises(OSError, match="no memory"):
        pair.run(_where)
    assert pair.run(_where)
    pair.close()
    assert Broken.tries == 2


def test_closing_while_another_thread_opens_leaves_nobody_waiting() -> None:
    class Slow(FakeEngine):
        async def __aenter__(self) -> Self:
            await asyncio.sleep(30)
            return self

    pair = EnginePair(FakeEngine(), Slow())
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(pair.__enter__)
        time.sleep(0.2)
        pair.close()
        with pytest.raises(CancelledError):
            opening.result(5)
