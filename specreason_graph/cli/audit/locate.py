"""Finds the run that a command is about, and the engines that it needs."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Annotated

import typer

from specreason_graph.audit.check.verify import check_whole
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.read.recorded import RecordedRun, choose_run
from specreason_graph.audit.read.saver import open_database
from specreason_graph.cli import options
from specreason_graph.engines import BUILT_IN, KINDS
from specreason_graph.errors import ThreadError, UsageError
from specreason_graph.prompting.pair_prompts import ROLES
from specreason_graph.runs.launch import Launch
from specreason_graph.runs.store import default_database, read_launch

ThreadArgument = Annotated[str, typer.Argument(help="Thread id.")]
RunOption = Annotated[
    str | None, typer.Option("--run", help="Name of the run, or its first letters, if the thread holds several.")
]
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--db",
        help="SQLite file or postgresql://...; the file of `solve` if not given.",
        envvar=options.DATABASE_VARIABLE,
    ),
]


def database_of(db: str | None) -> str:
    """Return the given database, or else the default one."""
    if db is not None and not db.strip():
        raise UsageError("--db is empty", hint="name a file or postgresql://..., or leave the option out")
    return str(default_database()) if db is None else db


def find_run(thread: str, run: str | None, db: str | None) -> RecordedRun:
    """Read the run that a command is about; the database is only read."""
    with open_database(database_of(db)) as saver:
        return choose_run(read_runs(saver, thread), run)


def find_whole_run(thread: str, run: str | None, db: str | None) -> RecordedRun:
    """Do the same, and raise `RecordError` unless the run is as it was written."""
    return check_whole(find_run(thread, run, db))


def engines_of(run: RecordedRun, db: str | None, models: options.ModelOptions) -> Launch:
    """Return how to open a run's engines: as it was launched, or as its manifest says; ``models`` override both.

    Raises `UsageError` for a run over engines of the caller's own, unless ``models`` name both models.
    """
    launch = _launched(run, db) or _from_manifest(run)
    for role in ROLES:
        made_by = run.typed_manifest.engines[role].engine
        if made_by not in KINDS and getattr(models, role) is None and getattr(models, f"{role}_url") is None:
            raise UsageError(
                f"the {role} of this run is an engine of kind {made_by!r}, which no command can open",
                hint=f"name a model with --{role}, or do it in Python over the engines that the run had",
            )
    return models.over(launch)


def _launched(run: RecordedRun, db: str | None) -> Launch | None:
    # Only the command line stores launches: in its SQLite file, for runs at the root of a thread.
    if "://" in database_of(db) or run.namespace:
        return None
    try:
        return read_launch(Path(database_of(db)).expanduser(), run.thread_id)
    except (sqlite3.Error, ThreadError):
        return None


def _from_manifest(run: RecordedRun) -> Launch:
    base, draft = (run.typed_manifest.engines[role] for role in ("base", "draft"))
    kind = base.engine if base.engine in KINDS else KINDS[0]
    # What a manifest records of a server describes the server, and are no options to open it with.
    options = {f"{role}_options": run.typed_manifest.engines[role].options for role in ROLES} if kind == "vllm" else {}
    dtype = base.dtype if base.model not in BUILT_IN and kind != "server" else None
    return Launch(question=run.question, base=base.model, draft=draft.model, engine=kind, dtype=dtype, **options)
