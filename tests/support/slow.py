"""A scripted pair that takes its time, and says the same to the same prompt however often it is asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from specreason_graph import EnginePair
from specreason_graph.engines.base import Completion, NextToken, Sampling
from specreason_graph.engines.fake import FakeEngine

CLOSE = "</think>"
QUESTION: Any = {"question": "What?"}
STEPS = 12


def done(prompt: str) -> int:
    """Steps that stand in a prompt; the judge's has another opened thinking behind them."""
    return prompt.count("\n\n")


class Slow(FakeEngine):
    """Takes its time over every call, and keeps count of those that are under way."""

    running = most = finished = begun = 0
    enters: Callable[[], None] = staticmethod(lambda: None)

    async def generate(self, prompt_ids: Any, sampling: Sampling, on_token: Any = None) -> Completion:
        with self:
            return await super().generate(prompt_ids, sampling, on_token)

    async def next_token(self, prompt_ids: Any, candidates: Any) -> NextToken:
        with self:
            return await super().next_token(prompt_ids, candidates)

    def __enter__(self) -> None:
        self.running += 1
        self.begun += 1
        self.most = max(self.most, self.running)
        self.enters()

    def __exit__(self, kind: object, *_: object) -> None:
        self.running -= 1
        self.finished += kind is None


def slow_pair(
    opinions: tuple[int, ...] = (9, 9, 9, 2), draft: float = 0.003, base: float = 0.01, steps: int = STEPS
) -> EnginePair:
    """A pair that thinks ``steps`` steps and says the same to the same prompt, however often it is asked."""

    def write(prompt: str, author: str) -> str:
        if CLOSE in prompt.rpartition("<think>\n")[2]:
            return "The answer."
        return f"Step {done(prompt)} of the {author}.\n\n" if done(prompt) < steps else CLOSE

    def judge(prompt: str) -> int:
        return opinions[(done(prompt) - 1) % len(opinions)]

    drafting = Slow(lambda prompt: write(prompt, "draft"), name="draft", delay=draft)
    return EnginePair(drafting, Slow(lambda prompt: write(prompt, "base"), judge, name="base", delay=base))


def idle(pair: Any) -> bool:
    """Whether both engines have nothing to do, now or within a second."""
    until = time.monotonic() + 1
    while (pair.base.running or pair.draft.running) and time.monotonic() < until:
        time.sleep(0.01)
    return not pair.base.running and not pair.draft.running
