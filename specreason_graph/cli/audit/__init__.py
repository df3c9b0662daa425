"""``specreason audit``: look into runs, question them, go on from them, and show them to others."""

from __future__ import annotations

import typer

from specreason_graph.cli.audit import export, inspect, replay, whatif

app = typer.Typer(
    help="Look into runs without writing to them. Exit codes: 0 fine, 1 something was found, 2 bad input.",
    no_args_is_help=True,
)
for module in (inspect, replay, whatif, export):
    for command in module.COMMANDS:
        app.command(command.__name__.strip("_"))(command)
