"""What engines compute anew although a perfect prefix cache would have kept it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from specreason_graph.engines.base import SESSION, Completion, Engine, NextToken, Sampling, TokenCallback
from specreason_graph.engines.options import VLLMOptions
from specreason_graph.engines.pair import EnginePair
from specreason_graph.record.records import Record, Usage

GPU_BLOCK = 16
"""Tokens of a block that vLLM chooses on GPUs."""


class Reuse(Record):
    """Tokens of the prompts of some calls."""

    prompt: int = 0
    """All."""
    cached: int = 0
    """Found in the engine's cache."""
    perfect: int = 0
    """What a perfect cache would have found: all that the run had shown that engine before, up to the last token and
    in whole blocks."""
    recomputed: int = 0
    """What a perfect cache would have found and the engine did not."""

    @property
    def share(self) -> float:
        """The recomputed ones as a share of all, 0 to 1."""
        return self.recomputed / self.prompt if self.prompt else 0.0

    def __add__(self, other: Reuse) -> Reuse:
        return Reuse(**{name: getattr(self, name) + getattr(other, name) for name in Reuse.model_fields})


def reuse(usage: Usage, known: int, block: int = 1) -> Reuse:
    """One call behind ``known`` tokens; the last of a prompt is always computed, for what comes behind it."""
    perfect = min(known, usage.prompt_tokens - 1) // block * block
    return Reuse(
        prompt=usage.prompt_tokens, cached=usage.cached_tokens, perfect=perfect,
        recomputed=max(0, perfect - usage.cached_tokens),
    )  # fmt: skip


def block_of(engine: Any) -> int:
    """Tokens that an engine's cache keeps or forgets together; 1 where nobody knows."""
    options = getattr(engine, "options", None)
    if not isinstance(options, VLLMOptions):
        return 1
    from specreason_graph.engines.vllm.launch import CPU_BLOCK, on_cpu

    return options.block_size or (CPU_BLOCK if on_cpu() else GPU_BLOCK)


class Prefixes:
    """All that an engine was shown in one run, each beginning once, as a hash."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def add(self, ids: Sequence[int]) -> int:
        """Take tokens in; how many of them, from the first on, were known."""
        known, mark = 0, 0
        for depth, token in enumerate(ids, 1):
            mark = hash((mark, token))
            if mark in self._seen:
                known = depth
            self._seen.add(mark)
        return known


class Recorder:
    """Passes calls on to an engine and keeps count of what it could have reused.

    A call that is cut short is not counted; what it was prompted with is known from then on.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, self._block = engine, block_of(engine)
        self._runs: defaultdict[str | None, Prefixes] = defaultdict(Prefixes)
        self.total = Reuse()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, on_token: TokenCallback | None = None
    ) -> Completion:
        """Pass the call on."""
        known = self._prefixes.add(prompt_ids)
        completion = await self._engine.generate(prompt_ids, sampling, on_token)
        self.total += reuse(completion.usage, known, self._block)
        for each in completion.generations:
            self._prefixes.add([*prompt_ids, *each.token_ids[:-1]])  # nothing was computed behind the last one
        return completion

    async def next_token(self, prompt_ids: Sequence[int], candidates: Sequence[int]) -> NextToken:
        """Pass the call on."""
        known = self._prefixes.add(prompt_ids)
        found = await self._engine.next_token(prompt_ids, candidates)
        self.total += reuse(found.usage, known, self._block)
        return found

    @property
    def _prefixes(self) -> Prefixes:
        """Those of the run that the call is made for."""
        return self._runs[SESSION.get()]


async def reset_prefix_caches(pair: EnginePair) -> None:
    """Empty the prefix caches, so that no scenario finds there what another one has shown; a server keeps what it has."""
    for engine in dict.fromkeys((pair.base, pair.draft)):
        if reset := getattr(engine, "reset_prefix_cache", None):
            await reset()


@contextmanager
def recording(pair: EnginePair) -> Iterator[list[Recorder]]:
    """Put recorders in the place of a pair's engines, for as long as nothing is timed."""
    base, draft = pair.base, pair.draft
    recorders = [Recorder(base)] if base is draft else [Recorder(base), Recorder(draft)]
    pair.base, pair.draft = cast("Engine", recorders[0]), cast("Engine", recorders[-1])
    try:
        yield recorders
    finally:
        pair.base, pair.draft = base, draft
