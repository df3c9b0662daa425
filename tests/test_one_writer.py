"""One live writer a thread: of two who resume it at once one works and the other is refused."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from specreason_graph import create_specreason, find_runs
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.keep.prune import prune
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.errors import ThreadError
from specreason_graph.record.claim import claimed
from tests.support.databases import opened
from tests.support.parents import parent
from tests.support.races import PROCESSES, race
from tests.support.scripts import ANSWER, stepwise

TRIES = int(os.environ.get("SPECREASON_RACES", "3"))
"""Races of each kind; more by the environment."""
STEPS = 4


def config(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


def slow_pair() -> Any:
    return stepwise(STEPS, draft=0.05, base=0.05)


def test_of_two_processes_that_resume_one_thread_one_is_refused(place: str) -> None:
    PROCESSES.set_forkserver_preload(["tests.test_one_writer"])
    for number in range(TRIES):
        thread = f"race-{number}-{time.time_ns()}"
        said = race(place, thread, slow_pair)
        refused = [text for text in said if "is being worked on by another process" in text]
        assert said.count(ANSWER) + len(refused) == 2, said
        assert said.count(ANSWER) >= 1
        with opened(place) as saver:
            (run,) = read_runs(saver, thread)  # one end
            assert verify(run).ok
            assert run.finished
        if len(refused) == 1:
            break
    else:
        pytest.fail("in no race the two met")


def test_a_claim_ends_with_its_process(place: str) -> None:
    held, thread = PROCESSES.Event(), f"dies-{time.time_ns()}"
    child = PROCESSES.Process(target=_hold, args=(place, thread, held))
    child.start()
    assert held.wait(60)
    with opened(place) as saver:
        with pytest.raises(ThreadError, match="another process"), claimed(saver, thread):
            pass
        with claimed(saver, thread + "-other"):
            pass
        child.kill()
        child.join()
        deadline = time.monotonic() + 20
        while True:
            try:
                with claimed(saver, thread):
                    return
            except ThreadError:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def _hold(place: str, thread: str, held: Any) -> None:
    with opened(place) as saver, claimed(saver, thread):
        held.set()
        time.sleep(600)


def test_within_a_process_the_second_is_refused_and_nothing_is_lost() -> None:
    saver = InMemorySaver()
    with stepwise(STEPS, draft=1.5) as pair:
        graph = create_specreason(pair, lookahead=0).compile(checkpointer=saver)
        first = threading.Thread(target=lambda: graph.invoke({"question": "What?"}, config("one")))
        first.start()
        while not find_runs(saver, "one"):
            time.sleep(0.01)
        with pytest.raises(ThreadError, match="is being worked on by this process"):
            graph.invoke(None, config("one"))
        first.join()
    (run,) = read_runs(saver, "one")
    assert verify(run).ok
    assert run.finished


def test_a_stream_that_nobody_reads_is_taken_over_and_says_so() -> None:
    saver = InMemorySaver()
    with stepwise(STEPS, draft=0.02) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        parts = graph.stream({"question": "What?"}, config("one"), stream_mode="updates", durability="sync")
        next(parts)
        assert graph.invoke(None, config("one"))["answer"] == ANSWER
        with pytest.raises(ThreadError, match="has taken the thread of this stream over"):
            next(parts)
    (run,) = read_runs(saver, "one")
    assert verify(run).ok


async def test_a_stream_that_was_left_is_waited_for() -> None:
    async with AsyncSqliteSaver.from_conn_string(":memory:") as saver:
        with stepwise(STEPS) as pair:
            graph = create_specreason(pair).compile(checkpointer=saver)
            async for _ in graph.astream({"question": "What?"}, config("one"), stream_mode="updates"):
                break  # the generator is closed by the event loop, some time later
            assert (await graph.ainvoke(None, config("one")))["answer"] == ANSWER


class Slow(InMemorySaver):
    """Takes its time with each checkpoint; ``ending`` is set while the last one of a run is written."""

    def __init__(self) -> None:
        super().__init__()
        self.ending = asyncio.Event()

    async def aput(self, config: Any, checkpoint: Any, *more: Any) -> Any:
        if checkpoint["channel_values"].get("result"):
            self.ending.set()
        await asyncio.sleep(0.05)
        return await super().aput(config, checkpoint, *more)


@pytest.mark.parametrize("cancellations", [1, 2, 3])
@pytest.mark.parametrize("nested", [False, True], ids=["root", "nested"])
async def test_a_run_that_is_cancelled_while_its_end_is_written_has_one_end(nested: bool, cancellations: int) -> None:
    saver = Slow()
    with stepwise(1) as pair:
        loop: Any = create_specreason(pair)
        graph = (parent(loop.compile()) if nested else loop).compile(checkpointer=saver)
        task = asyncio.ensure_future(graph.ainvoke({"question": "What?"}, config("one"), durability="async"))
        await saver.ending.wait()
        for _ in range(cancellations):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert (await graph.ainvoke(None, config("one")))["answer"] == ANSWER
    (run,) = read_runs(saver, "one")
    assert verify(run).ok


async def test_a_run_that_is_cancelled_before_its_thread_is_read_is_just_cancelled() -> None:
    class Slow(InMemorySaver):
        async def aget_tuple(self, config: Any) -> Any:
            reading.set()
            await asyncio.sleep(60)

    reading, saver = asyncio.Event(), Slow()
    with stepwise(3) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        task = asyncio.create_task(graph.ainvoke({"question": "How far?"}, config("early")))
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_many_threads_are_worked_on_at_once(tmp_path: Path) -> None:
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "runs.sqlite")) as saver:
        with stepwise(STEPS) as pair:
            graph = create_specreason(pair).compile(checkpointer=saver)
            asked = [graph.ainvoke({"question": "What?"}, config(str(number))) for number in range(8)]
            assert [outcome["answer"] for outcome in await asyncio.gather(*asked)] == [ANSWER] * 8


def test_calls_inside_another_graph_go_by_its_thread(tmp_path: Path) -> None:
    with SqliteSaver.from_conn_string(str(tmp_path / "runs.sqlite")) as saver, stepwise(STEPS) as pair:
        loop = create_specreason(pair).compile()
        assert parent(loop).compile(checkpointer=saver).invoke({"question": "What?"}, config("t"))["answer"] == ANSWER
        assert [run.answer for run in find_runs(saver, "t")] == [ANSWER]


def test_a_thread_that_is_worked_on_is_not_pruned(tmp_path: Path) -> None:
    with SqliteSaver.from_conn_string(str(tmp_path / "runs.sqlite")) as saver, stepwise(STEPS) as pair:
        create_specreason(pair).compile(checkpointer=saver).invoke({"question": "What?"}, config("t"))
        with claimed(saver, "t"), pytest.raises(ThreadError, match="is being worked on"):
            prune(saver, "t")
        assert prune(saver, "t").kept == 1


def test_claims_of_many_threads_of_a_process_do_not_block_each_other() -> None:
    saver, inside = InMemorySaver(), []

    def work(name: str) -> None:
        with claimed(saver, "same"):
            inside.append(name)
            assert inside == [name]
            time.sleep(0.01)
            inside.remove(name)

    workers = [threading.Thread(target=work, args=(str(number),)) for number in range(8)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    assert inside == []


@pytest.mark.skipif(sys.platform == "win32", reason="files have modes")
def test_the_file_of_the_claims_is_nobody_elses(tmp_path: Path) -> None:
    place = tmp_path / "runs.sqlite"
    with SqliteSaver.from_conn_string(str(place)) as saver:
        saver.setup()
        with claimed(saver, "t"):
            assert (tmp_path / "runs.sqlite.claims").stat().st_mode & 0o777 == 0o600


def test_a_folder_with_any_name_is_a_file_to_lock(tmp_path: Path) -> None:
    folder = tmp_path / "host=a dbname=b"
    folder.mkdir()
    with SqliteSaver.from_conn_string(str(folder / "runs.sqlite")) as saver, stepwise(STEPS) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        assert graph.invoke({"question": "What?"}, config("t"))["answer"] == ANSWER
    assert (folder / "runs.sqlite.claims").exists()
