"""The command ``specreason``."""

from __future__ import annotations

import logging
import sqlite3
import sys

import typer

from specreason_graph.cli import audit, bench, doctor, serve, solve
from specreason_graph.errors import SpecReasonError, UsageError

app = typer.Typer(
    help="Speculative reasoning: a small model drafts each step, a large one scores it and rewrites what is not good.",
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
)  # fmt: skip
app.command("solve")(solve.solve)
app.command("resume")(solve.resume)
app.command("doctor")(doctor.doctor)
app.command("serve-engines")(serve.serve_engines)
app.add_typer(audit.app, name="audit")
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Run a command; errors for people are one line, without traceback. Exit codes: 0, 1 failed, 2 bad input."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("specreason_graph").setLevel(logging.INFO)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code."""
    try:
        return app(arguments, standalone_mode=False, prog_name="specreason") or 0
    except UsageError as error:
        return _fail(str(error), 2)
    except SpecReasonError as error:
        return _fail(str(error), 1)
    except sqlite3.Error as error:
        return _fail(f"the database failed: {error}; the run can be resumed", 1)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except typer.TyperException as error:
        return _fail(error.format_message() if hasattr(error, "format_message") else str(error), 2)


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    if line:
        typer.echo(f"error: {line}", err=True)
    return code
