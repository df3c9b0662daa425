"""What a run costs besides its engines, and whether that grows with the run: scripted runs of several lengths."""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver

from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.read.saver import open_database
from specreason_graph.bench.table import aligned
from specreason_graph.engines.base import Completion, Generation, NextToken, Sampling, TokenCallback
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import EngineError, ThreadError
from specreason_graph.graph import create_specreason
from specreason_graph.record.records import Record, Usage

SAVERS = ("memory", "sqlite")
"""Where checkpoints are stored unless a database is named: LangGraph's memory saver, and a temporary SQLite file."""
STEP = "Step {number:9} by the {author:5}, with some words.\n\n"
STEP_TOKENS = len(STEP.format(number=0, author="base"))
WARM = 20
"""Steps of a first run that is not timed, because the first steps of a process are slower."""
COLUMNS = ("saver", "steps", "ms a step", "CPU ms a step", "KB a step", "verify ms a step", "peak MB")
TABLES = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")


class Overhead(Record):
    """The figures of one run in a process of its own, in which every third proposal is rejected."""

    saver: str
    """Where checkpoints were stored."""
    steps: int
    """Committed steps."""
    seconds: float
    """Wall time of the run in seconds; the scripted engines take next to none of it."""
    cpu_seconds: float
    """CPU time of the process in seconds; other processes hardly change it."""
    stored_bytes: int
    """Bytes of the SQLite file, or of the run's rows in PostgreSQL; 0 in memory."""
    verify_seconds: float
    """Wall time of reading and verifying the run, in seconds; the best of three."""
    peak_bytes: int
    """Highest memory of the process until the run ended, libraries included (``ru_maxrss``)."""


class Swift(FakeEngine):
    """A scripted engine that only uses the length of a prompt, so that a call costs the same for any trace."""

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        on_token: TokenCallback | None = None,  # noqa: ARG002
    ) -> Completion:
        """Return a step with a text of its own, or the answer."""
        if not sampling.stop:  # only steps have a stop string
            return Completion([Generation([*b"The answer.", min(self.vocabulary.eos_ids)], "stop_token")], Usage())
        ids = list(STEP.format(number=len(prompt_ids), author=self.name).encode())
        usage = Usage(calls=1, prompt_tokens=len(prompt_ids), generated_tokens=len(ids))
        return Completion([Generation(ids, "stop_string")], usage)

    async def next_token(self, prompt_ids: Sequence[int], candidates: Sequence[int]) -> NextToken:
        """Return a low score for every third proposal, and a high one for the others."""
        digit = b"2" if len(prompt_ids) // STEP_TOKENS % 3 == 0 else b"9"
        logprobs = {token: 0.0 if token == digit[0] else -70.0 for token in candidates}
        return NextToken(logprobs, 0.0, Usage(calls=1, prompt_tokens=len(prompt_ids), generated_tokens=1))


def measure_overhead(steps: int, saver: str) -> Overhead:
    """Run ``steps`` steps in a new process, so that its peak memory is that of the run.

    ``saver`` is ``memory``, ``sqlite``, or a PostgreSQL database as ``postgresql://...``; the run is removed again.
    """
    # A forked process would begin with the memory of this one.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(run_overhead, steps, saver).result()


def run_overhead(steps: int, saver: str) -> Overhead:
    """Run ``steps`` steps in this process, after a short run that is not timed."""
    _run(WARM, saver)
    return _run(steps, saver)


def overhead_lines(rows: Sequence[Overhead]) -> Iterator[str]:
    """Yield the table of runs."""
    yield from aligned(COLUMNS, [_row(row) for row in rows])


def _run(steps: int, kind: str) -> Overhead:
    config: RunnableConfig = {"configurable": {"thread_id": f"bench-{uuid4().hex[:12]}"}}
    pair = EnginePair(Swift(name="draft", context=10**8), Swift(name="base", context=10**8))
    with _saver(kind) as saver, pair:
        graph = create_specreason(pair, max_steps=steps, thinking_tokens=10**9).compile(checkpointer=saver)
        begun, used = time.perf_counter(), time.process_time()
        outcome = graph.invoke({"question": "Which?"}, config, durability="sync")
        wall, cpu, peak = time.perf_counter() - begun, time.process_time() - used, _peak_bytes()
        if len(outcome["trace"]) != steps:
            raise EngineError(f"the scripted run took {len(outcome['trace'])} steps and not {steps}", engine="fake")
        thread = config["configurable"]["thread_id"]
        found = Overhead(
            saver=kind.partition(":")[0], steps=steps, seconds=wall, cpu_seconds=cpu, peak_bytes=peak,
            stored_bytes=_stored(saver, thread), verify_seconds=_verify_seconds(saver, kind, thread),
        )  # fmt: skip
        saver.delete_thread(thread)
    return found


@contextmanager
def _saver(kind: str) -> Iterator[Any]:
    if kind == "memory":
        yield InMemorySaver()
    elif kind == "sqlite":
        with TemporaryDirectory() as folder, SqliteSaver.from_conn_string(str(Path(folder) / "runs.sqlite")) as saver:
            yield saver
    else:
        from langgraph.checkpoint.postgres import PostgresSaver

        with PostgresSaver.from_conn_string(kind) as saver:
            saver.setup()
            yield saver


def _peak_bytes() -> int:
    # macOS gives bytes, Linux kibibytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _stored(saver: Any, thread: str) -> int:
    if isinstance(saver, InMemorySaver):
        return 0
    if isinstance(saver, SqliteSaver):
        saver.conn.execute("pragma wal_checkpoint(truncate)")  # else the last rows are only in the write-ahead log
        pages = "select page_count * page_size from pragma_page_count, pragma_page_size"
        return int(saver.conn.execute(pages).fetchone()[0])
    saver.conn.execute("analyze")  # a server in use does this by itself, and plans its queries by it
    sizes = "select coalesce(sum(pg_column_size(t.*)), 0) as size from {} t where thread_id = %s"
    return sum(int(saver.conn.execute(sizes.format(table), (thread,)).fetchone()["size"]) for table in TABLES)


def _verify_seconds(saver: Any, kind: str, thread: str) -> float:
    if "://" not in kind:
        return min(_verified(saver, thread) for _ in range(3))
    with open_database(kind) as opened:
        return min(_verified(opened, thread) for _ in range(3))


def _verified(saver: Any, thread: str) -> float:
    # Objects of the run itself are frozen, so that the garbage collector does not go through them meanwhile.
    gc.collect()
    gc.freeze()
    begun = time.perf_counter()
    found = verify(read_runs(saver, thread)[0])
    seconds = time.perf_counter() - begun
    gc.unfreeze()
    if not found.ok:
        raise ThreadError(f"the run is not as it was written: {found.findings[0].problem}")
    return seconds


def _row(row: Overhead) -> list[str]:
    wall, cpu, verified = (1000 * total / row.steps for total in (row.seconds, row.cpu_seconds, row.verify_seconds))
    return [
        row.saver, f"{row.steps:,}", f"{wall:.2f}", f"{cpu:.2f}", f"{row.stored_bytes / 1000 / row.steps:.2f}",
        f"{verified:.3f}", f"{row.peak_bytes / 1e6:.0f}",
    ]  # fmt: skip
