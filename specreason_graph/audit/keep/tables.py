"""The tables that LangGraph's savers keep checkpoints in, as far as rows are counted in them and removed from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from langgraph.checkpoint.base import BaseCheckpointSaver

from specreason_graph.errors import ConfigError

if TYPE_CHECKING:
    from langgraph.checkpoint.postgres import PostgresSaver
    from langgraph.checkpoint.sqlite import SqliteSaver

Place = tuple[str, str]
"""Thread id and namespace."""


@dataclass(frozen=True)
class Doomed:
    """What goes from one namespace."""

    checkpoints: Sequence[str]
    """Ids of the checkpoints that go, with all that was written on top of them."""
    kept: Sequence[str]
    """Ids of those that stay, and lose their parents."""
    closed: Sequence[str]
    """Those of them that something came after: what was written on top of them goes."""


class Removed(NamedTuple):
    """Rows that went."""

    checkpoints: int = 0
    writes: int = 0
    blobs: int = 0


class Tables(Protocol):
    """What is asked of each kind of database."""

    def size(self, thread_id: str, namespaces: Sequence[str]) -> int:
        """Bytes of what is stored in these namespaces, keys and indexes not counted."""

    def remove(self, thread_id: str, doomed: Mapping[str, Doomed], *, dry_run: bool) -> tuple[Removed, int]:
        """Remove rows by namespace in one transaction; what went, and the bytes that are left.

        A dry run rolls the transaction back.
        """


def tables_of(checkpointer: BaseCheckpointSaver[Any]) -> Tables:
    """The tables behind a checkpointer; `ConfigError` unless it is a synchronous one for SQLite or PostgreSQL."""
    if find_spec("langgraph.checkpoint.sqlite") is not None:
        from langgraph.checkpoint.sqlite import SqliteSaver

        if isinstance(checkpointer, SqliteSaver):
            return SqliteTables(checkpointer)
    if find_spec("langgraph.checkpoint.postgres") is not None:
        from langgraph.checkpoint.postgres import PostgresSaver

        if isinstance(checkpointer, PostgresSaver):
            return PostgresTables(checkpointer)
    name = type(checkpointer).__name__
    raise ConfigError(f"{name} cannot be pruned", hint="open its database with SqliteSaver or PostgresSaver")


class SqliteTables:
    """A checkpoint holds its values in its own row."""

    def __init__(self, saver: SqliteSaver) -> None:
        self._saver = saver

    def size(self, thread_id: str, namespaces: Sequence[str]) -> int:
        """Bytes of what is stored."""
        with self._saver.cursor(transaction=False) as cursor:
            return self._size(cursor, thread_id, namespaces)

    def remove(self, thread_id: str, doomed: Mapping[str, Doomed], *, dry_run: bool) -> tuple[Removed, int]:
        """Remove rows in one transaction."""
        with self._transaction(keep=not dry_run) as cursor:
            went = [self.remove_rows(cursor, (thread_id, namespace), each) for namespace, each in doomed.items()]
            return _total(went), self._size(cursor, thread_id, list(doomed))

    @contextmanager
    def _transaction(self, *, keep: bool) -> Iterator[Any]:
        self._saver.setup()
        with self._saver.lock:
            connection = self._saver.conn
            cursor = connection.execute("begin immediate")
            try:
                yield cursor
            except BaseException:
                connection.rollback()
                raise
            (connection.commit if keep else connection.rollback)()

    def remove_rows(self, cursor: Any, place: Place, doomed: Doomed) -> Removed:
        """Remove what is doomed in one namespace, inside the caller's transaction."""
        at = "thread_id = ? and checkpoint_ns = ? and checkpoint_id = ?"
        cursor.executemany(f"delete from checkpoints where {at}", [(*place, name) for name in doomed.checkpoints])  # noqa: S608
        checkpoints = cursor.rowcount
        written = [*doomed.checkpoints, *doomed.closed]
        cursor.executemany(f"delete from writes where {at}", [(*place, name) for name in written])  # noqa: S608
        writes = cursor.rowcount
        orphan = f"update checkpoints set parent_checkpoint_id = null where {at}"  # noqa: S608
        cursor.executemany(orphan, [(*place, name) for name in doomed.kept])
        return Removed(max(0, checkpoints), max(0, writes))

    def _size(self, cursor: Any, thread_id: str, namespaces: Sequence[str]) -> int:
        stored = (
            "select coalesce(sum(length(checkpoint) + length(metadata)), 0) from checkpoints"
            " where thread_id = ? and checkpoint_ns = ?",
            "select coalesce(sum(length(value)), 0) from writes where thread_id = ? and checkpoint_ns = ?",
        )
        places = [(thread_id, namespace) for namespace in namespaces]
        return sum(cursor.execute(query, place).fetchone()[0] for query in stored for place in places)


class PostgresTables:
    """A checkpoint holds the versions of its values, and those are in a table of their own."""

    def __init__(self, saver: PostgresSaver) -> None:
        self._saver = saver

    def size(self, thread_id: str, namespaces: Sequence[str]) -> int:
        """Bytes of what is stored."""
        with self._saver._cursor() as cursor:
            return self._size(cursor, thread_id, namespaces)

    def remove(self, thread_id: str, doomed: Mapping[str, Doomed], *, dry_run: bool) -> tuple[Removed, int]:
        """Remove rows in one transaction."""
        with self._saver._cursor() as cursor, cursor.connection.transaction(force_rollback=dry_run):
            went = [self.remove_rows(cursor, (thread_id, namespace), each) for namespace, each in doomed.items()]
            return _total(went), self._size(cursor, thread_id, list(doomed))

    def remove_rows(self, cursor: Any, place: Place, doomed: Doomed) -> Removed:
        """Remove what is doomed in one namespace, inside the caller's transaction."""
        at = "thread_id = %s and checkpoint_ns = %s"
        named = f"{at} and checkpoint_id = any(%s)"
        cursor.execute(f"delete from checkpoints where {named}", (*place, list(doomed.checkpoints)))  # noqa: S608
        checkpoints = cursor.rowcount
        written = [*doomed.checkpoints, *doomed.closed]
        cursor.execute(f"delete from checkpoint_writes where {named}", (*place, written))  # noqa: S608
        writes = cursor.rowcount
        orphan = f"update checkpoints set parent_checkpoint_id = null where {named}"  # noqa: S608
        cursor.execute(orphan, (*place, list(doomed.kept)))
        used = (
            "select 1 from checkpoints c where c.thread_id = b.thread_id and c.checkpoint_ns = b.checkpoint_ns"
            " and c.checkpoint -> 'channel_versions' ->> b.channel = b.version"
        )
        cursor.execute(f"delete from checkpoint_blobs b where {at} and not exists ({used})", place)  # noqa: S608
        return Removed(checkpoints, writes, cursor.rowcount)

    def _size(self, cursor: Any, thread_id: str, namespaces: Sequence[str]) -> int:
        stored = (
            ("checkpoints", "octet_length(checkpoint::text) + octet_length(metadata::text)"),
            ("checkpoint_writes", "octet_length(blob)"),
            ("checkpoint_blobs", "octet_length(blob)"),
        )
        total = 0
        for table, bytes_of in stored:
            query = f"select coalesce(sum({bytes_of}), 0) as bytes from {table}"  # noqa: S608 - from the lines above
            cursor.execute(f"{query} where thread_id = %s and checkpoint_ns = any(%s)", (thread_id, list(namespaces)))
            total += int(cursor.fetchone()["bytes"])
        return total


def _total(removed: Sequence[Removed]) -> Removed:
    return Removed(*(sum(counts) for counts in zip(*removed, strict=True)))
