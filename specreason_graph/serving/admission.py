"""Who is worked for now, who waits, and who is turned away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from specreason_graph.serving.api_errors import busy


class Admission:
    """So many requests are worked on at the same time and so many wait; all others are refused."""

    def __init__(self, concurrency: int, queue: int) -> None:
        self._slots, self._queue = asyncio.Semaphore(concurrency), queue
        self.running = self.waiting = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it while the context is open."""
        if self._slots.locked() and self.waiting >= self._queue:
            raise busy(f"{self.running} requests are worked on and {self.waiting} wait; ask again later")
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._slots.release()
