"""``specreason runs``: what is kept, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from specreason_graph.audit.ask.advice import advise
from specreason_graph.audit.read.reader import find_recorded, read_all_runs
from specreason_graph.audit.read.saver import open_database
from specreason_graph.cli import options
from specreason_graph.cli.documents import (
    Place,
    Removed,
    problem_of,
    recorded,
    run_document,
    run_row,
    say,
    waiting_row,
)
from specreason_graph.cli.interrupt import database_option, resume_command
from specreason_graph.cli.screen_view import make_view
from specreason_graph.cli.terminal import echo, echo_json, echo_text, visible
from specreason_graph.errors import ThreadError, UsageError
from specreason_graph.record.manifest import Manifest
from specreason_graph.record.records import Answer, Step
from specreason_graph.record.summary import summarise
from specreason_graph.runs.find import read_values
from specreason_graph.runs.store import RunStore, default_database, read_launches

app = typer.Typer(help="The runs that `solve` keeps: list, show and remove them.", no_args_is_help=True)
OURS = {"schema_version", "hash"}
"""Keys of a manifest by which a run of this package is known."""
ThreadsArgument = Annotated[list[str] | None, typer.Argument(metavar="THREAD...", help="Thread ids.")]


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="So many runs, the latest first.")] = 20,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Only those that can be resumed.")] = False,
    db: options.DatabaseOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """List runs, the latest first: thread, when, state, steps and question."""
    file = db or default_database()
    rows = _rows(file) if file.exists() else []
    if unfinished:
        rows = [row for row in rows if row["state"] in ("unfinished", "not_begun")]
    if as_json:
        echo_json(rows[:limit])
        return
    for row in rows[:limit]:
        steps = "" if row["step_count"] is None else f"{row['step_count']} steps"
        place, when = visible(f"{row['thread']} {row['namespace']}"), str(row["updated"])[:16].replace("T", " ")
        told = visible(row["problem"] or row["question"] or "")[:80]
        echo(f"{place:16}  {when:16}  {row['stop_reason'] or row['state']:13} {steps:>9}  {told}")
    if len(rows) > limit:
        echo(f"{len(rows) - limit} more; -n {len(rows)} lists them", err=True)
    if not rows:
        echo(f"no runs in {file}", err=True)


@app.command()
def show(
    thread: Annotated[str, typer.Argument(help="Thread id.")],
    db: options.DatabaseOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show a run as `solve` printed it: steps, answer, costs and what speculation gained."""
    file = db or default_database()
    with open_database(str(file)) as saver:
        values = next(read_values(saver, [thread]))
    if not values:
        begun = thread in read_launches(file)
        raise ThreadError(
            f"run {thread!r} has not begun" if begun else f"no run {thread!r} in {file}",
            hint=f"begin it with: {resume_command(file, thread)}" if begun else _list_hint(file),
        )
    if as_json:
        say(run_document(thread, values))
        return
    manifest, steps = Manifest.load(values["manifest"]), [Step.load(step) for step in values["trace"]]
    echo(f"thread {thread}   base {manifest.engines['base'].model}   draft {manifest.engines['draft'].model}")
    echo()
    echo_text(f"{manifest.question}\n")
    view = make_view()
    view.head(manifest.thinking)
    for step in steps:
        view.step(step)
    if not values["result"]:
        echo_text(f"\nnot finished; go on with: {resume_command(file, thread)}")
        return
    answer = Answer.load(values["result"])
    view.answer(answer)
    view.closing(answer, values["stop_reason"], summarise(steps, answer), advise(recorded(thread, values)))


@app.command()
def rm(
    threads: ThreadsArgument = None,
    all_: Annotated[
        bool, typer.Option("--all", help="All runs of the database, but for those of other graphs.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing and print what would be removed.")] = False,
    db: options.DatabaseOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Remove runs for good, with all they hold. A run that is being worked on is refused."""
    if bool(threads) == all_:
        raise UsageError("no run is named" if not threads else "--all and threads are given", hint="give one of them")
    file = db or default_database()
    own = _own(file)
    chosen = sorted(own) if all_ else list(dict.fromkeys(threads or ()))
    for thread in chosen if threads else ():
        _check_removable(file, thread, own)
    if not dry_run and chosen:
        with RunStore.open(file) as store:
            store.remove(chosen)
    if as_json:
        say(Removed(threads=chosen, dry_run=dry_run))
        return
    for thread in chosen:
        echo(f"{'would remove' if dry_run else 'removed'} {thread}")
    if not chosen:
        echo(f"no runs in {file}", err=True)


@app.command()
def path(db: options.DatabaseOption = None, as_json: options.JsonOption = False) -> None:
    """Print the file that keeps the runs."""
    file = db or default_database()
    if as_json:
        say(Place(database=str(file), exists=file.exists()))
    else:
        echo_text(str(file))


def _rows(file: Path) -> list[dict[str, Any]]:
    """All runs of a database, and those that were kept and never begun."""
    with open_database(str(file)) as saver:
        rows = [run_row(run, problem_of(run)) for run in read_all_runs(saver)]
    begun = {row["thread"] for row in rows}
    waiting = read_launches(file)
    return [*rows, *(waiting_row(each, waiting[each].question) for each in waiting if each not in begun)]


def _own(file: Path) -> set[str]:
    """The threads of a database whose root is a run of this package."""
    if not file.exists():
        return set()
    with open_database(str(file)) as saver:
        at_root = {run.thread_id for run in read_all_runs(saver) if not run.namespace and run.manifest.keys() & OURS}
    return at_root | set(read_launches(file))


def _check_removable(file: Path, thread: str, own: set[str]) -> None:
    """Raise `ThreadError` for a thread that is not there, or is that of another graph."""
    if thread in own:
        return
    if file.exists():
        with open_database(str(file)) as saver:
            if find_recorded(saver, thread):
                raise ThreadError(
                    f"thread {thread!r} is of a graph of your own", hint="remove it with the checkpointer of that graph"
                )
    raise ThreadError(f"no run {thread!r} in {file}", hint=_list_hint(file))


def _list_hint(file: Path) -> str:
    return f"`specreason runs list{database_option(file)}` shows the runs"
