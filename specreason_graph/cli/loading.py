"""Opens engines, and shows on a terminal what is waited for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from specreason_graph.cli.interrupt import AGAIN, on_interrupt
from specreason_graph.cli.screen import Screen, is_screen
from specreason_graph.engines import EnginePair
from specreason_graph.runs.launch import Launch

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


@contextmanager
def opened(launch: Launch, *, interrupted: str = AGAIN) -> Iterator[EnginePair]:
    """The pair of a launch while the context is open; ``interrupted``: what Ctrl-C says while it loads."""
    with ExitStack() as stack:
        stage = Loading(launch)
        with on_interrupt(f"the models were still loading; {interrupted}"), shown(stage):
            opening = launch.open_pair()
            stage.pair = opening
            pair = stack.enter_context(opening)
        yield pair


def shown(stage: Any) -> AbstractContextManager[Any]:
    """Show a stage on standard error while the context is open, where that is a terminal."""
    return Screen(err=True).changing(stage) if is_screen(err=True) else nullcontext()


class Waiting:
    """Something that is waited for, drawn anew all the time."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._spinner: Any = None

    @property
    def line(self) -> str:
        """It in words."""
        raise NotImplementedError

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.spinner import Spinner
        from rich.text import Text

        self._spinner = self._spinner or Spinner("line" if options.ascii_only else "dots")
        self._spinner.update(text=Text(f"{self.line}   {time.monotonic() - self._begun:.0f} s"))
        yield from console.render(self._spinner, options)


class Loading(Waiting):
    """The engines of a launch."""

    def __init__(self, launch: Launch) -> None:
        super().__init__()
        self._launch = launch
        self.pair: object = None
        """The pair, as soon as it is made."""

    @property
    def line(self) -> str:
        """It in words."""
        kind = self._launch.engine
        if not isinstance(self.pair, EnginePair):
            return f"importing the libraries of {kind}"
        names = {"base": f"base {self._launch.base}", "draft": f"draft {self._launch.draft}"}
        if self.pair.base is self.pair.draft:
            names = {"base": f"{self._launch.base} for both roles"}
        left = [name for role, name in names.items() if role in self.pair.loading]
        ready = [name for name in names.values() if name not in left]
        if not left:
            return f"{' and '.join(names.values())}: ready"
        opening = "connecting to" if kind == "server" else "loading"
        return f"{opening} {' and '.join(left)}{f'; {ready[0]} is ready' if ready else ''}"


class Checking(Waiting):
    """The checks of ``doctor``."""

    @property
    def line(self) -> str:
        """It in words."""
        return "checking the pair"


class StepsSoFar(Waiting):
    """A run whose steps are not shown."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        """Steps that are committed."""

    @property
    def line(self) -> str:
        """It in words."""
        return f"step {self.steps + 1}"
