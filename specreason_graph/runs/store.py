"""The runs of one SQLite file: LangGraph's checkpoints, and beside them how each run was launched.

The launch is written before the first checkpoint, so a run that was killed at any instant can be resumed by its thread
id alone.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from langgraph.checkpoint.sqlite import SqliteSaver
from platformdirs import user_data_path
from pydantic import ValidationError

from specreason_graph.audit.read.recorded import first_problem
from specreason_graph.audit.read.serializer import StrictSerializer
from specreason_graph.errors import RecordError, ThreadError, UsageError
from specreason_graph.files import make_folder, make_private, may
from specreason_graph.record.claim import claimed
from specreason_graph.runs.launch import Launch

TABLE = "create table if not exists specreason_runs (thread text primary key, launch text not null)"


def default_database() -> Path:
    """The file in the user's data folder."""
    return user_data_path("specreason") / "runs.sqlite"


def new_thread() -> str:
    """A thread id that no run has."""
    return uuid.uuid4().hex[:12]


class RunStore:
    """The runs of one database file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.saver = SqliteSaver(connection, serde=StrictSerializer())
        self.saver.setup()  # a new file can be read before the first run is begun

    @classmethod
    @contextmanager
    def open(cls, file: Path | None) -> Iterator[RunStore]:
        """Open or create the file; `UsageError` when it is no database or cannot be written.

        None keeps the runs in memory, until the context closes.
        """
        with closing(_in_memory() if file is None else _connect(file)) as connection:
            yield cls(connection)

    def add(self, launch: Launch, thread: str | None = None) -> str:
        """Keep a new run; its thread id, a new one where none is given."""
        thread = thread or new_thread()
        self.keep({thread: launch})
        return thread

    def keep(self, launches: Mapping[str, Launch]) -> None:
        """Keep how runs are launched, by thread id; what was kept for a thread before is replaced."""
        rows = [(thread, launch.model_dump_json()) for thread, launch in launches.items()]
        with self._connection:
            self._connection.executemany("insert or replace into specreason_runs values (?, ?)", rows)

    def remove(self, threads: Iterable[str]) -> None:
        """Remove runs with all that they hold; `ThreadError` when one of them is being worked on.

        Their texts are overwritten, and the file is made smaller unless another process reads it.
        """
        self._connection.execute("pragma secure_delete = on")
        for thread in threads:
            with claimed(self.saver, thread):
                self.saver.delete_thread(thread)
                with self._connection:
                    self._connection.execute("delete from specreason_runs where thread = ?", (thread,))
        with suppress(sqlite3.OperationalError):
            self._connection.execute("vacuum")
            self._connection.execute("pragma wal_checkpoint(truncate)")

    def launch(self, thread: str) -> Launch:
        """How a run was started; `ThreadError` when there is no such run."""
        return _launch(self._connection, thread)


def read_launch(file: Path, thread: str) -> Launch:
    """How a run was started, from a file that is only read; `ThreadError` when there is no such run."""
    with closing(sqlite3.connect(f"file:{quote(str(file.resolve()))}?mode=ro", uri=True)) as connection:
        return _launch(connection, thread)


def read_launches(file: Path) -> dict[str, Launch]:
    """How all runs of a file were started, by thread id, from a file that is only read; bad rows are passed over."""
    found = dict[str, Launch]()
    with closing(sqlite3.connect(f"file:{quote(str(file.resolve()))}?mode=ro", uri=True)) as connection:
        try:
            rows = connection.execute("select thread, launch from specreason_runs order by rowid desc").fetchall()
        except sqlite3.DatabaseError:  # the file of another program, or of a graph of the caller's
            return found
    for thread, text in rows:
        with suppress(ValidationError):
            found[str(thread)] = Launch.model_validate_json(text)
    return found


def _launch(connection: sqlite3.Connection, thread: str) -> Launch:
    row = connection.execute("select launch from specreason_runs where thread = ?", (thread,)).fetchone()
    if row is None:
        raise ThreadError(f"no run {thread!r} in this database", hint="check the thread id and --db")
    try:
        return Launch.model_validate_json(row[0])
    except ValidationError as error:
        problem = first_problem(error)
        raise RecordError(f"how run {thread!r} was launched cannot be read: {problem}", hint="ask it anew") from None


def _in_memory() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.execute(TABLE)
    return connection


def _connect(file: Path) -> sqlite3.Connection:
    try:
        make_folder(file.parent)
        make_private(file)
        if not file.is_file():
            raise UsageError(f"database {file} cannot be used: it is no file", hint="name another file with --db")
        if not may(file, os.W_OK):  # SQLite would open it, and fail at the first step
            raise UsageError(f"database {file} cannot be used: it is read-only", hint="name another file with --db")
        connection = sqlite3.connect(file, check_same_thread=False)
        connection.execute(TABLE)
        SqliteSaver(connection).setup()  # what reads the file before the first checkpoint finds its tables
    except (sqlite3.DatabaseError, OSError) as error:
        raise UsageError(f"database {file} cannot be used: {error}", hint="name another file with --db") from error
    return connection
