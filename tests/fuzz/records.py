"""Changes and attacks kept runs, and looks for what nobody notices: ``python -m tests.fuzz.records WHAT``.

* ``changes``: one field anywhere in a database is another one: `verify` finds it, or says that it does not cover it.
* ``attacks``: rows are removed, put in, moved, rewired or of another type.
* ``clean``: runs that nobody touched, of all kinds: there are no findings.
* ``commands``: commands on damaged databases fail in one line, and go on telling what is not damaged.
* ``readers``: what is told of a run in an attacked database is what was sealed, or nothing.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import psycopg

from specreason_graph import find_runs
from specreason_graph.audit.check.recompute import recompute
from specreason_graph.audit.check.verify import verify
from specreason_graph.errors import ThreadError
from specreason_graph.record.records import Plain
from specreason_graph.runs.find import read_values
from tests.fuzz.attacks import Attack, attacks
from tests.fuzz.changes import Change, changes, not_covered
from tests.fuzz.clean import clean_runs
from tests.fuzz.commands import damaged, good_lines, tell
from tests.fuzz.kept import Database, Rows, Scene, database, noticed, read
from tests.fuzz.kinds import FINISHED, UNFINISHED, new_key
from tests.support.databases import postgres_server

SEED = 0
COUNTS = {"changes": 5000, "attacks": 1, "clean": 200, "commands": 3000, "readers": 200}
"""How much the long forms do; ``attacks`` does all, so often."""
REFUSED = (psycopg.Error, sqlite3.Error, OverflowError, UnicodeError, TypeError)
"""What a database says of values that it cannot hold."""


@dataclass
class Outcome:
    """What came of all that was tried."""

    seen: Counter[str] = field(default_factory=Counter)
    """How often what happened."""
    faults: list[str] = field(default_factory=list)
    """What nobody noticed, or was told wrongly."""

    def note(self, found: str | None, covered: str | None, what: str) -> None:
        """Note a change that was found, is not covered, or is a fault."""
        if found:
            self.seen["refused" if found.startswith("refused") else "found"] += 1
        elif covered:
            self.seen[f"not covered: {covered}"] += 1
        else:
            self.seen["fault"] += 1
            self.faults.append(what)


def change_fields(place: str, count: int, seed: int = SEED) -> Outcome:
    """Change fields of runs of all kinds, each by itself."""
    outcome, rng = Outcome(), random.Random(seed)
    kinds = {**FINISHED, **UNFINISHED}
    with database(place) as kept:
        for number, name in enumerate(kinds):
            rows, keys = _kept(kept, name)
            share = count // len(kinds) + (number < count % len(kinds))
            for change, _ in _stored(kept, changes(rows, kept.saver, rng), share):
                _note(outcome, kept, keys, not_covered(change), f"{name}: {change}")
    return outcome


def attack(place: str, count: int = 1, seed: int = SEED, *, every: int = 1) -> Outcome:
    """Do all attacks, or one in so many, from another one on by the seed."""
    outcome = Outcome()
    with database(place) as kept:
        for _ in range(count):
            rows, keys = _scene(kept)
            for each in islice(attacks(postgres=kept.postgres), seed % every, None, every):
                _load(kept, _without_other(rows))
                if (threads := _do(kept, rows, each)) is not None:
                    _note(outcome, kept, keys, each.line, each.name, threads)
                else:
                    outcome.seen["the database refuses it"] += 1
    return outcome


def check_clean(place: str, count: int, seed: int = SEED) -> Outcome:
    """Make runs that nobody touches, and look whether anything is found."""
    outcome = Outcome()
    for name, saver, threads, key in clean_runs(place, count, seed):
        outcome.seen[name] += 1
        for thread in threads:
            outcome.faults += [f"{name}: {problem}" for problem in _problems(saver, thread, key)]
    return outcome


def _problems(saver: Any, thread: str, key: str) -> Iterator[str]:
    runs = [run for run in read(saver) if run.thread_id == thread]
    if not runs:
        yield "there is no run"
    for run in runs:
        yield from (each.problem for each in verify(run, public_key=key if run.finished and key else None).findings)
        yield from (f"recomputed: {each.problem}" for each in recompute(run).differences)
    yield from (str(found.problem) for found in find_runs(saver, thread) if found.problem)


def command(folder: Path, count: int, seed: int = SEED) -> Outcome:
    """Give commands over damaged databases."""
    outcome, rng = Outcome(), random.Random(seed)
    with damaged(folder) as scene:
        expected = good_lines(scene)
        while outcome.seen.total() < count:
            how = scene.damage(rng)
            for arguments in scene.commands(rng):
                code, _, errors = tell(arguments)
                outcome.seen[f"exit code {code}"] += 1
                told = f"{how}: {' '.join(arguments[:4])}"
                if "Traceback" in errors or "this is a bug" in errors or code not in (0, 1, 2):
                    outcome.faults.append(f"{told}: {code} {errors.strip()[-300:]}")
            if scene.whole and good_lines(scene) != expected:
                outcome.faults.append(f"{how}: the good run is not shown as it is")
    return outcome


def read_attacked(place: str, count: int, seed: int = SEED) -> Outcome:
    """Read attacked databases, and compare what is told with what was sealed."""
    outcome, rng = Outcome(), random.Random(seed)
    with database(place) as kept:
        rows, _ = _scene(kept)
        sealed = {found.run: found for thread in _threads(rows) for found in find_runs(kept.saver, thread)}
        left = _without_other(rows)
        kept.load(left)
        fields = changes(left, kept.saver, rng)
        # What replaces a run as a whole, or joins two, is told as it is there: the table says so.
        structural = cycle(_shuffled(list(attacks(postgres=kept.postgres)), rng))
        while outcome.seen.total() < count:
            if outcome.seen.total() % 2:
                each = next(structural)
                what, done = each.name, _do(kept, rows, each) is not None
                if "another run under" in what or "rebuilt" in what:
                    continue
            else:
                change, _ = next(_stored(kept, fields, 1))
                what, done = str(change), True
            if done:
                told = Counter(_told(kept, rows, sealed))
                outcome.seen["something is refused" if told["refused"] else "all is told as sealed"] += 1
                outcome.faults += [f"{what}: {problem}" for problem in told if problem.startswith("told")]
    return outcome


def _shuffled(found: list[Attack], rng: random.Random) -> list[Attack]:
    return rng.sample(found, len(found))


def _told(kept: Database, rows: Rows, sealed: dict[str, Any]) -> Iterator[str]:
    """What is told of the threads of a database: as it was sealed, told otherwise, or refused."""
    for thread in [*_threads(rows), "new"]:
        try:
            found = find_runs(kept.saver, thread)
        except ThreadError:
            yield "refused"
            continue
        for run in found:
            if run.problem:
                yield "refused"
            elif run.run not in sealed:
                yield f"told of a run {run.run}"
            else:
                yield from _compared(run, sealed[run.run])
        try:
            (values,) = read_values(kept.saver, [thread])
        except ThreadError:
            yield "refused"
            continue
        if values:
            yield from _same_values(values, sealed)


def _compared(run: Any, before: Any) -> Iterator[str]:
    """Told of a run that was cut back are its first steps, which are sealed without those that followed."""
    same = run.question == before.question and run.steps == before.steps[: len(run.steps)]
    ended = (run.answer, run.stop_reason) in ((before.answer, before.stop_reason), (None, None))
    if not same or not ended or (run.answer and len(run.steps) != len(before.steps)):
        yield f"told otherwise: {run.question!r} {len(run.steps)} steps {run.stop_reason} {run.answer!r}"
    yield "as sealed"


def _same_values(values: Plain, sealed: dict[str, Any]) -> Iterator[str]:
    before = sealed.get(values["manifest"].get("run"))
    if before is None:
        yield "told of another run's values"
        return
    steps = [each.dump() for each in before.steps]
    ended = (values.get("answer") or None, values.get("stop_reason") or None)
    if (
        values["manifest"]["question"] != before.question
        or values["trace"] != steps[: len(values["trace"])]
        or ended not in ((before.answer, before.stop_reason), (None, None))
    ):
        yield f"told otherwise in values: {ended}"


def _kept(kept: Database, name: str) -> tuple[Rows, dict[str, str | None]]:
    """The rows of one run of a kind, and the keys that its threads are signed with."""
    signer, key = new_key()
    kept.load({table: [] for table in kept.tables})
    {**FINISHED, **UNFINISHED}[name](kept.saver, "one", signer)
    return kept.rows(), {run.thread_id: key if run.finished else None for run in read(kept.saver)}


def _scene(kept: Database) -> tuple[Rows, dict[str, str | None]]:
    """The rows of several threads: two finished runs, one that is not, one in a subgraph, and another signer's."""
    (signer, key), (stranger, _) = new_key(), new_key()
    kept.load({table: [] for table in kept.tables})
    for thread, kind in {"one": "plain", "two": "late", "nest": "subgraph"}.items():
        FINISHED[kind](kept.saver, thread, signer)
    UNFINISHED["stopped after a step"](kept.saver, "half", None)
    FINISHED["plain"](kept.saver, "other", stranger)
    return kept.rows(), dict.fromkeys(("one", "two", "nest", "new"), key)


