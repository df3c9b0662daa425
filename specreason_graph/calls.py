"""Engine calls that were started, whether or not somebody waits for them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from specreason_graph.records import Cost, Purpose, Usage
from specreason_graph.writer import AUTHORS


@dataclass
class Started:
    """An engine call that was started."""

    purpose: Purpose
    """What for."""
    prompt_tokens: int
    """Length of its prompt."""
    task: asyncio.Task[Any] = field(init=False)
    """The call."""
    asked: bool = False
    """Whether a stage asked for it, so that it is in the evidence."""
    begun: float | None = None
    """When the engine took it, seconds since 1970; None while it waits for its turn."""

    @property
    def is_usable(self) -> bool:
        """Whether it is under way, or came to something."""
        return not self.task.done() or not (self.task.cancelled() or self.task.exception())

    def give_up(self) -> Cost | None:
        """Stop it; what it cost, unless that is in the evidence."""
        cut = self.task.cancel()
        if self.asked or self.begun is None or not (cut or self.is_usable):
            return None
        usage = Usage(calls=1, prompt_tokens=self.prompt_tokens, seconds=time.time() - self.begun, started=self.begun)
        return Cost(
            engine=AUTHORS[self.purpose], purpose=self.purpose, usage=usage if cut else usage_of(self.task.result()),
            lost=True,
        )  # fmt: skip


def usage_of(outcome: Any) -> Usage:
    """What a call cost, which came to one record or several."""
    parts = outcome if isinstance(outcome, list) else [outcome]
    return sum((part.usage for part in parts), Usage())


def looked_at(task: asyncio.Task[Any]) -> None:
    """For a task's end: nobody may have waited for a task that failed; whoever needs its outcome starts it again."""
    _ = task.cancelled() or task.exception()
