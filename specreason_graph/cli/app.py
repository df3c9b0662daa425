"""The command ``specreason``."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
import traceback
from importlib import metadata
from typing import Annotated

import typer

from specreason_graph.cli import (
    audit,
    bench,
    doctor,
    interrupt,
    options,
    plan,
    runs,
    serve,
    serve_pair,
    settings,
    solve,
    terminal,
    tune,
    view,
)
from specreason_graph.errors import RecordError, SpecReasonError, UsageError

TRACEBACK = "SPECREASON_TRACEBACK"
"""Environment variable; when it is set, an error that nobody foresaw is shown with its traceback."""
INTERRUPTED = 130
"""Exit code behind Ctrl-C: 128 + SIGINT, as shells expect."""
CLOSED = 141
"""Exit code when nobody reads the output any more: 128 + SIGPIPE, as shells expect."""

app = typer.Typer(
    help="Speculative reasoning: a small model drafts each step; a large one scores it and regenerates rejected steps.",
    epilog=f"Environment: {options.DATABASE_VARIABLE} names the database; SPECREASON_API_KEY is the key of servers; "
    f"SPECREASON_SIGNING_KEY signs ledgers; {TRACEBACK}=1 shows tracebacks; NO_COLOR=1 takes colours away.",
    no_args_is_help=True, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
app.command("solve")(solve.solve)
app.command("resume")(solve.resume)
app.command("doctor")(doctor.doctor)
app.command("plan")(plan.plan)
app.command("tune")(tune.tune)
app.command("serve")(serve_pair.serve)
app.command("serve-engines")(serve.serve_engines)
app.command("view")(view.view)
app.command("settings")(settings.settings)
app.add_typer(runs.app, name="runs")
app.add_typer(audit.app, name="audit")
app.add_typer(bench.app, name="bench")


def show_version(wanted: bool) -> None:  # noqa: FBT001 - as typer calls it
    """Print the version and end, where that is wanted."""
    if wanted:
        terminal.echo(f"specreason {metadata.version('specreason-graph')} (Python {platform.python_version()})")
        raise typer.Exit


@app.callback()
def specreason(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", help="Show the version and exit.", is_eager=True, callback=show_version),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    terminal.log_to_stderr()
    code = run(sys.argv[1:])
    terminal.close_quietly()
    if code == INTERRUPTED:
        os._exit(code)  # a normal exit would wait for threads that still import libraries; runs are kept step by step
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code; errors are printed as one line, without traceback."""
    interrupt.begin()
    try:
        code = _run(arguments)
    except terminal.OutputClosed:
        return CLOSED
    except SystemExit as ended:  # typer's own: behind a completion, and where the reader of any pipe has gone
        return CLOSED if ended.code else 0
    if code == INTERRUPTED:
        interrupt.say()
    return code


def _run(arguments: list[str]) -> int:
    # In standalone mode typer would print errors itself and exit. Without it, app returns what the command returns: its
    # exit code, or None.
    try:
        _check_text(arguments)
        return app(arguments, standalone_mode=False, prog_name="specreason") or 0
    except RecordError as error:
        return _fail(str(error), 1)
    except UsageError as error:
        return _fail(str(error), 2)
    except SpecReasonError as error:
        return _fail(str(error), 1)
    except sqlite3.Error as error:
        return _fail(f"the database failed: {error}; the run can be resumed", 1)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except typer.TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its help is printed, or is the message where Rich is off
            terminal.echo_text(error.format_message(), end="", err=True)
            return 2
        return _fail(error.format_message(), 2)
    except terminal.OutputClosed:
        raise
    except Exception as error:
        return _bug(error)


def _check_text(arguments: list[str]) -> None:
    """Raise `UsageError` for an argument in another encoding: it could neither be recorded nor sent to a model."""
    for each in arguments:
        if any("\ud800" <= char <= "\udfff" for char in each):
            shown = each.encode("utf-8", "backslashreplace").decode()
            raise UsageError(f"the argument '{shown}' is not UTF-8 text", hint="convert it, or rename the file")


def _bug(error: Exception) -> int:
    """Say in one line that this package has a bug, or show the traceback to who asks for it."""
    if os.environ.get(TRACEBACK):
        terminal.echo_text("".join(traceback.format_exception(error)), end="", err=True)
    hint = f"run it again with {TRACEBACK}=1 to see where, and report it"
    return _fail(f"this is a bug of specreason: {type(error).__name__}: {error}; {hint}", 1)


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    if line:
        terminal.echo(f"error: {line}", err=True)
    return code
