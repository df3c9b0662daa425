"""Whose turn it is: calls that an engine has no room for wait, and the most urgent is let in first."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from contextvars import ContextVar

URGENCY: ContextVar[float] = ContextVar("specreason_urgency", default=math.inf)
"""When a call should have begun so that its run is in time, on the monotonic clock; the smallest goes first."""


class Turns:
    """Lets at most ``at_once`` calls into an engine; None lets in all, and leaves the order to the engine.

    Without ``by_urgency`` the call that came first goes first.
    """

    def __init__(self, at_once: int | None, *, by_urgency: bool = True) -> None:
        self._free = at_once
        self.by_urgency = by_urgency
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    async def __aenter__(self) -> None:
        if self._free is None:
            return
        if self._free > 0:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (URGENCY.get() if self.by_urgency else 0.0, next(self._numbers), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # its turn had come
                self._pass_on()
            raise

    async def __aexit__(self, *exc: object) -> None:
        if self._free is not None:
            self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            *_, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        assert self._free is not None  # noqa: S101 - only who was let in by number leaves
        self._free += 1
