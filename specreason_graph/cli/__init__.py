"""The command line ``specreason``: one file per group of commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from specreason_graph.cli.signals import handling_interrupt


def main() -> None:
    """Run the command ``specreason``; says what to install where the libraries of the command line are missing."""
    try:
        with handling_interrupt(_leave), _told():
            from specreason_graph.cli.app import main as run
    except ModuleNotFoundError as error:
        if str(error.name).startswith("specreason_graph"):
            raise
        sys.exit(f'error: the command line needs {error.name}; install it with pip install "specreason-graph[cli]"')
    run()


@contextmanager
def _told() -> Iterator[None]:
    """Say on a terminal that the command has begun, while it imports what it needs to say anything else."""
    shows = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if shows:
        os.write(2, b"starting ...\r")
    try:
        yield
    finally:
        if shows:
            os.write(2, b"\r\x1b[K")


def _leave(*_: object) -> None:
    """End at once: the imports take seconds, and an exception raised in one of them may be caught there."""
    os.write(2, b"\ninterrupted: nothing was begun\n")
    os._exit(130)
