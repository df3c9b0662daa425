"""What a call costs through this package, side by side with the same call made bare."""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from specreason_graph.engines.base import Engine
from specreason_graph.errors import ConfigError
from specreason_graph.record.records import Record

if TYPE_CHECKING:
    from specreason_graph.engines.server import ServerEngine
    from specreason_graph.engines.vllm import VLLMEngine

DIGITS = list(range(10))
"""Candidates of the one-token call; which tokens they are does not matter."""


class CallOverhead(Record):
    """Milliseconds of a one-token call, medians."""

    calls: int
    """Calls of each kind, alternating."""
    ours: float
    """Through the engine protocol."""
    bare: float
    """The same request made of vLLM, or with httpx of the server."""
    more: float
    """Median of the differences of neighbouring calls."""


async def measure_calls(engine: Engine, prompt: list[int], calls: int) -> CallOverhead:
    """Alternate protocol and bare calls on a prompt whose work is cached."""
    bare = _bare(engine, prompt)
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(calls + 5):
        for made, call in zip(times, (lambda: engine.next_token(prompt, DIGITS), bare), strict=True):
            took = await _milliseconds(call)
            made.extend([took] if turn >= 5 else [])
    more = [mine - plain for mine, plain in zip(*times, strict=True)]
    ours, plain = map(statistics.median, times)
    return CallOverhead(calls=calls, ours=ours, bare=plain, more=statistics.median(more))


async def _milliseconds(call: Callable[[], Awaitable[Any]]) -> float:
    begun = time.perf_counter()
    await call()
    return (time.perf_counter() - begun) * 1000


def _bare(engine: Any, prompt: list[int]) -> Callable[[], Awaitable[Any]]:
    kind = engine.describe().engine
    if kind == "vllm":
        return _bare_vllm(engine, prompt)
    if kind == "server":
        return _bare_server(engine, prompt)
    raise ConfigError(f"engine {kind!r} has no bare call to compare with", hint="use --engine vllm or server")


def _bare_vllm(engine: VLLMEngine, prompt: list[int]) -> Callable[[], Awaitable[Any]]:
    from vllm.inputs import tokens_input

    from specreason_graph.engines.vllm.requests import scoring_params

    client: Any = engine._client
    params = scoring_params(DIGITS, chosen=True)

    async def call() -> None:
        async for _ in client.generate(tokens_input(prompt), params, uuid.uuid4().hex):
            pass

    return call


def _bare_server(engine: ServerEngine, prompt: list[int]) -> Callable[[], Awaitable[Any]]:
    from specreason_graph.engines.server.requests import scoring

    body = {**engine.body(prompt), **scoring(DIGITS, chosen=True)}

    async def call() -> None:
        response = await engine.client.post("/v1/completions", json=body)
        response.raise_for_status().json()

    return call
