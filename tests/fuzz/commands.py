"""Databases that are damaged, and the commands that are given over them."""

from __future__ import annotations

import io
import json
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from specreason_graph import create_specreason
from specreason_graph.cli.app import run
from specreason_graph.runs.launch import BUILT_IN, Launch
from specreason_graph.runs.store import RunStore
from tests.fuzz.kept import KEYS, Database, Row, Rows, database
from tests.fuzz.kinds import QUESTION, config
from tests.support.commands import work_on
from tests.support.scripts import stepwise

GOOD, BAD, HALF = "good", "bad", "half"
Told = tuple[int, str, str]
"""Exit code, output and errors of a command."""
TABLE_CHANGES = (
    "drop table writes", "drop table checkpoints", "alter table writes rename column value to other",
    "alter table checkpoints rename column metadata to other", "drop table specreason_runs",
    "alter table checkpoints rename to others", "create view more as select * from checkpoints",
    "alter table writes add column more text", "alter table specreason_runs rename column launch to other",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, 5, -1, 2**62, 1.5, float("inf"), "", "x", "\x00", "\u202e", "\x1b[2J", b"", b"\xff\xfe", b"{", b"\xc1",
    b"[" * 20_000, "[" * 20_000, "1" * 5000, '{"a": ' * 3000, "null", "[]", '"x"', '{"source": 5, "parents": [1]}',
    '{"parents": {"": {}}, "source": ["loop"], "step": 1e999}', b"\x91" * 3000 + b"\x01", b"\x81\xa1a" * 900 + b"\x01",
    b"\xcf" + b"\xff" * 8, b"\x80", b"\x90", b"\xc7\x00\x02", b"\xc7\x03\x07abc", b"\xd4\x7f\x00", "json", "pickle",
    "msgpack", "null", "msgpack+aes", "5" * 40,
)  # fmt: skip
"""What is put where something else belongs."""


class Scene:
    """A database file with three runs, of which one is left alone."""

    def __init__(self, kept: Database, folder: Path) -> None:
        self.kept, self.folder, self.rows = kept, folder, kept.rows()
        self.launches = kept.connection.execute("select * from specreason_runs").fetchall()
        self.file, self.whole = Path(kept.place), True

    def damage(self, rng: random.Random) -> str:
        """Damage it anew: what was done."""
        while True:
            self.file, self.whole = Path(self.kept.place), True
            rows, done = deepcopy(self.rows), []
            for _ in range(rng.choice((1, 1, 2, 3, 8))):
                done.append(_damage(rows, rng))
            if self._store(rows, rng):
                break
        if rng.random() < 0.05:
            self.whole = False
            self.file = self.folder / "changed.sqlite"
            self.file.unlink(missing_ok=True)
            sql = rng.choice(TABLE_CHANGES)
            with closing(sqlite3.connect(self.file)) as connection:
                self.kept.connection.backup(connection)
                connection.execute(sql)
            done.append(sql)
        return "; ".join(done)

    def _store(self, rows: Rows, rng: random.Random) -> bool:
        launches = list(self.launches)
        if rng.random() < 0.2:
            launches[0] = (launches[0][0], rng.choice(VALUES) or "x")
        try:
            self.kept.connection.execute("delete from specreason_runs")
            self.kept.connection.executemany("insert into specreason_runs values (?, ?)", launches)
            self.kept.forget()
            self.kept.load(rows)
        except (sqlite3.Error, OverflowError, UnicodeError):
            self.kept.connection.rollback()
            return False
        return True

    def commands(self, rng: random.Random) -> list[list[str]]:
        """Some commands over it."""
        db, out = ["--db", str(self.file)], str(self.folder / "out")
        page, pages = ["-o", f"{out}.html"], ["-o", f"{out}-pages"]
        thread = rng.choice((BAD, HALF))
        made = [
            ["audit", "list"], ["audit", "show", thread], ["audit", "verify", thread], ["audit", "replay", thread],
            ["audit", "verify", thread, "--key", "0" * 64], ["audit", "whatif", thread, "--threshold", "5"],
            ["audit", "whatif"], ["audit", "diff", GOOD, thread], ["audit", "diff", thread, HALF],
            ["audit", "report", thread, *page], ["audit", "report", GOOD, "--compare", thread, *page],
            ["audit", "report", *pages], ["audit", "prune", thread, "--dry-run"], ["resume", thread],
        ]  # fmt: skip
        plain = [
            ["audit", "export"], ["audit", "export", thread], ["audit", "export", thread, "--format", "inspect", *page],
            ["audit", "anchor"], ["audit", "anchor", thread],
        ]  # fmt: skip
        found = [[*each, *db, *["--json"] * json] for each in made for json in (False, True)]
        return rng.sample([*found, *([*each, *db] for each in plain)], 8)


