"""The command ``specreason``."""

from __future__ import annotations

import logging
import sqlite3
import sys

import typer

from specreason_graph.cli import audit, bench, doctor, serve, solve
from specreason_graph.errors import SpecReasonError, UsageError

app = typer.Typer(
    help="Speculative reasoning: a small model drafts each step; a large one scores it and regenerates rejected steps.",
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
)  # fmt: skip
app.command("solve")(solve.solve)
app.command("resume")(solve.resume)
app.command("doctor")(doctor.doctor)
app.command("serve-engines")(serve.serve_engines)
app.add_typer(audit.app, name="audit")
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)  # standard output is for results only
    logging.getLogger("specreason_graph").setLevel(logging.INFO)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code; errors are printed as one line, without traceback."""
    # In standalone mode typer would print errors itself and exit. Without it, app returns what the command returns: its
    # exit code, or None.
    try:
        return app(arguments, standalone_mode=False, prog_name="specreason") or 0
    except UsageError as error:
        return _fail(str(error), 2)
    except SpecReasonError as error:
        return _fail(str(error), 1)
    except sqlite3.Error as error:
        return _fail(f"the database failed: {error}; the run can be resumed", 1)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)  # 128 + SIGINT, as shells expect
    except typer.TyperException as error:
        return _fail(error.format_message() if hasattr(error, "format_message") else str(error), 2)


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    if line:
        typer.echo(f"error: {line}", err=True)
    return code
