"""The time of an engine call through this package, compared with the same call without it."""

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
"""Candidate tokens of the one-token call; any ten will do."""
WARM = 5
"""Calls of each kind before the timed ones."""


class CallOverhead(Record):
    """Times of a one-token call in milliseconds; all are medians."""

    calls: int
    """Number of timed calls of each kind."""
    ours: float
    """Time of a call through the engine protocol."""
    bare: float
    """Time of the same request made directly, to vLLM or with httpx to the server."""
    more: float
    """Difference between a call through the engine protocol and the direct call after it."""


async def measure_calls(engine: Engine, prompt: list[int], calls: int) -> CallOverhead:
    """Time calls through the protocol and direct calls, on a prompt that is in the prefix cache."""
    bare = _bare(engine, prompt)
    times: tuple[list[float], list[float]] = ([], [])
    # The two kinds alternate, so that a machine that becomes slower slows both.
    for number in range(calls + WARM):
        for made, call in zip(times, (lambda: engine.next_token(prompt, DIGITS), bare), strict=True):
            took = await _milliseconds(call)
            made.extend([took] if number >= WARM else [])
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

    client: Any = engine._client  # noqa: SLF001 - no public access to vLLM, and the measurement needs it
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
