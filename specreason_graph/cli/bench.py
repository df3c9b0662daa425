"""``specreason bench``."""

from __future__ import annotations

from typing import Annotated

import typer

from specreason_graph.cli import options

app = typer.Typer(help="Measure this package on this machine.", no_args_is_help=True)


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
