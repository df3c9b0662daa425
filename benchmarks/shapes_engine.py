"""Runs the graph over passes of models with random weights, with forced scores; for `benchmarks.gpu_shapes`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_shapes import STEP, Ids, Passes, is_accepted
from specreason_graph import EnginePair, create_specreason
from specreason_graph.engines.base import Completion, Generation, NextToken, Sampling, TokenCallback
from specreason_graph.engines.fake import ByteVocabulary, FakeEngine
from specreason_graph.record.records import Usage

TOKEN = 400
"""Id of the token that stands for whatever a model writes: it is in each vocabulary, and no control token."""


class Numbers(ByteVocabulary):
    """A vocabulary that has a text for each id of a model that knows no words."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return bytes as they are, and a word for any other id."""
        known = 256 + len(self.special_ids)
        return "".join(super(Numbers, self).decode([each]) if each < known else f"w{each} " for each in ids)


@dataclass
class Clock:
    """Seconds that the models worked."""

    seconds: float = 0.0

    def timed(self, work: Callable[..., Any], *given: Any) -> Any:
        """Do a call and count it."""
        begun = time.perf_counter()
        found = work(*given)
        self.seconds += time.perf_counter() - begun
        return found


class Shaped(FakeEngine):
    """An engine whose calls are passes of a model and whose scores are forced."""

    def __init__(self, name: str, passes: Passes, clock: Clock, share: float) -> None:
        super().__init__(name=name, vocabulary=Numbers(), context=10**6)
        self._passes, self._clock, self._share, self._scores = passes, clock, share, 0

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        on_token: TokenCallback | None = None,  # noqa: ARG002
    ) -> Completion:
        """Write a step of `STEP` tokens, or an answer of one."""
        count = STEP if sampling.max_tokens >= STEP else 1
        written = await self._work(self._passes.write, [*prompt_ids], count)
        # control tokens would end the thinking: they become words, which the caches take for a change of one token
        ids = [each if each > 255 + len(self.vocabulary.special_ids) else TOKEN for each in written]
        usage = Usage(calls=1, prompt_tokens=len(prompt_ids), generated_tokens=len(ids))
        return Completion([Generation(ids, "length")], usage)

    async def next_token(self, prompt_ids: Sequence[int], candidates: Sequence[int]) -> NextToken:
        """Do the pass of a score, and accept the share of the steps that is forced."""
        await self._work(self._passes.score, [*prompt_ids])
        digit = b"9" if is_accepted(self._scores, self._share) else b"0"
        self._scores += 1
        logprobs = {token: 0.0 if token == digit[0] else -70.0 for token in candidates}
        return NextToken(logprobs, 0.0, Usage(calls=1, prompt_tokens=len(prompt_ids), generated_tokens=1))

    async def _work(self, work: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.to_thread(self._clock.timed, work, *given)


def run_graph(base: Passes, draft: Passes, prompt: Ids, steps: int, share: float) -> tuple[float, float]:
    """Seconds a committed token through the graph, and this package's own seconds a step; in turns, digit judge."""
    clock = Clock()
    with EnginePair(Shaped("draft", draft, clock, share), Shaped("base", base, clock, share)) as pair:
        graph = create_specreason(
            pair, lookahead=0, temperature=0.0, max_steps=steps, max_step_tokens=STEP, thinking_tokens=10**6,
            answer_tokens=1, repetition_limit=10**6,
        ).compile()  # fmt: skip
        begun = time.perf_counter()
        outcome = graph.invoke({"question": "q" * len(prompt)})
        seconds = time.perf_counter() - begun
    tokens = sum(len(step["token_ids"]) for step in outcome["trace"])
    return seconds / tokens, (seconds - clock.seconds) / len(outcome["trace"])
