"""What a database holds of runs, as plain rows that may be changed in any way and stored again."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import ormsgpack
import psycopg
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.read.reader import find_recorded, read_all_runs
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.audit.read.serializer import pack, unpack
from specreason_graph.errors import ThreadError

Row = dict[str, Any]
"""One row, by column."""
Rows = dict[str, list[Row]]
"""All rows, by table; tables and columns have the same names for both kinds of database."""
KEYS = {
    "checkpoints": ("thread_id", "checkpoint_ns", "checkpoint_id"),
    "writes": ("thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx"),
    "blobs": ("thread_id", "checkpoint_ns", "channel", "version"),
}
"""The keys of the tables."""
TABLES = {
    False: {"checkpoints": "checkpoints", "writes": "writes"},
    True: {"checkpoints": "checkpoints", "writes": "checkpoint_writes", "blobs": "checkpoint_blobs"},
}
"""The tables of SQLite and of PostgreSQL."""


class Database:
    """A database with LangGraph's tables, whose rows are read and replaced as a whole."""

    def __init__(self, place: str) -> None:
        self.place, self.postgres = place, "://" in place
        self.tables = TABLES[self.postgres]
        connection: Any
        if self.postgres:
            connection = psycopg.connect(place, autocommit=True, prepare_threshold=0, row_factory=dict_row)
            connection.execute("set synchronous_commit = off")
            self.saver: Any = PostgresSaver(connection)
        else:
            connection = sqlite3.connect(place, check_same_thread=False)
            connection.execute("pragma synchronous = off")
            self.saver = SqliteSaver(connection)
        self.connection = connection
        self.saver.setup()
        self._held: dict[Any, str] | None = None

    def rows(self) -> Rows:
        """All rows in the order of their keys."""
        found = Rows()
        for table, name in self.tables.items():
            cursor = self.connection.execute(f"select * from {name}")  # noqa: S608 - constants
            columns = [column[0] for column in cursor.description]
            there = [each if self.postgres else dict(zip(columns, each, strict=True)) for each in cursor.fetchall()]
            renamed = [{_ours(table, name): value for name, value in row.items()} for row in there]
            found[table] = sorted(renamed, key=lambda row: [str(row[name]) for name in KEYS[table]])
        return found

    def load(self, rows: Rows) -> list[Any]:
        """Replace all rows; the ids of the threads that are others since rows were loaded last."""
        held, self._held = self._held, None
        wanted = _by_thread(rows)
        changed = [
            thread for thread in {**(held or {}), **wanted} if not held or held.get(thread) != wanted.get(thread)
        ]
        same = "is not distinct from %s" if self.postgres else "is ?"
        for table, name in self.tables.items():
            for thread in changed if held is not None else ():
                self.connection.execute(f"delete from {name} where thread_id {same}", (thread,))  # noqa: S608 - constants
            if held is None:
                self.connection.execute(f"delete from {name}")  # noqa: S608 - constants
            there = [row for row in rows[table] if row["thread_id"] in changed]
            for columns in {tuple(row) for row in there}:
                marks = ", ".join(["%s" if self.postgres else "?"] * len(columns))
                named = ", ".join("blob" if self.postgres and each == "value" else each for each in columns)
                sql = f"insert into {name} ({named}) values ({marks})"  # noqa: S608 - constants
                values = [self._stored(row) for row in there if tuple(row) == columns]
                (self.connection.cursor() if self.postgres else self.connection).executemany(sql, values)
        self.connection.commit()
        self._held = wanted
        return changed

    def forget(self) -> None:
        """Others have written to it: `load` replaces all rows."""
        self._held = None

    @staticmethod
    def _stored(row: Row) -> list[Any]:
        return [Jsonb(value) if isinstance(value, dict | list) else value for value in row.values()]


@contextmanager
def database(place: str) -> Iterator[Database]:
    """Open a database and empty it."""
    opened = Database(place)
    with closing(opened.connection):
        opened.load({table: [] for table in opened.tables})
        yield opened


def _by_thread(rows: Rows) -> dict[Any, str]:
    """All that is stored of each thread, as a text that tells 1 from 1.0."""
    found: dict[Any, list[str]] = {}
    for table, there in rows.items():
        for row in there:
            found.setdefault(row["thread_id"], []).append(f"{table} {row!r}")
    return {thread: "".join(sorted(each)) for thread, each in found.items()}


def _ours(table: str, name: str) -> str:
    return "value" if table != "checkpoints" and name == "blob" else name


def decoded(row: Row, column: str) -> Any:
    """The value in a column: what msgpack or JSON says, or the bare value of a key."""
    stored = row[column]
    if column in ("checkpoint", "value"):
        return unpack(stored) if isinstance(stored, bytes) and row.get("type") == "msgpack" else stored
    return json.loads(stored) if column == "metadata" and isinstance(stored, bytes | str) else stored