def _damage(rows: Rows, rng: random.Random) -> str:
    """Damage one row that is not of the good run."""
    table = rng.choice(("checkpoints", "writes"))
    bad = [row for row in rows[table] if row["thread_id"] != GOOD]
    if not bad:
        return "nothing"
    row, column = rng.choice(bad), ""
    how = rng.choice(list(WAYS))
    if how == "another value":
        column = rng.choice([name for name in row if name != "thread_id"])
    elif how in ("bytes flipped", "bytes cut"):
        column = rng.choice(["checkpoint", "metadata"] if table == "checkpoints" else ["value"])
    elif how in ("another type", "a key as bytes"):
        column = rng.choice([name for name in KEYS[table] if name != "thread_id"])
    WAYS[how](rows[table], row, column, rng)
    return f"{how} in {table} {column}"


def _flip(_: list[Row], row: Row, column: str, rng: random.Random) -> None:
    if isinstance(row[column], bytes) and row[column]:
        changed = bytearray(row[column])
        for _number in range(rng.choice((1, 1, 3, 20))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        row[column] = bytes(changed)


def _cut(_: list[Row], row: Row, column: str, rng: random.Random) -> None:
    if isinstance(row[column], bytes) and row[column]:
        row[column] = row[column][: rng.randrange(len(row[column]))]


def _set(_: list[Row], row: Row, column: str, rng: random.Random) -> None:
    row[column] = rng.choice(VALUES)


def _as_bytes(_: list[Row], row: Row, column: str, rng: random.Random) -> None:
    row[column] = str(row[column]).encode()


def _cast(_: list[Row], row: Row, column: str, rng: random.Random) -> None:
    row[column] = rng.choice((5, 1.5, b"\xff", "\ufeff", f"{row[column]}\x00", f"x{row[column]}"))


def _remove(there: list[Row], row: Row, column: str, rng: random.Random) -> None:
    there.remove(row)


def _add(there: list[Row], row: Row, column: str, rng: random.Random) -> None:
    key = rng.choice([name for name in ("checkpoint_ns", "checkpoint_id", "task_id", "idx") if name in row])
    there.append({**row, key: rng.choice(VALUES)})


WAYS: dict[str, Callable[[list[Row], Row, str, random.Random], None]] = {
    "bytes flipped": _flip, "bytes cut": _cut, "another value": _set, "a key as bytes": _as_bytes,
    "another type": _cast, "a row removed": _remove, "a row more": _add,
}  # fmt: skip


@contextmanager
def damaged(folder: Path) -> Iterator[Scene]:
    """A database to be damaged; commands that resume a run work on the scripted pair that made it."""
    place = str(folder / "kept.sqlite")
    with database(place) as kept, stepwise(4, (9, 2)) as pair, pytest.MonkeyPatch.context() as patch:
        work_on(pair, patch)
        launch = Launch(question="What?", **BUILT_IN)
        with RunStore.open(Path(place)) as store:
            store.keep(dict.fromkeys((HALF, BAD, GOOD), launch))
        for thread in (GOOD, BAD, HALF):
            graph = create_specreason(pair).compile(checkpointer=kept.saver)
            stops: Any = {"interrupt_after": ["regenerate"]} if thread == HALF else {}
            graph.invoke(QUESTION, config(thread), **stops)
        yield Scene(kept, folder)


def tell(arguments: list[str]) -> Told:
    """Give a command in this process."""
    output, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with redirect_stdout(output), redirect_stderr(errors):
        code = run(arguments)
    told = []
    for each in (output, errors):
        each.flush()
        told.append(each.buffer.getvalue().decode())
    return code, told[0], told[1]


def good_lines(scene: Scene) -> tuple[Any, str]:
    """What is told of the good run: its line in the list, and all of it."""
    db = ["--db", str(scene.file), "--json"]
    (_, listed, _), (_, shown, _) = tell(["audit", "list", *db]), tell(["audit", "show", GOOD, *db])
    try:
        found = json.loads(listed)
    except ValueError:
        return listed, shown
    rows = found["runs"] if isinstance(found, dict) else found
    return [row for row in rows if row.get("thread_id", row.get("thread")) == GOOD], shown
