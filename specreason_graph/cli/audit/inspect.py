"""``audit list``, ``show``, ``verify`` and ``diff``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from specreason_graph.audit.ask.diff import Comparison, compare
from specreason_graph.audit.check.verify import Verification, check_whole, verify
from specreason_graph.audit.read.reader import read_all_runs, read_runs
from specreason_graph.audit.read.recorded import Finding, RecordedRun, choose_run
from specreason_graph.audit.read.saver import open_database
from specreason_graph.cli.audit.anchor import read_stamped, verify_anchored
from specreason_graph.cli.audit.locate import (
    DatabaseOption,
    RunOption,
    ThreadArgument,
    database_of,
    find_run,
    find_whole_run,
)
from specreason_graph.cli.documents import ComparedRuns, Verified, problem_of, run_row, say, shown_run
from specreason_graph.cli.options import JsonOption, path_option
from specreason_graph.cli.screen_view import make_view
from specreason_graph.cli.terminal import echo, echo_json, echo_text, visible
from specreason_graph.config import SpecReasonConfig
from specreason_graph.errors import UsageError
from specreason_graph.record.records import Signature
from specreason_graph.record.signing import read_public_key
from specreason_graph.record.summary import summarise

SHOWN = ("temperature", "top_p", "seed", "first_steps_by_base")
"""Settings that ``audit show`` prints beside judge, writer and review."""


def list_(db: DatabaseOption = None, as_json: JsonOption = False) -> int:
    """List all runs of a database, the latest first. Exit code 1 if one is not as it was written."""
    with open_database(database_of(db)) as saver:
        rows = [(run, problem_of(run)) for run in read_all_runs(saver)]
    if as_json:
        echo_json([run_row(run, problem) for run, problem in rows])
    for run, problem in () if as_json else rows:
        where, name = visible(f"{run.thread_id} {run.namespace}"), visible(run.run)
        if problem:
            echo(f"{run.updated[:19]}  {where:14} {name[:8]}  not as it was written: {problem}")
            continue
        forked = " forked" if run.manifest.get("forked_from") else ""
        forked += f" end {run.checkpoint_id}" if run.other_ends else ""
        ended = run.stop_reason or ("abandoned" if run.abandoned else "unfinished")
        echo(
            f"{run.updated[:19]}  {where:14} {name[:8]}  {len(run.trace):4} steps  {ended:13}{forked}  "
            f"{visible(run.question)[:80]}"
        )
    return 1 if any(problem for _, problem in rows) else 0


def show(thread: ThreadArgument, run: RunOption = None, db: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """Show one run: question, settings, steps and answer."""
    found = find_whole_run(thread, run, db)
    if as_json:
        echo_json(shown_run(found))
        return
    manifest = found.typed_manifest
    models = "   ".join(f"{role} {each.model} ({each.engine})" for role, each in manifest.engines.items())
    echo(f"thread {found.thread_id}   run {found.run}   {models}")
    echo(f"head {found.head or 'none: made with schema version 1'}")
    if found.other_ends:
        echo(f"checkpoint {found.checkpoint_id}; the run has other ends, at {', '.join(found.other_ends)}")
    if manifest.forked_from:
        old = manifest.forked_from
        echo(f"forked from step {old.step} of run {old.run} in thread {old.thread_id}, head {old.head}")
    echo("   ".join(_settings(manifest.config)))
    echo_text(f"\n{found.question}\n")
    view = make_view()
    for step in found.steps:
        view.step(step)
    if found.answer and found.stop_reason:
        view.answer(found.answer)
        view.closing(found.answer, found.stop_reason, summarise(found.steps, found.answer))
    else:
        echo_text("\nnot finished")


def _settings(config: SpecReasonConfig) -> Iterator[str]:
    """What is to be known of the settings in front of the steps; the JSON form has all of them."""
    judge = config.judge_in_force
    yield f"judge {judge.kind}   threshold {judge.threshold:g}   writer {config.writer.kind}"
    yield from (f"{name} {getattr(config, name)}" for name in SHOWN if getattr(config, name) is not None)
    if config.review:
        yield f"review from {config.review.low:g} to {config.review.high:g}"


def verify_(
    thread: Annotated[str | None, typer.Argument(help="Thread id; without it, all runs of an anchor.")] = None,
    run: RunOption = None,
    db: DatabaseOption = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Public key that must have signed the head: PEM file or hexadecimal.")
    ] = None,
    head: Annotated[
        str | None, typer.Option("--head", help="Expected hash of the last entry, kept outside the database.")
    ] = None,
    signature: Annotated[
        Path | None, path_option("--signature", text="JSON file with a signature that was kept outside the database.")
    ] = None,
    anchor: Annotated[
        Path | None, path_option("--anchor", text="File of `audit anchor`: the runs must go on from there.")
    ] = None,
    timestamp: Annotated[
        Path | None, path_option("--timestamp", text="An authority's answer (RFC 3161) for that file.")
    ] = None,
    tsa_root: Annotated[
        Path | None, path_option("--tsa-root", text="PEM certificate of the authority's root, with --timestamp.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Check that the record of a run is as it was written."""
    if head is not None and not head.strip():
        raise UsageError("--head is empty", hint="give the hash that was kept elsewhere, or leave the option out")
    if thread is None and anchor is None:
        raise UsageError("no thread is named", hint="name one, or an anchor with --anchor")
    kept = read_stamped(anchor, timestamp, tsa_root)
    if thread is None:
        return verify_anchored(kept, db, as_json=as_json)
    found = verify(
        find_run(thread, run, db), public_key=None if key is None else read_public_key(key), head=head,
        signature=_signature(signature), anchor=kept,
    )  # fmt: skip
    if as_json:
        say(Verified(**dict(found)))
    else:
        _show_verification(found)
    return 0 if found.ok else 1


