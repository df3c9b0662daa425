"""How the record of a run grows with its steps: bytes stored, and seconds to write, read and verify it."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.sqlite import SqliteSaver

from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.read.saver import open_database
from specreason_graph.engines.fake import Call, FakeEngine
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import ThreadError
from specreason_graph.graph import create_specreason
from specreason_graph.record.records import Record

TABLES = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")


class Growth(Record):
    """The figures of one scripted run, in which every third proposal is rejected."""

    steps: int
    """Committed steps."""
    stored_bytes: int
    """Bytes in the database: of the SQLite file, or of the run's rows in PostgreSQL."""
    run_seconds: float
    """Wall time of the run, in seconds."""
    verify_seconds: float
    """Wall time of reading and verifying the run, in seconds; the best of three."""


class Forgetful(list[Call]):
    """A list of calls that stays empty, because each call would hold the whole prompt."""

    def append(self, call: Call) -> None:
        """Drop the call."""


def measure_growth(steps: int, url: str | None = None) -> Growth:
    """Run and verify ``steps`` scripted steps, in a temporary SQLite file or in the PostgreSQL database at ``url``.

    The run is removed from PostgreSQL again.
    """
    with _database(url) as saver, _pair(steps) as pair:
        thread = f"bench-{uuid4().hex[:12]}"
        config: RunnableConfig = {"configurable": {"thread_id": thread}}
        graph = create_specreason(pair, max_steps=10 * steps, thinking_tokens=10**9).compile(checkpointer=saver)
        begun = time.perf_counter()
        graph.invoke({"question": "Which?"}, config, durability="sync")
        written = time.perf_counter()
        if url:
            saver.conn.execute("analyze")  # a server in use does this by itself, and plans its queries by it
        with open_database(url) if url else nullcontext(saver) as opened:
            verifying = min(_verify(opened, thread) for _ in range(3))
        size = _stored(saver, thread)
        saver.delete_thread(thread)
    return Growth(steps=steps, stored_bytes=size, run_seconds=written - begun, verify_seconds=verifying)


def _verify(saver: Any, thread: str) -> float:
    """Return the seconds that reading and verifying the run takes."""
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


@contextmanager
def _database(url: str | None) -> Iterator[Any]:
    if url:
        from langgraph.checkpoint.postgres import PostgresSaver

        with PostgresSaver.from_conn_string(url) as saver:
            saver.setup()
            yield saver
        return
    with TemporaryDirectory() as folder, SqliteSaver.from_conn_string(str(Path(folder) / "runs.sqlite")) as saver:
        yield saver


def _pair(steps: int) -> EnginePair:
    texts = (f"Step {number} and what is in it.\n\n" for number in range(steps))
    regenerated = (f"Step {number} by the base model.\n\n" for number in range((steps + 2) // 3))
    draft = FakeEngine([*texts, "</think>"], name="draft", context=10**8)
    base = FakeEngine([*regenerated, "</think>", "So."], cycle((2, 9, 9)), name="base", context=10**8)
    draft.calls, base.calls = Forgetful(), Forgetful()
    return EnginePair(draft, base)


def _stored(saver: Any, thread: str) -> int:
    if isinstance(saver, SqliteSaver):
        saver.conn.execute("pragma wal_checkpoint(truncate)")  # else the last rows are only in the write-ahead log
        pages = "select page_count * page_size from pragma_page_count, pragma_page_size"
        return int(saver.conn.execute(pages).fetchone()[0])
    sizes = [
        saver.conn.execute(
            f"select coalesce(sum(pg_column_size(t.*)), 0) as size from {table} t where thread_id = %s",  # noqa: S608
            (thread,),
        ).fetchone()["size"]
        for table in TABLES
    ]
    return int(sum(sizes))
