"""Read-only access to any LangGraph checkpointer, which does not trust what is stored."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from copy import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from specreason_graph.audit.read.serializer import CheckedSerializer, Damaged
from specreason_graph.errors import ConfigError, ThreadError, UsageError

Key = tuple[str, str, str]
"""Thread id, namespace and id of a checkpoint."""


class ReadOnly:
    """A checkpointer that can only be read."""

    def __init__(self, checkpointer: BaseCheckpointSaver[Any]) -> None:
        self._saver = copy(checkpointer)  # a copy, so that the caller's saver keeps its own serializer
        self._saver.serde = CheckedSerializer(checkpointer.serde)
        if hasattr(self._saver, "is_setup"):
            self._saver.is_setup = True  # else SQLite savers create their tables at the first use, which is a write

    def checkpoints(self, thread_id: str | None = None) -> Iterator[CheckpointTuple]:
        """Yield all checkpoints of a thread, or of all threads, the latest first.

        One that the saver cannot read is given as `Damaged`, and does not hide the others.
        """
        seen = set[Key]()
        try:
            for each in self._saver.list(_thread(thread_id)):
                seen.add(_key(each.config))
                yield each
        except Exception as error:  # a row may hold anything, and savers trust what is in it
            if "no such table" in str(error) or type(error).__name__ == "UndefinedTable":
                return  # nothing was ever kept
            keys = _keys(self._saver, thread_id)
            if keys is None:
                raise _unreadable(error) from error
            yield from (self._one(key, parent) for key, parent in keys if key not in seen)

    def _one(self, key: Key, parent: str | None) -> CheckpointTuple:
        config = _config(*key)
        try:
            found = self._saver.get_tuple(config)
            problem = "has a key that is no text"
        except Exception as error:
            found, problem = None, f"cannot be read: {str(error) or type(error).__name__}"
        before = _config(*key[:2], parent) if parent else None
        return found or CheckpointTuple(config, Damaged(problem), {}, before, [])  # type: ignore[arg-type]

    def checkpoint(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return one checkpoint."""
        return self._saver.get_tuple(config)

    async def acheckpoints(self, thread_id: str | None = None) -> AsyncIterator[CheckpointTuple]:
        """Yield all checkpoints of a thread, or of all threads, from an asynchronous checkpointer.

        Raises `ThreadError` for one that the saver cannot read.
        """
        try:
            async for each in self._saver.alist(_thread(thread_id)):
                yield each
        except Exception as error:
            if "no such table" in str(error) or type(error).__name__ == "UndefinedTable":
                return
            raise _unreadable(error) from error


def _key(config: RunnableConfig) -> Key:
    place = config["configurable"]
    return place["thread_id"], place.get("checkpoint_ns", ""), place["checkpoint_id"]


def _config(thread_id: str, namespace: str, checkpoint_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}}


def _keys(saver: BaseCheckpointSaver[Any], thread_id: str | None) -> list[tuple[Key, str | None]] | None:
    """The keys of all checkpoints and of those before them, the latest first; None for an unknown kind of saver."""
    names = "thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id"
    postgres = type(saver).__name__ == "PostgresSaver"
    if not postgres and type(saver).__name__ != "SqliteSaver":
        return None
    mark, found = "%s" if postgres else "?", cast("Any", saver)
    where, values = ("", ()) if thread_id is None else (f" where thread_id = {mark}", (thread_id,))
    if not postgres:  # SQLite keeps bytes that are no UTF-8 as text, and then fails to read them
        names = ", ".join(f"cast({name} as blob)" for name in names.split(", "))
    with found._cursor() if postgres else found.cursor(transaction=False) as cursor:  # noqa: SLF001 - there is no public one
        cursor.execute(f"select {names} from checkpoints{where} order by checkpoint_id desc", values)  # noqa: S608
        rows = [tuple(row.values()) if isinstance(row, dict) else row for row in cursor.fetchall()]
    texts = [[each.decode(errors="replace") if isinstance(each, bytes) else each for each in row] for row in rows]
    return [((str(row[0]), str(row[1]), str(row[2])), row[3]) for row in texts]


def _unreadable(error: Exception) -> ThreadError:
    return ThreadError(f"a row of the database cannot be read: {error}", hint="it is damaged, or not LangGraph's")


def _thread(thread_id: str | None) -> RunnableConfig | None:
    return None if thread_id is None else {"configurable": {"thread_id": thread_id}}


@contextmanager
def open_database(where: str | Path) -> Iterator[BaseCheckpointSaver[Any]]:
    """Open a database for reading only, as a checkpointer.

    ``where``: an SQLite file, or ``postgresql://...`` (extra ``postgres``). Raises `UsageError` for a database that
    cannot be read.
    """
    if str(where).startswith(("postgres://", "postgresql://")):
        with _postgres(str(where)) as saver:
            yield saver
        return
    from langgraph.checkpoint.sqlite import SqliteSaver

    with closing(_sqlite(Path(where).expanduser())) as connection:
        yield SqliteSaver(connection)


def _sqlite(file: Path) -> sqlite3.Connection:
    if not file.is_file():
        raise UsageError(f"there is no database {file}", hint="check --db")
    connection = sqlite3.connect(f"file:{quote(str(file.resolve()))}?mode=ro", uri=True, check_same_thread=False)
    try:
        tables = {row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")}
    except sqlite3.DatabaseError as error:
        connection.close()
        raise UsageError(f"database {file} cannot be read: {error}", hint="check --db") from None
    if not {"checkpoints", "writes"} <= tables:
        connection.close()
        raise UsageError(f"database {file} holds no LangGraph checkpoints", hint="check --db")
    return connection


@contextmanager
def _postgres(url: str) -> Iterator[BaseCheckpointSaver[Any]]:
    if find_spec("langgraph.checkpoint.postgres") is None:
        hint = 'install it with pip install "specreason-graph[postgres]"'
        raise ConfigError("PostgreSQL needs langgraph-checkpoint-postgres", hint=hint)
    import psycopg
    from langgraph.checkpoint.postgres import PostgresSaver
    from psycopg.rows import dict_row

    try:
        # The same arguments as in PostgresSaver.from_conn_string, which opens no read-only connection.
        connection = psycopg.connect(url, autocommit=True, prepare_threshold=0, row_factory=dict_row)
    except psycopg.Error as error:
        raise UsageError(f"the PostgreSQL database cannot be opened: {error}", hint="check --db") from None
    with closing(connection):
        connection.read_only = True
        # With these plans PostgreSQL may scan a whole thread once for each of its checkpoints.
        for plan in ("hashjoin", "mergejoin", "seqscan"):
            connection.execute(f"set enable_{plan} = off")
        found = connection.execute("select to_regclass('checkpoints') as found").fetchone()
        if not found or found["found"] is None:
            raise UsageError("the PostgreSQL database holds no LangGraph checkpoints", hint="check --db")
        yield PostgresSaver(connection)


def no_such_thread(thread_id: str) -> ThreadError:
    """Return the error for a thread that has no checkpoints."""
    return ThreadError(f"no thread {thread_id!r} in this database", hint="check the thread id and --db")
