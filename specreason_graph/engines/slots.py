"""Calls that an engine has no room for wait for a slot, and the one with the highest priority is let in first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

Priority = Callable[[], float]
"""When a call should begin so that its run is in time, on the monotonic clock; the smallest goes first.

Asked whenever a slot is given: what was work ahead when it came may be what its run waits for by now.
"""


class CallSlots:
    """Lets at most ``max_concurrency`` calls into an engine; None lets in all, and leaves the order to the engine."""

    def __init__(self, max_concurrency: int | None) -> None:
        self._free = max_concurrency
        self._waiting: dict[asyncio.Future[None], Priority] = {}

    @asynccontextmanager
    async def slot(self, priority: Priority) -> AsyncIterator[None]:
        """Wait for a slot, and have it."""
        if self._free is None:
            yield
            return
        await self._wait(priority)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, priority: Priority) -> None:
        if self._free:
            self._free -= 1
            return
        slot = asyncio.get_running_loop().create_future()
        self._waiting[slot] = priority
        try:
            await slot
        except asyncio.CancelledError:
            if self._waiting.pop(slot, None) is None:  # it was given one just before
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        waiting = [slot for slot in self._waiting if not slot.done()]  # one that is cancelled may not have left yet
        if waiting:
            slot = min(waiting, key=lambda each: self._waiting[each]())
            del self._waiting[slot]
            slot.set_result(None)
            return
        assert self._free is not None  # noqa: S101 - only who was let in by number leaves
        self._free += 1
