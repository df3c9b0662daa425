"""When the thinking ends, and under which name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from specreason_graph.config import SpecReasonConfig
from specreason_graph.records import Proposal, Step, StopReason


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    steps: int = 0
    """Committed steps."""
    thinking_tokens: int = 0
    """Committed tokens."""
    seconds: float = 0.0
    """Wall-clock seconds of work on all committed steps."""
    reserve: float = 0.0
    """Seconds kept for the answer, where there is a deadline."""
    lateness: float = 0.0
    """Seconds that a step lately took over those it may take; 0 where there is no limit."""
    repeats: int = 0
    """How often the text of the last step stands in the trace."""
    room: int = 0
    """Tokens left for steps before the context of either engine is full."""
    draft_failed: bool = False
    """Whether the draft engine has failed for good; the base model goes on alone."""
    goodput: dict[str, Any] | None = None
    """Figures for which the base model writes the next step alone, as `records.Goodput` dumps them, or None."""


def seconds_of(step: Step) -> float:
    """What a step took of the run's time; older records only tell what its engine calls took, one after the other."""
    return sum(cost.usage.seconds for cost in step.costs) if step.elapsed is None else step.elapsed


def stop_reason(last: Step | Proposal, progress: Progress, config: SpecReasonConfig) -> StopReason | None:
    """Why the thinking ends behind the step ``last``, or None while it goes on."""
    if last.ending in ("think_end", "end_of_sequence"):
        return "answered"
    if progress.repeats >= config.repetition_limit:
        return "repetition"
    if progress.thinking_tokens >= config.thinking_tokens:
        return "token_budget"
    if progress.steps >= config.max_steps:
        return "step_limit"
    if progress.room < config.min_step_tokens:
        return "context_limit"
    if config.deadline_seconds is not None and progress.seconds + progress.reserve >= config.deadline_seconds:
        return "deadline"
    return None
