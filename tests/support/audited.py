"""Scripted runs for audits, and hands that meddle with what a database holds of them."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import cycle
from typing import Any

import psycopg
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from specreason_graph import EnginePair, create_specreason
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.engines.fake import FakeEngine
from tests.support.databases import opened
from tests.support.scripts import ANSWER, CLOSE, stepwise

NOBODY = "00000000-0000-0000-0000-000000000000"
"""The task under which LangGraph takes writes that no node has made."""


def scripted(steps: int, name: str = "") -> EnginePair:
    """A pair that thinks ``steps`` steps, of which every third proposal is rejected."""
    texts = [f"Step {number} {name} of the draft.\n\n" for number in range(steps)]
    rewritten = [f"Step {number} {name} of the base.\n\n" for number in range((steps + 2) // 3)]
    draft = FakeEngine([*texts, CLOSE], name="draft", context=10**7)
    return EnginePair(draft, FakeEngine([*rewritten, CLOSE, ANSWER], cycle((2, 9, 8)), name="base", context=10**7))


def by_prompt(steps: int) -> EnginePair:
    """A pair that thinks ``steps`` steps, of which every third is rejected, and says the same when asked again."""
    return stepwise(steps, (2, 9, 8))


def think(saver: Any, thread: str, steps: int = 8, signer: Any = None, **settings: Any) -> Any:
    """A finished run in a thread; its outcome."""
    with scripted(steps) as pair:
        graph = create_specreason(pair, signer=signer, **{"max_steps": 10**6, "thinking_tokens": 10**9, **settings})
        config: Any = {"configurable": {"thread_id": thread}}
        return graph.compile(checkpointer=saver).invoke({"question": "What?"}, config, durability="sync")


def recorded(place: str, thread: str) -> RecordedRun:
    """The one run of a thread."""
    with opened(place) as saver:
        (run,) = read_runs(saver, thread)
    return run


class Meddler:
    """Someone who owns the database."""

    def __init__(self, place: str) -> None:
        self.postgres = "://" in place
        self.connection: Any = psycopg.connect(place, autocommit=True) if self.postgres else sqlite3.connect(place)
        self.table, self.value = ("checkpoint_writes", "blob") if self.postgres else ("writes", "value")

    def do(self, sql: str, *arguments: Any) -> list[Any]:
        """Run SQL, in the words of either database."""
        cursor = self.connection.execute(sql.replace("?", "%s") if self.postgres else sql, arguments)
        rows = cursor.fetchall() if cursor.description else []
        self.connection.commit()
        return list(rows)

    def steps(self, thread: str) -> list[tuple[str, str, int, bytes]]:
        """The stored step records in order: checkpoint, task, index, bytes; the first write only empties the trace."""
        rows = self.do(
            f"select checkpoint_id, task_id, idx, {self.value} from {self.table} "  # noqa: S608 - constants
            "where thread_id = ? and channel = 'trace' order by checkpoint_id", thread,
        )  # fmt: skip
        return rows[1:]

    def write(self, thread: str, row: tuple[str, str, int, bytes], value: bytes) -> None:
        """Put other bytes in the place of a stored step record."""
        self.do(
            f"update {self.table} set {self.value} = ? "  # noqa: S608 - constants
            "where thread_id = ? and checkpoint_id = ? and task_id = ? and idx = ?", value, thread, *row[:3],
        )  # fmt: skip

    def delete(self, thread: str, row: tuple[str, str, int, bytes]) -> None:
        """Remove a stored step record."""
        self.do(
            f"delete from {self.table} where thread_id = ? and checkpoint_id = ? and task_id = ? and idx = ?",  # noqa: S608
            thread, *row[:3],
        )  # fmt: skip

    def insert(self, thread: str, row: tuple[str, str, int, bytes], value: bytes) -> None:
        """Put one more step record beside a stored one."""
        columns = f"thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, {self.value}"
        self.do(
            f"insert into {self.table} ({columns}) values (?, '', ?, ?, ?, 'trace', 'msgpack', ?)",  # noqa: S608
            thread, row[0], row[1], row[2] + 100, value,
        )  # fmt: skip

    def head(self, thread: str) -> str:
        """Id of the newest checkpoint at the root."""
        rows = self.do(
            "select checkpoint_id from checkpoints where thread_id = ? and checkpoint_ns = '' "
            "order by checkpoint_id desc limit 1", thread,
        )  # fmt: skip
        return str(rows[0][0])

    def forge(self, thread: str, channel: str, value: Any, *, task: str = NOBODY, idx: int = 0) -> None:
        """Write a value to a channel, behind the newest checkpoint."""
        kind, packed = JsonPlusSerializer().dumps_typed(value)
        columns = f"thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, {self.value}"
        self.do(
            f"insert into {self.table} ({columns}) values (?, '', ?, ?, ?, ?, ?, ?)",  # noqa: S608
            thread, self.head(thread), task, idx, channel, kind, packed,
        )  # fmt: skip

    def fingerprint(self, thread: str) -> str:
        """A hash over all rows of a thread, in all tables."""
        tables = ["checkpoints", self.table, *(["checkpoint_blobs"] if self.postgres else [])]
        digest = hashlib.sha256()
        for table in tables:
            rows = self.do(f"select * from {table} where thread_id = ?", thread)  # noqa: S608 - constants
            for row in sorted(map(repr, rows)):
                digest.update(row.encode())
        return digest.hexdigest()


@contextmanager
def meddling(place: str) -> Iterator[Meddler]:
    """Someone at work in the database."""
    meddler = Meddler(place)
    with closing(meddler.connection):
        yield meddler
