"""Slots of an engine: when all are taken, calls wait, and the one with the highest priority gets the next slot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

Priority = Callable[[], float]
"""Returns when a call should begin for its run to meet its deadline, on the monotonic clock; the smallest goes first.

It is a function, because priorities change while calls wait: a run may by now wait for a call that was speculative
when it was made.
"""


class CallSlots:
    """Lets at most ``max_concurrency`` calls into an engine; None lets all in, and the engine orders them itself."""

    def __init__(self, max_concurrency: int | None) -> None:
        self._free = max_concurrency
        self._waiting: dict[asyncio.Future[None], Priority] = {}

    @asynccontextmanager
    async def slot(self, priority: Priority) -> AsyncIterator[None]:
        """Wait for a slot and hold it while the context is open."""
        if self._free is None:
            yield
            return
        await self._wait(priority)
        try:
            yield
        finally:
            self._pass_on()

    @asynccontextmanager
    async def lent(self, priority: Priority) -> AsyncIterator[None]:
        """Let others have a slot that is held while the context is open, and wait for one behind it."""
        if self._free is None:
            yield
            return
        self._pass_on()
        try:
            yield
            await self._wait(priority)
        except BaseException:
            self._free -= 1  # nothing is held, and whoever opened the slot is about to give it back
            raise

    async def _wait(self, priority: Priority) -> None:
        assert self._free is not None  # noqa: S101 - without a limit nobody waits
        if self._free > 0:
            self._free -= 1
            return
        slot = asyncio.get_running_loop().create_future()
        self._waiting[slot] = priority
        try:
            await slot
        except asyncio.CancelledError:
            if self._waiting.pop(slot, None) is None:  # the slot was granted just before the cancellation: give it back
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        # A cancelled future is done, but its call leaves the queue only when the loop runs it again.
        waiting = [slot for slot in self._waiting if not slot.done()]
        assert self._free is not None  # noqa: S101 - without a limit nobody waits, so nobody passes a slot on
        if waiting and self._free >= 0:
            slot = min(waiting, key=lambda each: self._waiting[each]())
            del self._waiting[slot]
            slot.set_result(None)
            return
        self._free += 1
