"""Read-only access to any LangGraph checkpointer, which does not trust what is stored."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing, contextmanager
from copy import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import quote

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from specreason_graph.audit.read.serializer import CheckedSerializer, Damaged
from specreason_graph.errors import ConfigError, ThreadError, UsageError
from specreason_graph.files import may

Key = tuple[str, str, str]
"""Thread id, namespace and id of a checkpoint."""


class ReadOnly:
    """A checkpointer that can only be read."""

    def __init__(self, checkpointer: BaseCheckpointSaver[Any]) -> None:
        self._saver = copy(checkpointer)  # a copy, so that the caller's saver keeps its own serializer
        self._saver.serde = CheckedSerializer(checkpointer.serde)
        if hasattr(self._saver, "is_setup"):
            self._saver.is_setup = True  # else SQLite savers create their tables at the first use, which is a write

    def checkpoints(self, thread_id: str | None = None, *, limit: int | None = None) -> Iterator[CheckpointTuple]:
        """Yield all checkpoints of a thread, or of all threads, the latest first; with ``limit`` no more than these.

        One that the saver cannot read is given as `Damaged`, and does not hide the others.
        """
        seen = set[Key]()
        try:
            for each in self._saver.list(_thread(thread_id), limit=limit):
                seen.add(key_of(each.config))
                yield each
        except Exception as error:  # a row may hold anything, and savers trust what is in it
            if "no such table" in str(error) or type(error).__name__ == "UndefinedTable":
                return  # nothing was ever kept
            keys = _keys(self._saver, thread_id)
            if keys is None:
                raise _unreadable(error) from error
            yield from (self._one(key, parent) for key, parent in keys[:limit] if key not in seen)

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


class ThreadMark(NamedTuple):
    """What tells whether somebody has written into a thread: it is another one after each checkpoint."""

    latest: str
    """Id of the latest checkpoint; they are in the order of time."""
    checkpoints: int
    """How many checkpoints there are."""


def thread_marks(checkpointer: BaseCheckpointSaver[Any]) -> dict[str, ThreadMark]:
    """Return the mark of each thread, that which was written last first; of an SQLite or PostgreSQL saver.

    Only the keys are read, so it may be asked for often. Raises `ThreadError` for a saver of another kind.
    """
    select = "select thread_id, max(checkpoint_id), count(*) from checkpoints group by thread_id"
    rows = _rows(checkpointer, select, ("thread_id", "max(checkpoint_id)"))
    if rows is None:
        kind = type(checkpointer).__name__
        raise ThreadError(f"a {kind} cannot be followed", hint="use SqliteSaver or PostgresSaver")
    marks = [(str(row[0]), ThreadMark(str(row[1]), int(row[2]))) for row in rows]
    return dict(sorted(marks, key=lambda each: each[1].latest, reverse=True))


def data_version(checkpointer: BaseCheckpointSaver[Any]) -> int | None:
    """Return a number that is another one when somebody else has written into the database; None where none tells.

    SQLite tells it without reading anything; it is that of this connection only.
    """
    if type(checkpointer).__name__ != "SqliteSaver":
        return None
    with cast("Any", checkpointer).cursor(transaction=False) as cursor:
        return int(cursor.execute("pragma data_version").fetchone()[0])


def key_of(config: RunnableConfig) -> Key:
    """Return the thread id, the namespace and the id of a checkpoint."""
    place = config["configurable"]
    return place["thread_id"], place.get("checkpoint_ns", ""), place["checkpoint_id"]


def _config(thread_id: str, namespace: str, checkpoint_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}}


def _keys(saver: BaseCheckpointSaver[Any], thread_id: str | None) -> list[tuple[Key, str | None]] | None:
    """The keys of all checkpoints and of those before them, the latest first; None for an unknown kind of saver."""
    names = ("thread_id", "checkpoint_ns", "checkpoint_id", "parent_checkpoint_id")
    where = "" if thread_id is None else " where thread_id = ?"
    select = f"select {', '.join(names)} from checkpoints{where} order by checkpoint_id desc"  # noqa: S608
    rows = _rows(saver, select, names, () if thread_id is None else (thread_id,))
    return None if rows is None else [((str(row[0]), str(row[1]), str(row[2])), row[3]) for row in rows]


def _rows(
    saver: BaseCheckpointSaver[Any], select: str, texts: Sequence[str], values: tuple[Any, ...] = ()
) -> list[list[Any]] | None:
    """The rows of a query, written for SQLite, of which ``texts`` are columns of text; None for an unknown saver."""
    found = cast("Any", saver)
    if type(saver).__name__ == "PostgresSaver":
        with found._cursor() as cursor:  # noqa: SLF001 - there is no public one
            cursor.execute(select.replace("?", "%s"), values)
            return [list(row.values()) for row in cursor.fetchall()]
    if type(saver).__name__ != "SqliteSaver":
        return None
    columns, rest = select.split(" from ", 1)
    for name in texts:  # SQLite keeps bytes that are no UTF-8 as text, and then fails to read them
        columns = columns.replace(f" {name}", f" cast({name} as blob)", 1)
    with found.cursor(transaction=False) as cursor:
        cursor.execute(f"{columns} from {rest}", values)
        rows = cursor.fetchall()
    return [[each.decode(errors="replace") if isinstance(each, bytes) else each for each in row] for row in rows]


def _unreadable(error: Exception) -> ThreadError:
    return ThreadError(f"a row of the database cannot be read: {error}", hint="it is damaged, or not LangGraph's")


def _thread(thread_id: str | None) -> RunnableConfig | None:
    return None if thread_id is None else {"configurable": {"thread_id": thread_id}}


@contextmanager
def open_database(where: str | Path) -> Iterator[BaseCheckpointSaver[Any]]:
    """Open a database for reading only, as a checkpointer.

    ``where``: an SQLite file, or ``postgresql://...`` (extra ``postgres``). Raises `UsageError` for a database that
    cannot be read, also when that shows only while it is read.
    """
    scheme, is_url, _ = str(where).partition("://")
    if is_url and scheme in ("postgres", "postgresql"):
        with _postgres(str(where)) as saver:
            yield saver
        return
    if is_url:  # the rest is not repeated: it may hold a password
        raise UsageError(f"{scheme}:// is no database", hint="name an SQLite file or postgresql://... with --db")
    from langgraph.checkpoint.sqlite import SqliteSaver

    file = Path(where).expanduser()
    with closing(_sqlite(file)) as connection:
        try:
            yield SqliteSaver(connection)
        except sqlite3.Error as error:
            raise _unread(file, error) from None


def _sqlite(file: Path) -> sqlite3.Connection:
    try:
        if not file.exists():
            raise UsageError(f"there is no database {file}", hint="check --db")
        if not file.is_file():
            raise UsageError(f"database {file} cannot be read: it is no file", hint="check --db")
        problem = "" if may(file, os.R_OK) else "Permission denied"
        if problem or not file.stat().st_size:
            raise UsageError(f"database {file} cannot be read: {problem or 'it is empty'}", hint="check --db")
        connection = _connected(Path(os.path.realpath(file)))
    except (sqlite3.Error, OSError) as error:
        raise _unread(file, error) from None
    tables = {row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")}
    if not {"checkpoints", "writes"} <= tables:
        connection.close()
        raise UsageError(f"database {file} holds no LangGraph checkpoints", hint="check --db")
    return connection


def _connected(file: Path) -> sqlite3.Connection:
    try:
        return _connect(file, "mode=ro")
    except sqlite3.OperationalError as error:
        # In WAL mode SQLite makes files beside the database, and cannot where it may only read. When neither a WAL nor
        # a journal is there, the file alone is the database, and can be read as one that nobody changes.
        if _code(error) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) or _has_changes_beside(file):
            raise
        if all(may(each, os.W_OK) for each in (file, file.parent)):
            raise
        return _connect(file, "immutable=1")


def _connect(file: Path, options: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{quote(str(file))}?{options}", uri=True, check_same_thread=False)
    try:
        connection.execute("select count(*) from sqlite_master").fetchone()  # opens the file, and reads its header
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _has_changes_beside(file: Path) -> bool:
    """Whether changes of a database stand in a file beside it, from which SQLite must first take them over."""
    beside = [file.with_name(f"{file.name}{ending}") for ending in ("-wal", "-journal")]
    return any(each.exists() and each.stat().st_size for each in beside)


def _unread(file: Path, error: sqlite3.Error | OSError) -> UsageError:
    """Return the error for a file that the system or SQLite cannot read."""
    hint, cause = "check --db", str(error)
    if isinstance(error, OSError):
        cause = error.strerror or cause
    elif _code(error) == sqlite3.SQLITE_NOTADB:
        cause = "it is no SQLite database, or is encrypted"
    elif _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        hint = "another process holds it: try again when that has ended"
    elif _code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) and _has_changes_beside(file.resolve()):
        cause = "changes stand in a file beside it, and the folder is read-only"
        hint = "copy the database and its -wal or -journal to a folder that you can write to, and name the copy"
    return UsageError(f"database {file} cannot be read: {cause}", hint=hint)


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's own code of an error, without the details in its upper bits."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


@contextmanager
def _postgres(url: str) -> Iterator[BaseCheckpointSaver[Any]]:
    if find_spec("langgraph.checkpoint.postgres") is None:
        hint = 'install it with pip install "specreason-graph[postgres]"'
        raise ConfigError("PostgreSQL needs langgraph-checkpoint-postgres", hint=hint)
    import psycopg
    from langgraph.checkpoint.postgres import PostgresSaver
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.rows import dict_row

    try:
        parts = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    except psycopg.Error:
        parts = {"host": "@"}
    # What is said of an address that is read in another way than it is meant repeats parts of the password.
    if any("@" in parts.get(name, "") for name in ("host", "dbname", "port")):
        hint = "write @, / and other marks in the password as in %40 and %2F"
        raise UsageError("the address of the PostgreSQL database cannot be read", hint=hint)
    try:
        # The same arguments as in PostgresSaver.from_conn_string, which opens no read-only connection.
        with closing(psycopg.connect(url, autocommit=True, prepare_threshold=0, row_factory=dict_row)) as connection:
            connection.read_only = True
            # With these plans PostgreSQL may scan a whole thread once for each of its checkpoints.
            for plan in ("hashjoin", "mergejoin", "seqscan"):
                connection.execute(f"set enable_{plan} = off")
            found = connection.execute("select to_regclass('checkpoints') as found").fetchone()
            if not found or found["found"] is None:
                raise UsageError("the PostgreSQL database holds no LangGraph checkpoints", hint="check --db")
            yield PostgresSaver(connection)
    except psycopg.Error as error:
        cause = str(error)
        for name in ("password", "sslpassword"):
            cause = cause.replace(parts[name], "***") if parts.get(name) else cause
        raise UsageError(f"the PostgreSQL database cannot be read: {cause}", hint="check --db") from None


def no_such_thread(thread_id: str) -> ThreadError:
    """Return the error for a thread that has no checkpoints."""
    hint = "check the thread id and --db; `specreason audit list` with the same --db lists the threads"
    return ThreadError(f"no thread {thread_id!r} in this database", hint=hint)
