"""The database tables of LangGraph's savers: counting bytes and removing rows."""

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
    """What is removed from one namespace."""

    checkpoints: Sequence[str]
    """Ids of the checkpoints that are removed, together with their pending writes."""
    kept: Sequence[str]
    """Ids of the checkpoints that stay; their parents are removed."""
    closed: Sequence[str]
    """Ids of the kept checkpoints that have a follower, which contains their pending writes: those are removed."""


class Removed(NamedTuple):
    """Numbers of removed rows."""

    checkpoints: int = 0
    writes: int = 0
    blobs: int = 0


class Tables(Protocol):
    """The tables of one kind of database."""

    def size(self, thread_id: str, namespaces: Sequence[str]) -> int:
        """Return the bytes that are stored in these namespaces, without keys and indexes."""

    def remove(self, thread_id: str, doomed: Mapping[str, Doomed], *, dry_run: bool) -> tuple[Removed, int]:
        """Remove rows by namespace in one transaction; return the numbers of removed rows and the bytes left.

        A dry run rolls the transaction back, so that it counts what would be removed.
        """


def tables_of(checkpointer: BaseCheckpointSaver[Any]) -> Tables:
    """Return the tables of a checkpointer; raise `ConfigError` unless it is a SqliteSaver or PostgresSaver."""
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
    """Tables of SqliteSaver: a checkpoint holds its values in its own row."""

    def __init__(self, saver: SqliteSaver) -> None:
        self._saver = saver

    def size(self, thread_id: str, namespaces: Sequence[str]) -> int:
        """Return the bytes that are stored in these namespaces."""
        with self._saver.cursor(transaction=False) as cursor:
            return self._size(cursor, thread_id, namespaces)

    def remove(self, thread_id: str, doomed: Mapping[str, Doomed], *, dry_run: bool) -> tuple[Removed, int]:
        """Remove rows by namespace in one transaction."""
        with self._transaction(keep=not dry_run) as cursor:
            removed = [self.remove_rows(cursor, (thread_id, namespace), each) for namespace, each in doomed.items()]
            return _total(removed), self._size(cursor, thread_id, list(doomed))

    @contextmanager
    def _transaction(self, *, keep: bool) -> Iterator[Any]:
        self._saver.setup()  # it runs a script that would commit an open transaction
        with self._saver.lock:  # the saver's own lock around its one connection
            connection = self._saver.conn
            cursor = connection.execute("begin immediate")  # the write lock from the start, and not at the first delete
            try:
                yield cursor
            except BaseException:
                connection.rollback()
                raise
            (connection.commit if keep else connection.rollback)()

    def remove_rows(self, cursor: Any, place: Place, doomed: Doomed) -> Removed:
        """Remove the rows of one namespace, inside the caller's transaction."""
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
        keys = [(thread_id, namespace) for namespace in namespaces]
        return sum(cursor.execute(query, key).fetchone()[0] for query in stored for key in keys)


class PostgresTables:
    """Tables of PostgresSaver: a checkpoint names the versions of its values, which are in a table of their own."""

    def __init__(self, saver: PostgresSaver) -> None:
        self._saver = saver

    def size(self, thread_id: str, namespaces: Sequence[str]) -> int:
        """Return the bytes that are stored in these namespaces."""
        with self._saver._cursor() as cursor:  # noqa: SLF001 - the saver has no public one
            return self._size(cursor, thread_id, namespaces)

    def remove(self, thread_id: str, doomed: Mapping[str, Doomed], *, dry_run: bool) -> tuple[Removed, int]:
        """Remove rows by namespace in one transaction."""
        with self._saver._cursor() as cursor, cursor.connection.transaction(force_rollback=dry_run):  # noqa: SLF001
            removed = [self.remove_rows(cursor, (thread_id, namespace), each) for namespace, each in doomed.items()]
            return _total(removed), self._size(cursor, thread_id, list(doomed))

    def remove_rows(self, cursor: Any, place: Place, doomed: Doomed) -> Removed:
        """Remove the rows of one namespace, inside the caller's transaction."""
        at = "thread_id = %s and checkpoint_ns = %s"
        named = f"{at} and checkpoint_id = any(%s)"
        cursor.execute(f"delete from checkpoints where {named}", (*place, list(doomed.checkpoints)))  # noqa: S608
        checkpoints = cursor.rowcount
        written = [*doomed.checkpoints, *doomed.closed]
        cursor.execute(f"delete from checkpoint_writes where {named}", (*place, written))  # noqa: S608
        writes = cursor.rowcount
        orphan = f"update checkpoints set parent_checkpoint_id = null where {named}"  # noqa: S608
        cursor.execute(orphan, (*place, list(doomed.kept)))
        # Checkpoints share values: one may only go when no checkpoint that is left names its version.
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
