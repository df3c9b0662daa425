"""``audit report``, ``export``, ``schema`` and ``prune``."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from specreason_graph.audit.check.verify import Verification, verify
from specreason_graph.audit.keep.export import ledger_schema, to_inspect, to_jsonl
from specreason_graph.audit.keep.prune import prune as prune_thread
from specreason_graph.audit.read.reader import read_all_runs, read_runs
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.audit.read.saver import open_database
from specreason_graph.audit.read.serializer import StrictSerializer
from specreason_graph.audit.show.place import links_between
from specreason_graph.audit.show.report import render_comparison, render_index, render_run
from specreason_graph.cli.audit.locate import DatabaseOption, RunOption, ThreadArgument, database_of, find_run
from specreason_graph.cli.documents import Written, say
from specreason_graph.cli.options import JsonOption, choice_option, path_option
from specreason_graph.cli.terminal import echo, echo_json, echo_text
from specreason_graph.errors import ConfigError, ThreadError, UsageError
from specreason_graph.files import check_target, is_stream, write_file

PLAIN = re.compile("[^0-9A-Za-z]")
"""Characters of a run's name that do not go into a file name: a database may hold any name, a path included."""


def report(
    thread: Annotated[
        str | None, typer.Argument(help="Thread id. Without it, all runs of the database get a page, with an index.")
    ] = None,
    output: Annotated[
        Path | None,
        path_option("-o", "--output", text="HTML file to write (`run.html`); for all runs a folder (`runs`)."),
    ] = None,
    other: Annotated[
        str | None, typer.Option("--compare", help="Thread id of a second run, shown side by side.")
    ] = None,
    run: RunOption = None,
    db: DatabaseOption = None,
    as_json: JsonOption = False,
) -> int:
    """Write a run as an HTML page: one file that needs no network, also for phones and for paper."""
    if thread is None:
        written, sound = _all_pages(output or Path("runs"), db)
    else:
        shown = [find_run(thread, run, db), *([find_run(other, None, db)] if other else [])]
        checked = [_checked(each) for each in shown]
        both = (shown[0], shown[-1], checked[0], checked[-1])
        page = render_comparison(*both) if other else render_run(shown[0], checked[0])
        written, sound = output or Path("run.html"), _are_sound(shown, checked)
        write_file(written, page, _kept(db))
    if as_json:
        say(Written(written=str(written), ok=sound))
    else:
        echo(f"written to {written}", err=is_stream(written))
    return 0 if sound else 1


def export(
    thread: Annotated[
        str | None, typer.Argument(help="Thread id. Without it, all runs of the database are exported.")
    ] = None,
    output: Annotated[
        Path | None, path_option("-o", "--output", text="File to write; standard output if not given.")
    ] = None,
    form: Annotated[
        str,
        choice_option(
            "--format",
            choices=("jsonl", "inspect"),
            default="jsonl",
            text="jsonl: the ledger, one entry per line. inspect: a log for `inspect view`.",
        ),
    ] = "jsonl",
    db: DatabaseOption = None,
) -> None:
    """Export the records of runs for other tools."""
    with open_database(database_of(db)) as saver:
        runs = read_all_runs(saver) if thread is None else read_runs(saver, thread)
    if form == "inspect":
        if output is None:
            raise ConfigError("an Inspect log needs a file", hint="name one with -o runs.eval")
        to_inspect(runs, output, _kept(db))
    elif form == "jsonl":
        lines = "".join(f"{line}\n" for line in to_jsonl(runs))
        echo_text(lines, end="") if output is None else write_file(output, lines, _kept(db))
    else:
        raise ConfigError(f"--format {form!r} is unknown", hint="write jsonl or inspect")
    if output:
        echo(f"written to {output}", err=is_stream(output))


def schema() -> None:
    """Print the JSON Schema of a line of an exported ledger."""
    echo_json(ledger_schema(), indent=2)


def prune(
    thread: ThreadArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing and print what would be removed.")] = False,
    db: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove the checkpoints of finished runs that audits do not need. This command writes to the database."""
    with _writable(database_of(db)) as saver:
        found = prune_thread(saver, thread, dry_run=dry_run)
    if as_json:
        say(found)
        return
    would = "would be removed" if dry_run else "removed"
    echo(
        f"{would}: {found.checkpoints} checkpoints, {found.writes} writes, {found.blobs} values; "
        f"{found.bytes_before} bytes before, {found.bytes_after} after; {len(found.runs)} runs kept"
    )


def _checked(run: RecordedRun) -> Verification | None:
    """Verify a run; return None for a run without a ledger."""
    try:
        return verify(run)
    except ThreadError:
        return None


def _all_pages(folder: Path, db: str | None) -> tuple[Path, bool]:
    """Write a page for each run of a database, and an index page."""
    if folder.suffix == ".html":
        raise UsageError(
            f"-o {folder} is a file, and the pages of all runs need a folder",
            hint="name a folder, or the thread of the run that the page is to show",
        )
    with open_database(database_of(db)) as saver:
        runs = read_all_runs(saver)
    checked = [_checked(run) for run in runs]
    # The number keeps names apart: the beginnings of two run names may be the same.
    names = [f"{number:04}-{PLAIN.sub('', run.run)[:12]}.html" for number, run in enumerate(runs, 1)]
    index, kept = folder / "index.html", _kept(db)
    for name in (*names, index.name):  # before the first page is written
        check_target(folder / name, kept)
    links = links_between(runs, names)
    for run, found, name, others in zip(runs, checked, names, links, strict=True):
        write_file(folder / name, render_run(run, found, links=others), kept)
    write_file(index, render_index(list(zip(runs, names, strict=True))), kept)
    return index, _are_sound(runs, checked)


def _kept(db: str | None) -> tuple[Path, ...]:
    """Return the database file, which nothing is written over."""
    where = database_of(db)
    return () if "://" in where else (Path(where).expanduser(),)


def _are_sound(runs: Sequence[RecordedRun], checked: Sequence[Verification | None]) -> bool:
    """Whether no run has findings, neither from reading it nor from verifying it."""
    return all(not run.findings and (found is None or found.ok) for run, found in zip(runs, checked, strict=True))


@contextmanager
def _writable(where: str) -> Iterator[Any]:
    """Open an existing database as a checkpointer that can write."""
    with open_database(where):  # raises for a database that does not exist, which SqliteSaver would create
        pass
    if "://" in where:
        import psycopg
        from langgraph.checkpoint.postgres import PostgresSaver

        try:
            with PostgresSaver.from_conn_string(where) as saver:
                saver.serde = StrictSerializer()
                yield saver
        except psycopg.Error as error:
            raise UsageError(f"the PostgreSQL database cannot be written: {error}", hint="check --db") from None
        return
    from langgraph.checkpoint.sqlite import SqliteSaver

    try:
        with SqliteSaver.from_conn_string(str(Path(where).expanduser())) as saver:
            saver.serde = StrictSerializer()
            yield saver
    except sqlite3.OperationalError as error:
        raise UsageError(f"database {where} cannot be written: {error}", hint="check --db") from None


COMMANDS = (report, export, schema, prune)
