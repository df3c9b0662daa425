"""Read-only access to any LangGraph checkpointer, which does not trust what is stored."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from copy import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from specreason_graph.errors import ConfigError, ThreadError, UsageError

LOCKED = "is encrypted, and the checkpointer has no key"


class Damaged(dict[str, Any]):
    """Takes the place of a stored value that is damaged, in the form of a checkpoint, with what can be read of it."""

    def __init__(self, problem: str, value: Any = None) -> None:
        read = value if isinstance(value, dict) else {}
        super().__init__({"channel_values": {}, "channel_versions": {}, **read})
        self.problem = problem
        self.readable = value is not None


class CheckedSerializer(SerializerProtocol):
    """Reads strictly: it imports no code for stored values, and returns `Damaged` for bytes that nobody would write."""

    def __init__(self, serde: SerializerProtocol) -> None:
        self._serde, self._plain = serde, JsonPlusSerializer(allowed_msgpack_modules=None)
        if isinstance(serde, EncryptedSerializer):
            self._serde = EncryptedSerializer(serde.cipher, self)  # what it decrypts goes through the checks here, too
        self._encrypted = isinstance(serde, EncryptedSerializer)
        self._ours = self._encrypted or isinstance(serde, JsonPlusSerializer)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Return the stored value, or `Damaged`."""
        if not self._encrypted and "+" in data[0]:  # LangGraph appends the cipher to the type, as in "msgpack+aes"
            return Damaged(LOCKED)
        try:
            if self._encrypted and "+" in data[0]:
                return self._serde.loads_typed(data)
            value = (self._plain if self._ours else self._serde).loads_typed(data)
        except Exception as error:
            how = "cannot be decrypted" if self._encrypted else "cannot be read"
            return Damaged(f"{how}: {str(error) or type(error).__name__}")
        # Several byte strings decode to the same value: a changed byte is found by encoding the value again.
        if self._ours and data[0] == "msgpack" and self._plain.dumps_typed(value)[1] != data[1]:
            return Damaged("is stored in bytes that this package does not write", value)
        return value

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:  # noqa: ARG002 - part of the protocol
        """Raise `TypeError`, because an audit never writes."""
        raise TypeError("an audit writes nothing")


class ReadOnly:
    """A checkpointer that can only be read."""

    def __init__(self, checkpointer: BaseCheckpointSaver[Any]) -> None:
        self._saver = copy(checkpointer)  # a copy, so that the caller's saver keeps its own serializer
        self._saver.serde = CheckedSerializer(checkpointer.serde)
        if hasattr(self._saver, "is_setup"):
            self._saver.is_setup = True  # else SQLite savers create their tables at the first use, which is a write

    def checkpoints(self, thread_id: str | None = None) -> Iterator[CheckpointTuple]:
        """Yield all checkpoints of a thread, or of all threads, the latest first, in one pass."""
        try:
            yield from self._saver.list(_thread(thread_id))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _unreadable(error) from error

    def checkpoint(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return one checkpoint."""
        return self._saver.get_tuple(config)

    async def acheckpoints(self, thread_id: str | None = None) -> AsyncIterator[CheckpointTuple]:
        """Do the same as `checkpoints`, for an asynchronous checkpointer."""
        try:
            async for each in self._saver.alist(_thread(thread_id)):
                yield each
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _unreadable(error) from error


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
