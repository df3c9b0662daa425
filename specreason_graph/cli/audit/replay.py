"""``audit replay`` and ``audit fork``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from specreason_graph.audit.check.recompute import recompute
from specreason_graph.audit.check.rerun import rerun
from specreason_graph.audit.check.rescore import rescore
from specreason_graph.audit.fork import fork as begin_fork
from specreason_graph.audit.fork import plan_fork
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.cli import options
from specreason_graph.cli.audit.inspect import show_findings
from specreason_graph.cli.audit.locate import (
    DatabaseOption,
    RunOption,
    ThreadArgument,
    database_of,
    engines_of,
    find_whole_run,
)
from specreason_graph.cli.documents import Recomputed, RerunRun, RescoredRun, say
from specreason_graph.cli.interrupt import how_to_go_on, on_interrupt
from specreason_graph.cli.loading import opened
from specreason_graph.cli.solve import work
from specreason_graph.cli.terminal import echo
from specreason_graph.config import overridden
from specreason_graph.errors import ConfigError
from specreason_graph.record.records import Review
from specreason_graph.runs.resume import Run
from specreason_graph.runs.store import RunStore, default_database, new_thread

How = Literal["recorded", "rescore", "regenerate"]
DRIFT = 1e-3
"""Largest change of a digit's probability that counts as rounding."""
HowOption = Annotated[
    str,
    options.choice_option(
        "--how",
        choices=get_args(How),
        default="recorded",
        text="recorded: recompute, with no engine. rescore: the base model scores again. regenerate: run all again.",
    ),
]


@options.takes_models
def replay(
    models: options.ModelOptions,
    thread: ThreadArgument,
    how: HowOption = "recorded",
    run: RunOption = None,
    db: DatabaseOption = None,
    as_json: options.JsonOption = False,
) -> int:
    """Repeat a run's decisions: from the record alone, with new scores, or by running it again."""
    if how not in get_args(How):
        raise ConfigError(f"--how {how!r} is unknown", hint="write recorded, rescore or regenerate")
    found = find_whole_run(thread, run, db)
    if how == "recorded":
        return _recorded(found, as_json=as_json)
    with opened(engines_of(found, db, models)) as pair:
        again = _rescored if how == "rescore" else _rerun
        return again(found, pair, as_json=as_json)


@options.takes_models
def fork(
    models: options.ModelOptions,
    thread: ThreadArgument,
    at: Annotated[int, typer.Option("--at", min=0, help="Number of steps to take over.")],
    text: Annotated[
        str | None, typer.Option("--text", help="Your own text, in place of the last step that is taken over.")
    ] = None,
    reviewer: Annotated[str | None, typer.Option(help="Author of that text, for the record.")] = None,
    note: Annotated[str | None, typer.Option(help="Reason for that text, for the record.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Another threshold, 0 to 9.")] = None,
    more: options.SetOption = None,
    run: RunOption = None,
    db: DatabaseOption = None,
    into: Annotated[
        Path | None,
        options.path_option(
            "--into", text="SQLite file for the new run; if not given, the same file or that of `solve`."
        ),
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Go on from a step in a new thread, with other settings, other models or a text of yours."""
    found = find_whole_run(thread, run, db)
    settings = {**options.parse_settings(more), **({} if threshold is None else {"threshold": threshold})}
    edit = None if text is None else Review(verdict="edit", text=text, reviewer=reviewer, note=note)
    config = overridden(found.typed_manifest.config, settings)
    launch = engines_of(found, db, models).model_copy(
        update={"question": found.question, "settings": config.model_dump(mode="json")}
    )
    launch.check_unattended()  # before the models are loaded
    with opened(launch) as pair:
        channels = plan_fork(found, pair, at=at, edit=edit, **settings)  # before a thread is added: it may be refused
        file, new = into or _own(db), new_thread()
        with on_interrupt(lambda: how_to_go_on(file, new)), RunStore.open(file) as store:
            store.add(launch, new)
            begin_fork(launch.compile(pair, store.saver), new, channels)
            work(Run(store, new, pair), launch, as_json=as_json, show_question=True, file=file)


def _own(db: str | None) -> Path:
    """Return the file for a fork: that of the forked run, or the default one where that run is in PostgreSQL."""
    return default_database() if "://" in database_of(db) else Path(database_of(db)).expanduser()


def _recorded(run: RecordedRun, *, as_json: bool) -> int:
    found = recompute(run)
    if as_json:
        say(Recomputed(**dict(found)))
    else:
        state = "all as recorded" if found.ok else f"{len(found.differences)} differences"
        echo(f"{found.steps} steps, {found.decisions} decisions computed again, no engine: {state}")
        show_findings(found.differences)
    return 0 if found.ok else 1


def _rescored(run: RecordedRun, pair: Any, *, as_json: bool) -> int:
    found = rescore(run, pair)
    if as_json:
        changed = {"flipped_steps": found.flipped, "changed_engines": found.changed_engines}
        say(RescoredRun(scores=found.steps, drift=found.drift, **changed))
    else:
        for step in found.steps:
            flipped = "  the decision would change" if step.flipped else ""
            echo(f"step {step.step + 1}: {step.recorded:.3f} then, {step.now:.3f} now, drift {step.drift:.1e}{flipped}")
        echo(f"largest drift {found.drift:.1e}; {len(found.flipped)} of {len(found.steps)} decisions would change")
        _show_changed(found.changed_engines)
    return 1 if found.flipped or found.drift > DRIFT else 0


def _rerun(run: RecordedRun, pair: Any, *, as_json: bool) -> int:
    found = rerun(run, pair)
    if as_json:
        say(RerunRun(**dict(found)))
    elif found.difference is None:
        echo(f"{found.steps} steps and the answer, {found.tokens} tokens: the same to the last token")
    else:
        first = found.difference
        where = "the answer" if first.step is None else f"step {first.step + 1}"
        token = "" if first.token is None else f", token {first.token + 1}"
        echo(f"first difference: {where}, {first.part}{token}: recorded {first.recorded}, now {first.again}")
    if not as_json:
        _show_changed(found.changed_engines)
        for caveat in found.caveats:
            echo(f"note: {caveat}")
    return 0 if found.ok else 1


def _show_changed(roles: list[Any]) -> None:
    if roles:
        echo(f"note: not the recorded {' and '.join(roles)} engine (weights, format, kind, version or device differ)")


COMMANDS = (replay, fork)
