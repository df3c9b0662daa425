"""What Ctrl-C says: how to go on, at once, and before anything is closed."""

from __future__ import annotations

import logging
import shlex
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from specreason_graph.cli.screen import stop_drawing
from specreason_graph.cli.signals import handling_interrupt
from specreason_graph.cli.terminal import echo
from specreason_graph.errors import ThreadError
from specreason_graph.runs.store import default_database, read_launch

AGAIN = "nothing was begun; give the same command again"
"""What to do where no run was kept yet."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, of which was said how to go on."""


_said: list[str] = []
"""What was said since the command began; one who presses twice is told once."""


@contextmanager
def on_interrupt(advice: str | Callable[[], str]) -> Iterator[None]:
    """Say at Ctrl-C how to go on, and then raise `Interrupted`; ``advice`` is asked for at that moment.

    It is said in the handler of the signal: what is under way ends in its own time behind that.
    """

    def handle(*_: object) -> None:
        stop_drawing()
        say(advice if isinstance(advice, str) else advice())
        # What was under way complains: objects that were being made, and LangGraph, whose threads take no more work.
        sys.unraisablehook = lambda _: None
        logging.getLogger("concurrent.futures").disabled = True
        raise Interrupted

    with handling_interrupt(handle):
        yield


def say(advice: str = "") -> None:
    """Say that the command was interrupted, and how to go on; once a command."""
    if not _said:
        _said.append(advice)
        echo(f"interrupted{': ' * bool(advice)}{advice}", err=True)


def begin() -> None:
    """A command begins."""
    _said.clear()


def how_to_go_on(file: Path | None, thread: str) -> str:
    """How to go on with a run, if it was begun; ``file``: where it is kept, None where it is not."""
    if file is None:
        return "the run was not kept (--no-keep); give the same command again"
    try:
        read_launch(file, thread)
    except (sqlite3.Error, ThreadError, OSError):
        return AGAIN
    return f"go on with: {resume_command(file, thread)}"


def resume_command(file: Path, thread: str) -> str:
    """The command that resumes a run."""
    return f"specreason resume {thread}{database_option(file)}"


def database_option(file: Path) -> str:
    """What a command that is to read a file has to be given, behind a space; nothing for the default database."""
    return "" if file == default_database() else f" --db {shlex.quote(str(file))}"
