"""An event loop whose clock jumps to the next timer: a simulation is plain coroutines, and waits for nothing."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class _Jump(selectors.DefaultSelector):
    """Moves the clock on where a selector would wait."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        """Return at once, as late as if nothing had happened for so long."""
        if timeout is None:
            raise RuntimeError("the simulation waits for something that never comes")
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualTime(asyncio.SelectorEventLoop):
    """An event loop that begins at second 0 and never sleeps."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        """Simulated seconds since the loop was made."""
        return self._jump.now


def simulated(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in simulated time, in a thread of its own: the caller may have a running loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_run, work).result()


def _run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        return runner.run(work)
