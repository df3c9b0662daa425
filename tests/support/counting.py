"""Scripted engines that take their time and keep count of the calls that are under way."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from specreason_graph import EnginePair
from specreason_graph.engines.base import Completion, Likelihood, NextToken, Sampling
from specreason_graph.engines.fake import FakeEngine
from tests.support.scripts import stepwise
from tests.support.traces import Before

QUESTION: Any = {"question": "What?"}
STEPS = 12


class Counting(FakeEngine):
    """Counts its calls; ``at_call`` is told the prompt of each, and what it gives to be awaited is waited for."""

    running = most = begun = 0
    at_call: Callable[[str], Any] = staticmethod(lambda _: None)

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, on_token: Any = None) -> Completion:
        async with self.counted(prompt_ids):
            return await super().generate(prompt_ids, sampling, on_token)

    async def next_token(self, prompt_ids: Sequence[int], candidates: Sequence[int]) -> NextToken:
        async with self.counted(prompt_ids):
            return await super().next_token(prompt_ids, candidates)

    async def likelihood(self, prompt_ids: Sequence[int], continuation_ids: Sequence[int]) -> Likelihood:
        async with self.counted(prompt_ids):
            return await super().likelihood(prompt_ids, continuation_ids)

    @asynccontextmanager
    async def counted(self, prompt_ids: Sequence[int]) -> AsyncIterator[None]:
        """Around a call."""
        self.running += 1
        self.begun += 1
        self.most = max(self.most, self.running)
        try:
            waiting = self.at_call(self.vocabulary.decode(prompt_ids))
            if waiting:
                await waiting
            yield
        finally:
            self.running -= 1


def slow_pair(
    opinions: tuple[int, ...] = (9, 9, 9, 2), draft: float = 0.003, base: float = 0.01, steps: int = STEPS, **more: Any
) -> EnginePair:
    """A pair that counts its calls, each of which takes its time."""
    return stepwise(steps, opinions, engine=Counting, draft=draft, base=base, **more)


def idle(pair: Any) -> bool:
    """Whether both engines have nothing to do, now or within a second."""
    until = time.monotonic() + 1
    while (pair.base.running or pair.draft.running) and time.monotonic() < until:
        time.sleep(0.01)
    return not pair.base.running and not pair.draft.running


class Counted(Before):
    """Stands in front of a real engine and counts its calls that are under way."""

    running = 0

    async def generate(self, *given: Any) -> Completion:
        with self.counted():
            return await self.engine.generate(*given)  # type: ignore[no-any-return]

    async def next_token(self, *given: Any) -> NextToken:
        with self.counted():
            return await self.engine.next_token(*given)  # type: ignore[no-any-return]

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Around a call."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
