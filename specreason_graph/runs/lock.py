"""Lets one batch at a time work in a database: two would write the same runs, each its own version of a step."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from specreason_graph.errors import UsageError
from specreason_graph.files import make_private


@contextmanager
def exclusive(database: Path) -> Iterator[None]:
    """Hold a lock on a file beside the database; `UsageError` when another process holds it."""
    make_private(Path(f"{database}.lock"))
    with closing(sqlite3.connect(f"{database}.lock", timeout=0, isolation_level=None)) as lock:
        try:
            lock.execute("begin exclusive")  # SQLite's own lock: the system releases it when the process dies
        except sqlite3.OperationalError as error:
            raise UsageError(
                f"another command is answering a file of questions in {database} ({error})",
                hint="wait until it has ended, or name another file with --db",
            ) from None
        yield
