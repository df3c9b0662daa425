"""Databases of the tests: a place is an SQLite file or the URL of a PostgreSQL server."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver

TABLES = {
    "sqlite": ("checkpoints", "writes"),
    "postgres": ("checkpoints", "checkpoint_writes", "checkpoint_blobs"),
}


@contextmanager
def opened(place: str, serde: Any = None) -> Iterator[Any]:
    """A checkpointer over the database, with a serializer of its own where one is given."""
    with (PostgresSaver if "://" in place else SqliteSaver).from_conn_string(place) as saver:
        if serde:
            saver.serde = serde
        yield saver


@contextmanager
def connected(place: str) -> Iterator[Any]:
    """A bare connection, as anybody has who gets at the database."""
    connect: Any = psycopg.connect if "://" in place else sqlite3.connect
    with closing(connect(place)) as connection:
        yield connection
        connection.commit()


def rows(place: str, table: str, thread_id: str) -> list[dict[str, Any]]:
    """All rows of a thread, as they are stored."""
    mark = "%s" if "://" in place else "?"
    with connected(place) as connection:
        cursor = connection.execute(f"select * from {table} where thread_id = {mark}", (thread_id,))  # noqa: S608
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def stored(place: str, thread_id: str) -> dict[str, bytes]:
    """Everything that is stored of a thread, by table and column."""
    found: dict[str, bytes] = {}
    for table in TABLES["postgres" if "://" in place else "sqlite"]:
        for row in rows(place, table, thread_id):
            for name, value in row.items():
                raw = value if isinstance(value, bytes) else str(value).encode()
                found[f"{table}.{name}"] = found.get(f"{table}.{name}", b"") + raw + b"\n"
    return found
