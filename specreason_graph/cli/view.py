"""``specreason view``."""

from __future__ import annotations

import os
import sys
import webbrowser
from typing import Annotated

import typer

from specreason_graph.audit.read.saver import open_database
from specreason_graph.cli.audit.locate import DatabaseOption, RunOption, database_of, find_run
from specreason_graph.cli.bench.run import check_libraries
from specreason_graph.cli.terminal import echo

LIBRARIES = ("starlette", "uvicorn", "sse_starlette")


def view(
    thread: Annotated[
        str | None, typer.Argument(help="Thread id of the run to open; the list of runs if not given.")
    ] = None,
    run: RunOption = None,
    db: DatabaseOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 0,
    opens: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
) -> None:
    """Show the runs of a database in the browser, and follow them while they go on, until interrupted.

    The page is served on this machine only, to whoever has its address. The database is only read.
    """
    check_libraries("view", LIBRARIES, extra="view")
    from specreason_graph.audit.show.place import Place
    from specreason_graph.audit.show.server import ViewServer

    where = database_of(db)
    with open_database(where):  # an error is told before anything is served
        pass
    page = Place.of(find_run(thread, run, db)).url if thread else ""

    def ready(address: str) -> None:
        echo(f"view: {address}{page}")
        echo("the address holds the key to it; stop with Ctrl-C", err=True)
        if opens and _has_screen():
            webbrowser.open(address + page)

    ViewServer(where).run(port, ready)


def _has_screen() -> bool:
    """Whether there is a screen: a browser of the terminal would take the terminal over."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(each) for each in ("DISPLAY", "WAYLAND_DISPLAY"))
