"""When the thinking ends, and under which name."""

from __future__ import annotations

from collections.abc import Sequence

from specreason_graph.config import SpecReasonConfig
from specreason_graph.records import Step, StopReason


def stop_reason(
    steps: Sequence[Step], config: SpecReasonConfig, *, thinking_tokens: int, seconds: float, room: int
) -> StopReason | None:
    """Why the thinking ends behind ``steps``, or None while it goes on.

    ``thinking_tokens``: committed tokens; ``seconds``: work so far; ``room``: tokens left for a step before the context
    of either engine is full.
    """
    last = steps[-1]
    if last.ending in ("think_end", "end_of_sequence"):
        return "answered"
    if _repeats(steps, config.repetition_limit):
        return "repetition"
    if thinking_tokens >= config.thinking_tokens:
        return "token_budget"
    if len(steps) >= config.max_steps:
        return "step_limit"
    if room < config.min_step_tokens:
        return "context_limit"
    if config.deadline_seconds is not None and seconds >= config.deadline_seconds:
        return "deadline"
    return None


def _repeats(steps: Sequence[Step], limit: int) -> bool:
    """Whether the last text stands in the trace ``limit`` times; steps without words do not count."""
    text = steps[-1].text.strip()
    return bool(text) and sum(step.text.strip() == text for step in steps) >= limit