def encoded(row: Row, column: str, value: Any) -> Any:
    """The form in which a column keeps a value."""
    if column in ("checkpoint", "value") and row.get("type") == "msgpack":
        return value if isinstance(row[column], dict) else pack(value)
    return json.dumps(value).encode() if column == "metadata" and isinstance(row[column], bytes) else value


@dataclass(frozen=True)
class Scene:
    """The rows of some threads, with hands to change them."""

    rows: Rows
    """The rows."""

    @classmethod
    def of(cls, rows: Rows) -> Scene:
        """A copy that may be changed."""
        return cls(deepcopy(rows))

    def checkpoints(self, thread: str, namespace: str = "") -> list[Row]:
        """The checkpoints of a place, in order."""
        return [row for row in self.rows["checkpoints"] if _is_at(row, thread, namespace)]

    def writes(self, thread: str, channel: str | None = None, at: str | None = None, namespace: str = "") -> list[Row]:
        """The writes of a place, in order: all, or those to a channel, or behind a checkpoint."""
        return [
            row for row in self.rows["writes"]
            if _is_at(row, thread, namespace)
            and channel in (None, row["channel"]) and at in (None, row["checkpoint_id"])
        ]  # fmt: skip

    def steps(self, thread: str, namespace: str = "") -> list[Row]:
        """The stored steps of a run, in order; the first write to the trace only empties it."""
        return self.writes(thread, "trace", namespace=namespace)[1:]

    def remove(self, table: str, *rows: Row) -> None:
        """Remove rows."""
        self.rows[table] = [row for row in self.rows[table] if not any(row is each for each in rows)]

    def add(self, table: str, row: Row, **changed: Any) -> Row:
        """Add a row like another one."""
        made = {**deepcopy(row), **changed}
        self.rows[table].append(made)
        return made

    def channel(self, checkpoint: Row, name: str) -> Any:
        """The value of a channel in a checkpoint; None where it has none."""
        values = decoded(checkpoint, "checkpoint")["channel_values"]
        blob = self._blob(checkpoint, name)
        return values.get(name) if blob is None else decoded(blob, "value")

    def put(self, checkpoint: Row, name: str, value: Any) -> None:
        """Put a value in the place of that of a channel."""
        content = decoded(checkpoint, "checkpoint")
        blob = self._blob(checkpoint, name)
        if blob is not None:
            blob["type"], blob["value"] = "msgpack", pack(value)
        elif "blobs" in self.rows and not isinstance(value, str | int | float | bool | None):
            place = {name: checkpoint[name] for name in ("thread_id", "checkpoint_ns")}
            version = str(content["channel_versions"].setdefault(name, "99"))
            kept = {"channel": name, "version": version, "type": "msgpack", "value": pack(value)}
            self.rows["blobs"].append({**place, **kept})
            content["channel_values"].pop(name, None)
        else:
            content["channel_values"][name] = value
        checkpoint["checkpoint"] = encoded(checkpoint, "checkpoint", content)

    def _blob(self, checkpoint: Row, name: str) -> Row | None:
        version = decoded(checkpoint, "checkpoint")["channel_versions"].get(name)
        place = (checkpoint["thread_id"], checkpoint["checkpoint_ns"], name, version)
        found = (row for row in self.rows.get("blobs", ()) if tuple(row[key] for key in KEYS["blobs"]) == place)
        return next((row for row in found if row["type"] != "empty"), None)


def _is_at(row: Row, thread: str, namespace: str) -> bool:
    return (row["thread_id"], row["checkpoint_ns"]) == (thread, namespace)


def rewrite(row: Row, column: str, change: Any) -> None:
    """Put what ``change`` makes of the value of a column in its place."""
    row[column] = encoded(row, column, change(decoded(row, column)))


def extension(code: int, value: Any) -> Any:
    """A value wrapped in one of LangGraph's msgpack extensions, which are built as objects when they are read."""
    if code == 7:
        return ormsgpack.Ext(code, pack(value))
    if code == 2:
        return ormsgpack.Ext(code, pack(["langgraph.types", "Overwrite", {"value": value, "type": "__overwrite__"}]))
    return ormsgpack.Ext(code, pack(["builtins", "dict", value, "get"]))


def read(saver: Any) -> list[RecordedRun]:
    """All runs in a database."""
    return read_all_runs(saver)


def noticed(saver: Any, keys: dict[str, str | None], threads: list[Any] | None = None) -> str | None:
    """What is found in a database, or why it is not read; None where all is well.

    ``keys``: those that runs are signed with, by thread id. ``threads``: those to look at; None looks at all.
    """
    try:
        texts = threads is not None and all(isinstance(each, str) for each in threads)
        runs = [run for each in threads or () for run in find_recorded(saver, each)] if texts else read(saver)
        found = [each for run in runs for each in verify(run, public_key=keys.get(run.thread_id)).findings]
    except ThreadError as error:
        return f"refused: {error}"
    return found[0].problem if found else None
