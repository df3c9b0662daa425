"""Retries of failed engine calls. Every call is idempotent: one prompt and one seed give one answer."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

from specreason_graph.engines.options import CallOptions
from specreason_graph.errors import EngineError

T = TypeVar("T")
LONGEST_WAIT = 8.0
"""Longest pause between two tries, in seconds."""
log = logging.getLogger(__name__)


async def with_retries(call: Callable[[], Awaitable[T]], options: CallOptions) -> T:
    """Await ``call()`` until it succeeds, fails with an error that is not retryable, or `retry_seconds` are over."""
    try:
        return await call()  # a call that succeeds does not pay for tenacity
    except EngineError as error:
        if not error.retryable or not options.retry_seconds:
            raise
        log.warning("%s; trying again", error)
    retrying = AsyncRetrying(
        retry=retry_if_exception(lambda error: isinstance(error, EngineError) and error.retryable),
        wait=wait_random_exponential(multiplier=0.25, max=LONGEST_WAIT),
        stop=stop_after_delay(options.retry_seconds),
        before_sleep=_log_failure, reraise=True,
    )  # fmt: skip
    async for attempt in retrying:
        with attempt:
            return await call()
    raise AssertionError("unreachable: the last error is raised")


def _log_failure(state: RetryCallState) -> None:
    if state.outcome:
        log.warning("%s; trying again", state.outcome.exception())
