"""One live writer a thread: whoever works on a thread holds a claim on it, and another one is refused.

Two who work on one thread would write two ends of one run. In a process any saver can tell; across processes SQLite can
by a lock on a file beside the database, and PostgreSQL by an advisory lock. The system releases both when the process
dies. A subgraph goes by the claim on the thread of the graph around it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver

from specreason_graph.errors import ThreadError, UsageError

try:
    import fcntl
except ImportError:  # Windows: claims hold within a process
    fcntl = None  # type: ignore[assignment]

LEAVING = 2.0
"""Seconds that a claim is waited for that this process holds: a stream that was left may still be closing."""
POLL_SECONDS = 0.01
Release = Callable[[], None]
_lock = threading.Lock()
_held = dict[tuple[Any, str], "Holder"]()
"""Who holds what in this process, by store and thread."""
Store = tuple["type[FileClaims | SessionClaims]", str]
"""How other processes are told, and where."""
_sessions = dict[Store, "FileClaims | SessionClaims"]()
"""What tells other processes, by store; there while something of the store is held."""


@dataclass(eq=False)
class Holder:
    """Who holds a thread."""

    idle: bool = False
    """Whether it is a stream that nobody reads at the moment; another caller may take the thread over then."""
    lost: bool = False
    """Whether another caller of this process has taken the thread over."""
    release: Release | None = None
    """Tells other processes that the thread is free."""

    def goes_on(self) -> None:
        """A stream is read again; `ThreadError` when its thread was taken over."""
        with _lock:  # another caller may be taking it over just now
            self.idle = False
        if self.lost:
            raise ThreadError("another caller has taken the thread of this stream over", hint="resume it once more")


@contextmanager
def claimed(saver: BaseCheckpointSaver[Any], thread_id: str) -> Iterator[Holder]:
    """Hold a thread of a saver while the context is open; `ThreadError` when somebody else works on it."""
    store: Store | None = None
    if (connection := getattr(saver, "conn", None)) is not None:
        store = _postgres(connection) or _sqlite_file(connection.execute("pragma database_list").fetchall)
    claim, since = (store or id(saver), thread_id), time.monotonic()
    while (holder := _take(claim)) is None:
        _check_patience(thread_id, since)
        time.sleep(POLL_SECONDS)
    try:
        holder.release = holder.release or _announce(store, thread_id)
        yield holder
    finally:
        _give(claim, holder)


@asynccontextmanager
async def aclaimed(saver: BaseCheckpointSaver[Any], thread_id: str) -> AsyncIterator[Holder]:
    """Do the same as `claimed`, for callers on an event loop."""
    store: Store | None = None
    if (connection := getattr(saver, "conn", None)) is not None:
        store = _postgres(connection)
        if store is None:
            await saver.setup()  # type: ignore[attr-defined] # connects, as the first use of the saver would
            rows = await (await connection.execute("pragma database_list")).fetchall()
            store = _sqlite_file(lambda: rows)
    claim, since = (store or id(saver), thread_id), time.monotonic()
    while (holder := _take(claim)) is None:
        _check_patience(thread_id, since)
        await asyncio.sleep(POLL_SECONDS)
    try:
        holder.release = holder.release or await asyncio.to_thread(_announce, store, thread_id)
        yield holder
    finally:
        _give(claim, holder)


def _take(claim: tuple[Any, str]) -> Holder | None:
    with _lock:
        before = _held.get(claim)
        if before and not before.idle:
            return None
        if before:
            before.lost = True
        _held[claim] = holder = Holder(release=before.release if before else None)
        return holder


def _give(claim: tuple[Any, str], holder: Holder) -> None:
    with _lock:
        if holder.lost:
            return
        del _held[claim]
    if holder.release:
        holder.release()


def _check_patience(thread_id: str, since: float) -> None:
    if time.monotonic() - since > LEAVING:
        raise ThreadError(
            f"thread {thread_id!r} is being worked on by this process",
            hint="wait until that has ended, or close the stream that was left",
        )


def _announce(store: Store | None, thread_id: str) -> Release:
    """Tell other processes; `ThreadError` when one of them holds the thread."""
    if store is None:
        return lambda: None
    with _lock:
        if store not in _sessions:
            kind, place = store
            _sessions[store] = kind(place)
        session = _sessions[store]
        try:
            taken = session.take(_number(thread_id))
        finally:
            _end_if_unused(store)
    if not taken:
        raise ThreadError(
            f"thread {thread_id!r} is being worked on by another process", hint="wait until that has ended"
        )

    def release() -> None:
        with _lock:
            session.give(_number(thread_id))
            _end_if_unused(store)

    return release


def _end_if_unused(store: Store) -> None:
    session = _sessions[store]
    if not session.held:
        del _sessions[store]
        session.close()


def _number(thread_id: str) -> int:
    """A thread as a number of 63 bits, as both kinds of locks want it."""
    return int.from_bytes(hashlib.sha256(f"specreason {thread_id}".encode()).digest()[:8]) >> 1


def _sqlite_file(rows: Callable[[], Any]) -> Store | None:
    """The file of a connection to SQLite; None for a database in memory, and for anything else."""
    with suppress(Exception):  # a connection of another kind, of a saver that this module does not know
        files = (str(Path(row[2]).resolve()) for row in rows() if row[1] == "main" and row[2])
        return next(((FileClaims, file) for file in files), None)
    return None


class FileClaims:
    """Locks on single bytes of a file beside an SQLite database."""

    def __init__(self, database: str) -> None:
        self.held = set[int]()
        self._file: int | None = None
        if fcntl is not None:
            with suppress(OSError):  # beside a database in a folder that cannot be written there is no other process
                self._file = os.open(f"{database}.claims", os.O_RDWR | os.O_CREAT, 0o600)

    def take(self, number: int) -> bool:
        """Try to lock the byte with this number."""
        if self._file is not None:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number >> 1)
            except OSError:
                return False
        self.held.add(number)
        return True

    def give(self, number: int) -> None:
        """Unlock it."""
        self.held.discard(number)
        if self._file is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number >> 1)

    def close(self) -> None:
        """Close the file, which stays: who removed it could take it from under another process."""
        if self._file is not None:
            os.close(self._file)


class SessionClaims:
    """Advisory locks of one session of PostgreSQL, on a connection of its own: a saver's may come from a pool."""

    def __init__(self, conninfo: str) -> None:
        import psycopg

        self.held = set[int]()
        try:
            self._connection = psycopg.connect(conninfo, autocommit=True)
        except psycopg.Error as error:
            raise UsageError(
                f"the PostgreSQL database cannot be opened to lock a thread ({type(error).__name__})",
                hint="check that it runs and has a connection left",
            ) from None

    def take(self, number: int) -> bool:
        """Try to take the lock with this number."""
        found = self._connection.execute("select pg_try_advisory_lock(%s)", (number,)).fetchone()
        if found and found[0]:
            self.held.add(number)
            return True
        return False

    def give(self, number: int) -> None:
        """Give it back; a session that broke off has done so already."""
        self.held.discard(number)
        with suppress(Exception):
            self._connection.execute("select pg_advisory_unlock(%s)", (number,))

    def close(self) -> None:
        """End the session."""
        self._connection.close()


def _postgres(connection: Any) -> Store | None:
    """The address of a connection to PostgreSQL, or of a pool of them; None for anything else."""
    if not type(connection).__module__.startswith("psycopg"):
        return None
    from psycopg.conninfo import make_conninfo

    if (info := getattr(connection, "info", None)) is not None:
        return SessionClaims, make_conninfo(info.dsn, password=info.password or None)
    options = {name: value for name, value in (connection.kwargs or {}).items() if name in ("password", "user")}
    return SessionClaims, make_conninfo(connection.conninfo, **options)
