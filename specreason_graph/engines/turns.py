"""Whose turn it is: calls that an engine has no room for wait, and the most urgent is let in first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

Urgency = Callable[[], float]
"""When a call should begin so that its run is in time, on the monotonic clock; the smallest goes first.

Asked whenever a turn is given: what was work ahead when it came may be what its run waits for by now.
"""


class Turns:
    """Lets at most ``at_once`` calls into an engine; None lets in all, and leaves the order to the engine.

    Without ``by_urgency`` the call that came first goes first.
    """

    def __init__(self, at_once: int | None, *, by_urgency: bool = True) -> None:
        self._free = at_once
        self.by_urgency = by_urgency
        self._waiting: dict[asyncio.Future[None], Urgency] = {}

    @asynccontextmanager
    async def turn(self, urgency: Urgency) -> AsyncIterator[None]:
        """Wait for a turn, and have it."""
        if self._free is None:
            yield
            return
        await self._wait(urgency)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, urgency: Urgency) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = urgency
        try:
            await turn
        except asyncio.CancelledError:
            if self._waiting.pop(turn, None) is None:  # its turn had come
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        waiting = [turn for turn in self._waiting if not turn.done()]  # one that is cancelled may not have left yet
        if waiting:
            turn = min(waiting, key=lambda each: self._waiting[each]()) if self.by_urgency else waiting[0]
            del self._waiting[turn]
            turn.set_result(None)
            return
        assert self._free is not None  # noqa: S101 - only who was let in by number leaves
        self._free += 1
