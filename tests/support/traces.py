"""Runs of held-out problems, what two runs must share, and engines that are watched or struck while they work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from copy import copy
from itertools import takewhile
from typing import Any

import pytest

from specreason_graph import EnginePair, create_specreason
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.record.records import Step, Usage
from specreason_graph.record.summary import summarise

PROBLEMS = held_out()[:100]
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 2}
"""Token-level speculation that needs no other model."""
STAGES = [("draft", "generate"), ("base", "next_token"), ("base", "generate")]
"""Drafting, scoring and regenerating, as calls of an engine."""


def solve(pair: EnginePair, question: str, **settings: Any) -> Any:
    """Greedy unless told otherwise, under a thread's name."""
    graph = create_specreason(pair, **{"temperature": 0, **settings}).compile()
    return graph.invoke({"question": question}, {"recursion_limit": 10_000, "configurable": {"thread_id": "run-1"}})


def assert_same(one: Any, other: Any) -> None:
    """The same answer, authors and tokens; scores to 1e-3."""
    assert one["answer"] == other["answer"]
    assert tokens(one) == tokens(other)
    for mine, theirs in zip(one["trace"], other["trace"], strict=True):
        if mine["score"]:
            assert mine["score"]["digit_logprobs"] == pytest.approx(theirs["score"]["digit_logprobs"], abs=1e-3)
            assert mine["score"]["mean"] == pytest.approx(theirs["score"]["mean"], abs=1e-3)


def around(pair: EnginePair, **engines: Any) -> Any:
    """The same open pair with other objects in front of its engines."""
    changed = copy(pair)  # on the same loop
    for role, engine in engines.items():
        setattr(changed, role, engine)
    return changed


def tokens(outcome: Any) -> list[tuple[str, list[int]]]:
    """Who wrote which tokens."""
    return [(step["author"], step["token_ids"]) for step in outcome["trace"]]


def counted(outcome: Any) -> tuple[int, int]:
    """Tokens that the base model's own speculation guessed in a run's steps, and those accepted."""
    totals = summarise([Step.load(step) for step in outcome["trace"]], None)
    writing = [cost.usage for cost in totals.costs if cost.engine == "base" and cost.purpose == "regenerate"]
    counts = sum(writing, Usage())
    guessed, right = counts.speculated_tokens, counts.speculated_accepted
    assert (guessed, right) == (totals.work.speculated_tokens, totals.work.speculated_accepted)
    assert 0 <= right <= guessed
    return guessed, right


class Before:
    """Stands in front of an engine."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


class Watched(Before):
    """Counts the prompt tokens that the engine computed although it had seen them, whole blocks only."""

    def __init__(self, engine: Any, block: int = 32) -> None:
        super().__init__(engine)
        self.block = block
        self.seen: list[list[int]] = []
        self.excess = self.prompts = 0

    async def generate(self, prompt: Any, sampling: Any, on_token: Any = None) -> Any:
        done = await self.engine.generate(prompt, sampling, on_token)
        self.count(prompt, done.usage.cached_tokens)
        self.seen.append([*prompt, *done.generations[0].token_ids[:-1]])
        return done

    async def next_token(self, prompt: Any, candidates: Any) -> Any:
        found = await self.engine.next_token(prompt, candidates)
        self.count(prompt, found.usage.cached_tokens)
        self.seen.append(list(prompt))
        return found

    async def likelihood(self, prompt: Any, continuation: Any) -> Any:
        found = await self.engine.likelihood(prompt, continuation)
        whole = [*prompt, *continuation]
        # A second call, where there is one, computes again what the first has found in the cache.
        if found.usage.prompt_tokens == len(whole):
            self.count(whole, found.usage.cached_tokens, len(prompt))
        self.seen.append(whole)
        return found

    def count(self, prompt: Any, cached: int, most: int | None = None) -> None:
        known = max((shared(prompt, seen) for seen in self.seen), default=0)
        reusable = min(known, len(prompt) - 1 if most is None else most - 1)
        self.excess += max(0, reusable // self.block * self.block - cached)
        self.prompts += len(prompt)


def shared(one: Any, other: Any) -> int:
    """Length of the longest common prefix."""
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))


class Struck(Before):
    """Struck once, in the middle of its third call of one kind."""

    def __init__(self, engine: Any, method: str, strike: Callable[[], None]) -> None:
        super().__init__(engine)
        self.method, self.strike, self.calls = method, strike, 0

    async def generate(self, *arguments: Any) -> Any:
        return await self.during("generate", *arguments)

    async def next_token(self, *arguments: Any) -> Any:
        return await self.during("next_token", *arguments)

    async def likelihood(self, *arguments: Any) -> Any:
        return await self.during("likelihood", *arguments)

    async def during(self, method: str, *arguments: Any) -> Any:
        call = asyncio.ensure_future(getattr(self.engine, method)(*arguments))
        self.calls += method == self.method
        if self.calls == 3 and method == self.method:
            await asyncio.sleep(0.004)
            assert not call.done(), "the call was over before the engine was struck"
            self.strike()
        return await call
