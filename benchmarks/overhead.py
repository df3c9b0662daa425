"""What a run costs besides its engines: time per step, and bytes in the database."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from itertools import count, cycle, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.sqlite import SqliteSaver

from specreason_graph.engines.fake import FakeEngine
from specreason_graph.engines.pair import EnginePair
from specreason_graph.graph import create_specreason
from specreason_graph.record.records import Record

STEP = "Step {number}: the quick brown fox jumps over the lazy dog, and {number} is the number of this line.\n\n"


class Overhead(Record):
    """The figures of one scripted run."""

    steps: int
    """Committed steps."""
    seconds: float
    """Wall time of the run in seconds; the scripted engines do not wait."""
    milliseconds_per_step: float
    """Median wall time between two commits, in milliseconds."""
    database_bytes: int
    """Bytes of the SQLite file, its write-ahead log included."""
    text_bytes: int
    """Bytes of the committed text, for comparison."""


def _script(steps: int) -> Iterator[str]:
    for number in count():
        yield STEP.format(number=number) if number < steps else "</think>"


def measure_overhead(steps: int) -> Overhead:
    """Run ``steps`` scripted steps, of which every third is rejected, with a temporary SQLite file."""
    draft = FakeEngine(_script(steps), name="draft", context=10**7)
    base = FakeEngine(_base_reply(steps), cycle((9, 9, 2)), name="base", context=10**7)
    with TemporaryDirectory() as folder, EnginePair(draft, base) as pair:
        return _measure(Path(folder) / "runs.sqlite", pair, steps)


def _base_reply(steps: int) -> Iterator[str]:
    for number in range(steps // 3):
        yield STEP.format(number=f"{number} by the base model")
    yield from ("</think>", "The answer.")


def _measure(file: Path, pair: EnginePair, steps: int) -> Overhead:
    with SqliteSaver.from_conn_string(str(file)) as saver:
        graph = create_specreason(pair, max_steps=10 * steps, thinking_tokens=10**9).compile(checkpointer=saver)
        config: RunnableConfig = {"configurable": {"thread_id": "bench"}, "recursion_limit": 100 * steps}
        start, marks, size = time.perf_counter(), [], 0
        for update in graph.stream({"question": "Which?"}, config, stream_mode="updates", durability="sync"):
            for node, changes in update.items():
                if node in ("accept", "regenerate"):
                    marks.append(time.perf_counter())
                    size += sum(len(step["text"].encode()) for step in changes["trace"])
        seconds = time.perf_counter() - start
        saver.conn.execute("pragma wal_checkpoint(truncate)")  # else the last rows are only in the write-ahead log
    gaps = [later - earlier for earlier, later in pairwise(marks)]
    return Overhead(
        steps=len(marks), seconds=seconds, milliseconds_per_step=1000 * statistics.median(gaps),
        database_bytes=file.stat().st_size, text_bytes=size,
    )  # fmt: skip
