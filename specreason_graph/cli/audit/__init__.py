"""``specreason audit``: read, verify, replay, question, fork, compare, show and export recorded runs."""

from __future__ import annotations

import typer

from specreason_graph.cli.audit import anchor, export, inspect, replay, whatif

app = typer.Typer(
    help="Look into recorded runs. No command changes a run; `fork` adds a new one, and `prune` removes checkpoints. "
    "Exit codes: 0 fine, 1 something was found, 2 bad input.",
    no_args_is_help=True,
)
for module in (inspect, replay, whatif, export, anchor):
    for command in module.COMMANDS:
        app.command(command.__name__.strip("_"))(command)  # list_ and verify_ would hide other names without it