def _threads(rows: Rows) -> list[str]:
    return sorted({row["thread_id"] for row in rows["checkpoints"]} - {"other"})


def _do(kept: Database, rows: Rows, each: Attack) -> list[Any] | None:
    """Attack: the threads that are others now; None where the database cannot hold that."""
    scene = Scene.of(rows)
    each.do(scene)
    return _load(kept, _without_other(scene.rows))


def _without_other(rows: Rows) -> Rows:
    return {table: [row for row in there if row["thread_id"] != "other"] for table, there in rows.items()}


def _load(kept: Database, rows: Rows) -> list[Any] | None:
    try:
        return kept.load(rows)
    except REFUSED:
        kept.connection.rollback()
        return None


def _stored(kept: Database, found: Iterator[tuple[Change, Rows]], count: int) -> Iterator[tuple[Change, Rows]]:
    """So many changes that the database can hold, each stored while it is looked at."""
    return islice(((change, rows) for change, rows in found if _load(kept, rows) is not None), count)


def _note(
    outcome: Outcome, kept: Database, keys: dict[str, str | None], covered: str | None, what: str,
    threads: list[Any] | None = None,
) -> None:  # fmt: skip
    try:
        outcome.note(noticed(kept.saver, keys, threads), covered, what)
    except Exception as error:  # whoever reads must not fail, whatever is there
        outcome.faults.append(f"{what}: reading fails with {error!r}")


WHAT: dict[str, Callable[..., Outcome]] = {
    "changes": change_fields, "attacks": attack, "clean": check_clean, "commands": command, "readers": read_attacked,
}  # fmt: skip


def main() -> None:
    """Do what is asked, and exit with 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--db", choices=("sqlite", "postgres"), default="sqlite")
    given = parser.parse_args()
    count = given.count or COUNTS[given.what]
    print(f"{given.what}: {count}, seed {given.seed}, {given.db}", flush=True)
    with tempfile.TemporaryDirectory(prefix="specreason-records-") as folder, _place(given.db, folder) as place:
        outcome = WHAT[given.what](Path(folder) if given.what == "commands" else place, count, given.seed)
    for what, number in outcome.seen.most_common():
        print(f"{number:6} {what}")
    print(*(f"FAULT {fault}" for fault in outcome.faults), f"{len(outcome.faults)} faults", sep="\n")
    sys.exit(bool(outcome.faults))


@contextmanager
def _place(kind: str, folder: str) -> Iterator[str]:
    with postgres_server() if kind == "postgres" else nullcontext(str(Path(folder, "runs.sqlite"))) as place:
        yield place


if __name__ == "__main__":
    main()
