"""When the thinking ends, and under which name."""

from __future__ import annotations

from specreason_graph.config import SpecReasonConfig
from specreason_graph.record.progress import Progress
from specreason_graph.record.records import Proposal, Step, StopReason


def stop_reason(last: Step | Proposal, progress: Progress, config: SpecReasonConfig) -> StopReason | None:
    """Why the thinking ends behind the step ``last``, or None while it goes on."""
    if last.closes_thinking:
        return "answered"
    if progress.repeats >= config.repetition_limit:
        return "repetition"
    if progress.thinking_tokens >= config.thinking_tokens:
        return "token_budget"
    if progress.steps >= config.max_steps:
        return "step_limit"
    if progress.tokens_left < config.min_step_tokens:
        return "context_limit"
    if config.deadline_seconds is not None and progress.seconds + progress.reserve >= config.deadline_seconds:
        return "deadline"
    return None
