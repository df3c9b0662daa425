"""``audit whatif``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from specreason_graph.audit.ask.sampled import unasked
from specreason_graph.audit.ask.thresholds import curve, suggest
from specreason_graph.audit.ask.whatif import what_if
from specreason_graph.audit.check.verify import check_whole
from specreason_graph.audit.read.reader import read_all_runs, read_runs
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.audit.read.saver import open_database
from specreason_graph.cli import options
from specreason_graph.cli.audit.locate import DatabaseOption, RunOption, database_of, find_whole_run
from specreason_graph.cli.documents import Curve, OtherPolicy, say
from specreason_graph.cli.terminal import echo
from specreason_graph.errors import ConfigError, ThreadError
from specreason_graph.record.records import figure_of


def whatif(
    thread: Annotated[
        str | None, typer.Argument(help="Thread id. Without it, all runs of the database are used.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Another threshold, on the judge's scale.")] = None,
    judge: options.JudgeOption = None,
    more: options.SetOption = None,
    first_steps_by_base: Annotated[
        int | None, typer.Option(min=0, help="Another number of steps at the start that the base writes.")
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="Suggest a threshold for this share of accepted steps, 0 to 1.")
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="Confidence of the suggestion, and of the bound of a sampling judge, 0 to 1.")
    ] = 0.95,
    run: RunOption = None,
    db: DatabaseOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show which decisions another policy would change, from the record alone; over all runs, a curve by threshold."""
    other = options.judge_of(judge, more)
    if thread is None and (threshold is not None or first_steps_by_base is not None):
        raise ConfigError(
            "--threshold and --first-steps-by-base are for one run, and no thread is named", hint="name its thread"
        )
    if thread is None or target is not None:
        with open_database(database_of(db)) as saver:
            runs = read_all_runs(saver) if thread is None else read_runs(saver, thread)
        _many(runs, other, target, confidence, as_json=as_json)
        return
    one = find_whole_run(thread, run, db)
    found = what_if(
        one, threshold=threshold, judge=other,
        first_steps_by_base=first_steps_by_base,
    )  # fmt: skip
    if as_json:
        bound = unasked([one], confidence=confidence)
        say(OtherPolicy(**dict(found), unasked=bound))
        return
    for change in found.changed:
        would = {True: "accepted", False: "rejected", None: "decided by what the record does not tell"}[change.would_be]
        number = "" if change.number is None else f"{figure_of(change.number, found.policy.threshold)} "
        sure = "" if change.step == found.first_divergence else "  (only if the steps before stayed the same)"
        about = "another version, " if change.another else ""
        back = ", and other steps taken back" if change.goes_back else ""
        echo(f"step {change.step + 1}: {about}{number}would be {would}{back}{sure}")
    if threshold is None and other is None and first_steps_by_base is None:
        echo("under its own policy; name another --threshold, --judge or --first-steps-by-base")
    echo(f"{len(found.changed)} of {found.steps} steps would change; acceptance {found.acceptance:.0%}")
    echo(f"{found.seconds:.2f} s of engine time instead of {found.recorded_seconds:.2f} s, an estimate")
    _tell_unasked([one], confidence)


def _many(runs: list[RecordedRun], judge: Any, target: float | None, confidence: float, *, as_json: bool) -> None:
    scored = [run for run in runs if _counts(run)]
    if target is not None:
        found = suggest(scored, target, confidence=confidence, judge=judge)
        if as_json:
            say(found)
        elif found.threshold is None:
            echo(f"no threshold is shown by {found.runs} runs to reach {target:.0%} at {confidence:.0%} confidence")
        else:
            echo(
                f"threshold {found.threshold:g}: acceptance {found.acceptance:.1%}, at least "
                f"{found.acceptance_at_least:.1%}; steps that only this threshold accepts {found.let_in:.1%}, at most "
                f"{found.let_in_at_most:.1%} ({found.runs} finished runs without forks; {confidence:.0%} confidence)"
            )
        return
    points = curve(scored, judge=judge)
    if as_json:
        say(Curve(points))
        return
    echo("threshold  acceptance  seconds a run  unchanged runs")
    for point in points:
        echo(f"{point.threshold:9.4g} {point.acceptance:11.1%} {point.seconds:14.2f} {point.same:10} of {point.runs}")
    _tell_unasked(scored, confidence)


def _tell_unasked(runs: list[RecordedRun], confidence: float) -> None:
    found = unasked(runs, confidence=confidence)
    if found:
        echo(
            f"{found.unasked} steps were let in unasked; "
            f"of {found.sampled} sampled ones {found.rejected} were rejected: "
            f"of such steps at most {found.share_at_most:.1%} would be ({found.confidence:.0%} confidence)"
        )


def _counts(run: RecordedRun) -> bool:
    """Whether a run counts as one sample of the statistics: it is finished, can be read and is no fork."""
    # A fork shares steps with the run that it comes from, so the two are not independent.
    try:
        return check_whole(run).finished and run.typed_manifest.forked_from is None
    except ThreadError:
        return False


COMMANDS = (whatif,)
