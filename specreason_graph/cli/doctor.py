"""``specreason doctor``."""

from __future__ import annotations

import json

import typer

from specreason_graph.cli import options
from specreason_graph.cli.diagnosis import CheckResult, Diagnosis, memory
from specreason_graph.config import make_config

COLOURS = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "failed": typer.colors.RED}


@options.takes_models
def doctor(
    models: options.ModelOptions,
    more: options.SetOption = None,
    config: options.ConfigOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Check a pair: does the judge see the steps, do the caches work, does drafting pay. Exit code 1 on a failure."""
    launch = models.launch("", config, options.parse_settings(more))
    plan = launch.plan_memory()  # before the engines take the memory that the plan divides
    with launch.open_pair() as pair:
        results = ([] if plan is None else memory(plan)) + pair.run(
            Diagnosis(pair, make_config(**launch.settings)).results
        )
    if as_json:
        typer.echo(json.dumps([result.dump() for result in results]))
    else:
        for result in results:
            _show(result)
    if any(result.status == "failed" for result in results):
        raise typer.Exit(1)


def _show(result: CheckResult) -> None:
    status = typer.style(f"{result.status:7}", fg=COLOURS[result.status])
    typer.echo(f"{status} {result.name:13} {result.detail}")
    if result.advice:
        typer.echo(f"{'':21} -> {result.advice}")
