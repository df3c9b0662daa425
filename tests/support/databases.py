"""Databases of the tests: a place is an SQLite file or the URL of a PostgreSQL server."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver

TABLES = {
    "sqlite": ("checkpoints", "writes"),
    "postgres": ("checkpoints", "checkpoint_writes", "checkpoint_blobs"),
}


POSTGRESQL = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def initdb() -> str:
    """The program that makes a PostgreSQL server; empty where there is none."""
    found = shutil.which("initdb") or next((str(folder / "initdb") for folder in POSTGRESQL), "")
    return found if Path(found).is_file() else ""


@contextmanager
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server of our own, reached through a socket in its folder; its URL."""
    folder = Path(tempfile.mkdtemp(prefix="specreason-pg-"))
    user: dict[str, Any] = {"user": "postgres"} if os.geteuid() == 0 else {}  # it does not run as root
    if user:
        shutil.chown(folder, "postgres")
    data, binaries = str(folder / "data"), Path(initdb()).resolve().parent
    made = [initdb(), "-D", data, "-A", "trust", "-U", "tester", "--no-sync"]
    subprocess.run(made, check=True, capture_output=True, **user)
    server = subprocess.Popen(
        [binaries / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses="],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user,
    )  # fmt: skip
    place = f"postgresql://tester@/postgres?host={folder}"
    for _ in range(100):
        try:
            with PostgresSaver.from_conn_string(place) as saver:
                saver.setup()
            break
        except Exception:  # it is not up yet
            time.sleep(0.1)
    yield place
    server.terminate()
    server.wait(20)
    shutil.rmtree(folder)


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
