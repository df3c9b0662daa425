"""The windows of all runs that are worked on over one pair, and what is known of the pair from them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from specreason_graph.engines.pair import CALLS, EnginePair
from specreason_graph.policies.goodput import FEW, Guard
from specreason_graph.policies.pace import Pace
from specreason_graph.state import State
from specreason_graph.window import Window
from specreason_graph.writer import Writer

LAST_RUN = 0.05
"""How much the last run counts in the average of the steps that runs take."""


@dataclass(frozen=True, eq=False)
class Caller:
    """Who works on a run: a stream over its graph. Another one may take the run over before this one has left."""

    windows: Windows
    """Where the run's window is."""
    run: str
    """Which run."""
    calls: set[Any]
    """What the stream cancels when it is left."""
    loop: asyncio.AbstractEventLoop
    """The engines' loop."""

    def cancel(self) -> None:
        """It has left; from any thread."""
        if self.loop.is_closed():  # with all that was under way
            self.windows.leave(self.run, self.calls)
        else:
            self.loop.call_soon_threadsafe(self.windows.leave, self.run, self.calls)


class Windows:
    """The windows of the runs that are worked on over one pair, and what they show of its speed."""

    def __init__(self, pair: EnginePair) -> None:
        self._open: dict[str, Window] = {}
        self._beginning = 0
        self._pace = Pace(weight=0.02)
        self.guard = Guard(batches=pair.base.at_once is None or pair.base.at_once > FEW)
        self.steps: float | None = None
        """Steps that runs take on average, the last ones counting most; None before one has ended."""

    @property
    def runs(self) -> int:
        """How many runs are under way."""
        return len(self._open) + self._beginning

    @contextmanager
    def beginning(self) -> Iterator[None]:
        """Count a run that has no window yet, so that the first of many knows that others come."""
        self._beginning += 1
        try:
            yield
        finally:
            self._beginning -= 1

    def find(self, state: State, writer: Writer) -> Window:
        """The window of a run, a new one where there is none that fits."""
        run = state["progress"]["run"]
        window = self._open.get(run)
        if window is None or not window.fits(state):
            self.close(run)
            window = self._open[run] = Window(writer, state, Pace(self._pace), self.guard.own(), lambda: self.runs)
        calls = CALLS.get()
        if calls is not None and calls is not window.caller:
            calls.add(Caller(self, run, calls, asyncio.get_running_loop()))
        window.caller = calls
        return window

    def finished(self, steps: int) -> None:
        """Take note of a run that has come to its end."""
        self.steps = steps if self.steps is None else self.steps + LAST_RUN * (steps - self.steps)

    def leave(self, run: str, calls: set[Any] | None) -> list[asyncio.Task[Any]]:
        """Give up what is under way for a run, unless it is another caller's by now; the tasks that still end."""
        window = self._open.get(run)
        return self.close(run) if window and window.caller is calls else []

    def close(self, run: str) -> list[asyncio.Task[Any]]:
        """Give up what is under way for a run; the tasks that still end."""
        window = self._open.pop(run, None)
        return window.close() if window else []


_WINDOWS: WeakKeyDictionary[EnginePair, Windows] = WeakKeyDictionary()


def windows_of(pair: EnginePair) -> Windows:
    """The windows over a pair."""
    if pair not in _WINDOWS:
        _WINDOWS[pair] = Windows(pair)
    return _WINDOWS[pair]
