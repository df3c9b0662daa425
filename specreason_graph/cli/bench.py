"""``specreason bench``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from specreason_graph.cli import options
from specreason_graph.cli.speed import length, speed

app = typer.Typer(help="Measure this package on this machine.", no_args_is_help=True)
app.command("speed")(speed)
app.command("length")(length)


@app.callback()
def bench() -> None:
    """Measure this package on this machine."""


@app.command("overhead")
def overhead(
    steps: Annotated[int, typer.Option(min=3, help="Steps of the scripted run.")] = 200,
    as_json: options.JsonOption = False,
) -> None:
    """What a step costs besides the engines: a scripted run on SQLite."""
    from specreason_graph.bench.overhead import measure_overhead

    found = measure_overhead(steps)
    if as_json:
        typer.echo(found.model_dump_json())
        return
    typer.echo(f"{found.steps} steps in {found.seconds:.2f} s, {found.milliseconds_per_step:.2f} ms a step (median)")
    typer.echo(f"database {found.database_bytes:,} bytes, {found.database_bytes / found.steps:,.0f} a step")
    typer.echo(f"committed text {found.text_bytes:,} bytes")


@app.command("calls")
def calls(
    engine: options.EngineOption = "vllm",
    base: options.BaseOption = None,
    draft: options.DraftOption = None,
    base_url: options.BaseUrlOption = None,
    draft_url: options.DraftUrlOption = None,
    engine_options: options.EngineSetOption = None,
    count: Annotated[int, typer.Option(min=10, help="Calls of each kind.")] = 200,
    as_json: options.JsonOption = False,
) -> None:
    """What a one-token call costs more than the same call made bare, on the engine vllm or server."""
    from specreason_graph.bench.calls import measure_calls
    from specreason_graph.diagnosis import QUESTION

    models = {"base": base, "draft": draft, "engine": engine, "base_url": base_url, "draft_url": draft_url}
    launch = options.make_launch("", None, models, {}, engine_options)
    with launch.open_pair() as pair:
        for role, asked in (("base", pair.base), ("draft", pair.draft)):
            found = pair.run(partial(measure_calls, asked, asked.vocabulary.encode(QUESTION), count))
            text = f"{role:5} {found.ours:.2f} ms a call, {found.bare:.2f} bare, {found.more:+.2f} ms more (medians)"
            typer.echo(found.model_dump_json() if as_json else text)


@app.command("starts")
def starts(
    engine: options.EngineOption = "vllm",
    base: options.BaseOption = None,
    draft: options.DraftOption = None,
    engine_options: options.EngineSetOption = None,
    cycles: Annotated[int, typer.Option(min=1, help="How often the pair is opened and closed.")] = 3,
    as_json: options.JsonOption = False,
) -> None:
    """How long a pair takes to open and close, and what that leaves behind in this process."""
    from specreason_graph.bench.starts import measure_starts

    launch = options.make_launch("", None, {"base": base, "draft": draft, "engine": engine}, {}, engine_options)
    for number, found in enumerate(measure_starts(launch.open_pair, cycles), 1):
        text = (
            f"{number:3} opened in {found.opening:.1f} s, closed in {found.closing:.1f} s; left: {found.processes} "
            f"processes, {found.handles} files, {found.threads} threads, {found.megabytes:.0f} MB"
        )
        typer.echo(found.model_dump_json() if as_json else text)


@app.command("growth")
def growth(
    steps: Annotated[list[int] | None, typer.Option("--steps", min=3, help="Steps of a run; repeatable.")] = None,
    db: Annotated[
        str | None, typer.Option("--db", help="postgresql://... instead of an SQLite file of its own.")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """How the record of a run grows with its steps, and how long it takes to verify."""
    from specreason_graph.bench.growth import measure_growth

    if not as_json:
        typer.echo("steps   stored KB   KB a step   run ms a step   verify ms a step")
    for count in steps or [100, 1000, 5000]:
        found = measure_growth(count, db)
        if as_json:
            typer.echo(found.model_dump_json())
            continue
        each = found.stored_bytes / 1000 / count
        run, verify = (1000 * seconds / count for seconds in (found.run_seconds, found.verify_seconds))
        typer.echo(f"{count:5} {found.stored_bytes / 1000:11.0f} {each:11.2f} {run:15.2f} {verify:18.3f}")


@app.command("deadlines")
def deadlines(
    engine: options.EngineOption = None,
    base: options.BaseOption = None,
    draft: options.DraftOption = None,
    engine_options: options.EngineSetOption = None,
    runs: Annotated[int, typer.Option(min=2, help="How many runs arrive.")] = 200,
    load: Annotated[float, typer.Option(min=0.01, help="Share of the pair's capacity that they take.")] = 0.8,
    as_json: options.JsonOption = False,
) -> None:
    """How many runs with deadlines are in time, with the most urgent first and without."""
    from specreason_graph.bench.deadlines import measure_punctuality
    from specreason_graph.models.abacus.problems import held_out

    launch = options.make_launch("", None, {"base": base, "draft": draft, "engine": engine}, {}, engine_options)
    with launch.open_pair() as pair:
        for found in measure_punctuality(pair, held_out()[:runs], load):
            kinds = ", ".join(f"{share:.0%}" for share in found.by_objective)
            text = (
                f"{'most urgent first' if found.by_urgency else 'first come first':17} {found.in_time:.1%} of "
                f"{found.runs} in time ({kinds} by deadline, tightest first), {found.answered:.1%} answered in time, "
                f"slowest {found.slowest:.1f} s"
            )
            typer.echo(found.model_dump_json() if as_json else text)
