"""When the thinking ends, and under which name."""

from __future__ import annotations

from collections.abc import Sequence

from specreason_graph.config import SpecReasonConfig
from specreason_graph.record.progress import Progress
from specreason_graph.record.records import Proposal, Step, StopReason

LOOP = 8
"""Most paragraphs of a plain reply that are found to come again and again."""


def token_budget(config: SpecReasonConfig, *, is_plain: bool) -> int:
    """Tokens after which the thinking ends, or the reply where it is itself the trace."""
    return min(config.thinking_tokens, (is_plain and config.answer_tokens) or config.thinking_tokens)


def stop_reason(
    last: Step | Proposal, progress: Progress, config: SpecReasonConfig, *, reply: Sequence[str] | None = None,
    ends_at_control: bool = True,
) -> StopReason | None:  # fmt: skip
    """Why the thinking ends behind the step ``last``, or None while it goes on.

    ``reply``: the texts of all steps where the reply itself is the trace; it also ends at a stop string.
    ``ends_at_control``: whether an empty step that a control token ended is the end, too; asked again, a model would
    write that token again. In runs of schema version 4 it was not.
    """
    if last.closes_thinking or (ends_at_control and last.ending == "special_token" and not last.text.strip()):
        return "answered"
    if reply is not None and config.stop and any(stop in "".join(reply) for stop in config.stop):
        return "answered"
    if reason := config.stopping.ends(last, progress):
        return reason
    limit = config.repetition_limit
    if is_loop(reply, limit) if reply is not None else progress.repeats >= limit:
        return "repetition"
    if progress.thinking_tokens >= token_budget(config, is_plain=reply is not None):
        return "token_budget"
    if progress.steps >= config.max_steps:
        return "step_limit"
    if progress.tokens_left < config.min_step_tokens:
        return "context_limit"
    if config.deadline_seconds is not None and progress.seconds + progress.reserve >= config.deadline_seconds:
        return "deadline"
    return None


def is_loop(texts: Sequence[str], times: int) -> bool:
    """Whether texts end with the same few ones, again and again; a refrain between verses is no loop."""
    for size in range(1, min(LOOP, len(texts) // times) + 1):
        unit = list(texts[-size:])
        if list(texts[-size * times :]) == unit * times:
            return True
    return False