def diff(
    thread: ThreadArgument,
    other: Annotated[str, typer.Argument(help="Thread id of the other run.")],
    run: RunOption = None,
    other_run: Annotated[
        str | None, typer.Option("--other-run", help="Name of the run in the other thread, if it holds several.")
    ] = None,
    db: DatabaseOption = None,
    as_json: JsonOption = False,
) -> int:
    """Compare two runs: steps side by side, the first difference, authors and costs. Exit code 1 if they differ."""
    with open_database(database_of(db)) as saver:
        both = choose_run(read_runs(saver, thread), run), choose_run(read_runs(saver, other), other_run)
    one, two = map(check_whole, both)
    found = compare(one, two)
    if as_json:
        say(
            ComparedRuns(
                same=found.same, first_divergence=found.first_divergence, first=found.one, second=found.other,
                rows=found.rows,
            )
        )  # fmt: skip
    else:
        _show_comparison(found, one, two)
    return 0 if found.same else 1


def show_findings(findings: list[Finding]) -> None:
    """Print one line per finding."""
    for finding in findings:
        where = "run" if finding.step is None else f"step {finding.step + 1}"
        echo(f"  {where}: {finding.problem}")


def _signature(file: Path | None) -> Signature | None:
    if file is None:
        return None
    try:
        return Signature.load(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        hint = 'write {"key": "...", "value": "..."}'
        raise UsageError(f"cannot read the signature {file}: {error}", hint=hint) from None


def _show_verification(found: Verification) -> None:
    state = "as written" if found.ok else f"findings: {len(found.findings)}"
    ended = "" if found.finished else ", not finished"
    echo(f"run {found.run}: {found.entries} entries{ended}, {state}")
    echo(f"head {found.head}")
    echo(f"signed by {found.signed_by}" if found.signed_by else "not signed")
    for change in found.changes:
        echo(f"  from step {(change.step or 0) + 1} on it went on with {change.problem}")
    if found.other_ends:
        echo(f"  the run has other ends, at checkpoints {', '.join(found.other_ends)}")
    show_findings(found.findings)


def _show_comparison(found: Comparison, one: RecordedRun, other: RecordedRun) -> None:
    for row in found.rows:
        left, right = (_side(run, at) for run, at in ((one, row.one), (other, row.other)))
        echo(f"{' ' if row.same else '|'} {left:58} {right}")
    echo()
    for name in ("steps", "by_draft", "by_base", "by_human", "generated_tokens", "discarded_tokens", "seconds"):
        values = [getattr(side, name) for side in (found.one, found.other)]
        left, right = (f"{value:.2f}" if isinstance(value, float) else str(value) for value in values)
        echo(f"{name.replace('_', ' '):18} {left:>12} {right:>12}")
    first = found.first_divergence
    where = "the same to the last token" if found.same else "answers differ" if first is None else f"step {first + 1}"
    echo(f"first difference: {where}")


def _side(run: RecordedRun, at: int | None) -> str:
    if at is None:
        return ""
    step = run.steps[at]
    return f"{at + 1:3} {step.author:5} {visible(step.text)[:46]}"


COMMANDS = (list_, show, verify_, diff)
