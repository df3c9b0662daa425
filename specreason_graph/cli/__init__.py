"""The command line ``specreason``: one file per group of commands."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command ``specreason``; says what to install where the libraries of the command line are missing."""
    try:
        from specreason_graph.cli.app import main as run
    except KeyboardInterrupt:  # the imports take seconds
        sys.exit(130)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("specreason_graph"):
            raise
        sys.exit(f'error: the command line needs {error.name}; install it with pip install "specreason-graph[cli]"')
    run()
