"""``specreason bench``: strategies side by side, and whether a difference is real."""

from __future__ import annotations

import typer

from specreason_graph.cli.bench import compare, run

app = typer.Typer(help="Measure strategies side by side on questions of yours.", no_args_is_help=True)
app.command("run")(run.run)
app.command("compare")(compare.compare)
