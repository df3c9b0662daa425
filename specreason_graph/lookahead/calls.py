"""Engine calls that were started, whether or not somebody waits for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from specreason_graph.engines.base import TokenCallback
from specreason_graph.record.records import Cost, Engine, Purpose, Usage


@dataclass
class InFlightCall:
    """An engine call that was started."""

    engine: Engine
    """Who is asked."""
    purpose: Purpose
    """What for."""
    prompt_tokens: int
    """Length of its prompt."""
    task: asyncio.Task[Any] = field(init=False)
    """The call."""
    used: bool = False
    """Whether a stage took its outcome, so that its cost is in the evidence."""
    begun: float | None = None
    """When the engine took it, on the clock of `time.perf_counter`; None while it waits for a slot."""
    tokens: list[int] = field(default_factory=list)
    """What the engine has written so far, where that is asked for."""
    listener: TokenCallback | None = None
    """Takes each further token."""

    def token(self, token: int) -> None:
        """Take note of a token that was written."""
        self.tokens.append(token)
        if self.listener:
            self.listener(token)

    @contextmanager
    def heard_by(self, listener: TokenCallback | None) -> Iterator[None]:
        """Pass on what was written so far and, while the context is open, what is written then."""
        if listener:
            for token in self.tokens:
                listener(token)
        self.listener = listener
        try:
            yield
        finally:
            self.listener = None

    @property
    def is_usable(self) -> bool:
        """Whether it is under way, or came to something."""
        return not self.task.done() or not (self.task.cancelled() or self.task.exception())

    def give_up(self) -> Cost | None:
        """Stop it; what it cost, unless that is in the evidence."""
        cut = self.task.cancel()  # False where it had ended: then its own usage is known
        if self.used or self.begun is None or not (cut or self.is_usable):
            return None
        seconds = time.perf_counter() - self.begun
        usage = Usage(calls=1, prompt_tokens=self.prompt_tokens, seconds=seconds, started=time.time() - seconds)
        return Cost(
            engine=self.engine, purpose=self.purpose, usage=usage if cut else usage_of(self.task.result()), wasted=True
        )


def usage_of(outcome: Any) -> Usage:
    """What a call cost, which came to one record or several."""
    parts = outcome if isinstance(outcome, list) else [outcome]
    return sum((part.usage for part in parts), Usage())


def consume_exception(task: asyncio.Task[Any]) -> None:
    """For a task's end: nobody may have waited for a task that failed; whoever needs its outcome starts it again."""
    _ = task.cancelled() or task.exception()
