"""When the thinking ends, and under which name."""

from __future__ import annotations

from specreason_graph.config import SpecReasonConfig
from specreason_graph.record.progress import Progress
from specreason_graph.record.records import Proposal, Step, StopReason


def token_budget(config: SpecReasonConfig, *, is_plain: bool) -> int:
    """Tokens after which the thinking ends, or the reply where it is itself the trace."""
    return min(config.thinking_tokens, (is_plain and config.answer_tokens) or config.thinking_tokens)


def stop_reason(
    last: Step | Proposal, progress: Progress, config: SpecReasonConfig, *, is_plain: bool = False,
    ends_at_control: bool = True,
) -> StopReason | None:  # fmt: skip
    """Why the thinking ends behind the step ``last``, or None while it goes on.

    ``is_plain``: whether the reply itself is the trace. ``ends_at_control``: whether an empty step that a control token
    ended is the end, too; asked again, a model would write that token again. In runs of schema version 4 it was not.
    """
    if last.closes_thinking or (ends_at_control and last.ending == "special_token" and not last.text.strip()):
        return "answered"
    if progress.repeats >= config.repetition_limit:
        return "repetition"
    if progress.thinking_tokens >= token_budget(config, is_plain=is_plain):
        return "token_budget"
    if progress.steps >= config.max_steps:
        return "step_limit"
    if progress.tokens_left < config.min_step_tokens:
        return "context_limit"
    if config.deadline_seconds is not None and progress.seconds + progress.reserve >= config.deadline_seconds:
        return "deadline"
    return None
