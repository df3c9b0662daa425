"""What is tried again, for how long, and what the caller sees of it."""

from __future__ import annotations

import pytest

from specreason_graph.engines.base import TokenForwarder
from specreason_graph.engines.options import CallOptions
from specreason_graph.engines.retry import with_retries
from specreason_graph.errors import EngineBusyError, EngineError, EngineRequestError


class Failing:
    """Fails as often as told, then answers."""

    def __init__(self, times: int, error: EngineError) -> None:
        self.times, self.error, self.calls = times, error, 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return "answer"


BUSY = EngineBusyError("full", engine="e", retryable=True)


@pytest.mark.parametrize("times", [0, 1, 3])
async def test_a_busy_engine_is_asked_again(times: int) -> None:
    call = Failing(times, BUSY)
    assert await with_retries(call, CallOptions()) == "answer"
    assert call.calls == times + 1


async def test_a_refused_request_is_not_asked_again() -> None:
    call = Failing(9, EngineRequestError("no", engine="e"))
    with pytest.raises(EngineRequestError):
        await with_retries(call, CallOptions())
    assert call.calls == 1


async def test_an_error_that_turns_final_is_raised_as_it_is() -> None:
    call = Failing(1, BUSY)

    async def worse() -> str:
        await call()
        raise EngineRequestError("no", engine="e")

    with pytest.raises(EngineRequestError):
        await with_retries(worse, CallOptions())


@pytest.mark.parametrize("seconds", [0.0, 0.3])
async def test_the_time_for_trying_again_is_limited(seconds: float) -> None:
    call = Failing(10**6, BUSY)
    with pytest.raises(EngineBusyError, match="full"):
        await with_retries(call, CallOptions(retry_seconds=seconds))
    assert (call.calls == 1) == (seconds == 0)


def test_tokens_of_a_second_try_are_not_told_twice() -> None:
    seen: list[int] = []
    told = TokenForwarder(seen.append)
    for written in ([1], [1, 2], [1], [1, 2, 3], []):
        told.tokens(written)
    assert seen == [1, 2, 3]
