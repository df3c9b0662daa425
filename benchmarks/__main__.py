"""``python -m benchmarks``: measure what this package costs on this machine, besides its engines."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from benchmarks.calls import measure_calls
from benchmarks.deadlines import measure_punctuality
from benchmarks.growth import measure_growth
from benchmarks.length import SAVERS, length_lines, measure_length
from benchmarks.overhead import measure_overhead
from benchmarks.starts import measure_starts
from specreason_graph.bench.hardware import processor
from specreason_graph.cli import options
from specreason_graph.cli.diagnosis import QUESTION
from specreason_graph.engines import cores
from specreason_graph.models.abacus.problems import held_out

app = typer.Typer(help="Measure this package on this machine.", no_args_is_help=True, pretty_exceptions_enable=False)
Steps = Annotated[list[int] | None, typer.Option("--steps", min=3, help="Steps of a scripted run; repeatable.")]


@app.command()
def overhead(steps: Annotated[int, typer.Option(min=3)] = 200) -> None:
    """Measure the time per step and the size of the database, in a scripted run on SQLite."""
    found = measure_overhead(steps)
    print(f"{found.steps} steps in {found.seconds:.2f} s, {found.milliseconds_per_step:.2f} ms a step (median)")
    print(f"database {found.database_bytes:,} bytes, {found.database_bytes / found.steps:,.0f} a step")
    print(f"committed text {found.text_bytes:,} bytes")


@app.command()
@options.takes_models
def calls(models: options.ModelOptions, count: Annotated[int, typer.Option(min=10)] = 200) -> None:
    """Measure what this package adds to the time of a one-token call; for the engines vllm and server."""
    with models.launch("").open_pair() as pair:
        for role, asked in (("base", pair.base), ("draft", pair.draft)):
            found = pair.run(partial(measure_calls, asked, asked.vocabulary.encode(QUESTION), count))
            print(f"{role:5} {found.ours:.2f} ms a call, {found.bare:.2f} bare, {found.more:+.2f} ms more (medians)")


@app.command()
@options.takes_models
def starts(models: options.ModelOptions, cycles: Annotated[int, typer.Option(min=1)] = 3) -> None:
    """Measure how long a pair takes to open and close, and what that leaves behind in this process."""
    for number, found in enumerate(measure_starts(models.launch("").open_pair, cycles), 1):
        print(
            f"{number:3} opened in {found.opening:.1f} s, closed in {found.closing:.1f} s; left: {found.processes} "
            f"processes, {found.handles} files, {found.threads} threads, {found.megabytes:.0f} MB"
        )


@app.command()
def growth(
    steps: Steps = None,
    db: Annotated[
        str | None, typer.Option(help="PostgreSQL database, as postgresql://...; a temporary SQLite file if not given.")
    ] = None,
) -> None:
    """Measure how the record of a run grows with its steps, and how long verifying it takes."""
    print("steps   stored KB   KB a step   run ms a step   verify ms a step")
    for count in steps or [100, 1000, 5000]:
        found = measure_growth(count, db)
        each = found.stored_bytes / 1000 / count
        run, verify = (1000 * seconds / count for seconds in (found.run_seconds, found.verify_seconds))
        print(f"{count:5} {found.stored_bytes / 1000:11.0f} {each:11.2f} {run:15.2f} {verify:18.3f}")


@app.command()
def length(steps: Steps = None) -> None:
    """Measure whether the cost of a step depends on the length of the run, in memory and on SQLite."""
    rows = [measure_length(count, saver) for saver in SAVERS for count in sorted(steps or [100, 1000, 10_000])]
    print(f"{processor()}, {cores()} cores; scripted engines that take no time; durability sync")
    print(*length_lines(rows), sep="\n")


@app.command()
@options.takes_models
def deadlines(
    models: options.ModelOptions,
    runs: Annotated[int, typer.Option(min=2, help="Number of runs that arrive.")] = 200,
    load: Annotated[float, typer.Option(min=0.01, help="Load: fraction of the pair's capacity.")] = 0.8,
) -> None:
    """Measure how many runs meet their deadlines when runs arrive at random."""
    with models.launch("").open_pair() as pair:
        found = measure_punctuality(pair, held_out()[:runs], load)
    kinds = ", ".join(f"{share:.0%}" for share in found.by_objective)
    print(
        f"{found.in_time:.1%} of {found.runs} in time ({kinds} by deadline, tightest first), "
        f"{found.answered:.1%} answered in time, slowest {found.slowest:.1f} s"
    )


if __name__ == "__main__":
    app()
