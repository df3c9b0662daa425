"""How a run keeps to its time: how late it is, and what it does about it.

AdaServe (arXiv 2501.12162) sets the speculation of each request by how much slack its objective leaves. Here a run
that is late drafts one proposal a step and, where the caller allows it, asks for less of a score.
"""

from __future__ import annotations

from specreason_graph.config import ANSWER_TOKENS, SpecReasonConfig
from specreason_graph.record.progress import Progress
from specreason_graph.strategy import Judge

SHORTEST_ANSWER = 16
"""Tokens that an answer may always have."""


def slo_ratio(
    config: SpecReasonConfig, progress: Progress, *, step_seconds: float | None, average_steps: float | None
) -> float:
    """Seconds that a step takes lately (``step_seconds``) over those it may take; 0 where there is no limit.

    Where only the end is set, the time that is left is dealt out to the steps that runs over this pair take on average
    (``average_steps``), and nobody is late while that is not known.
    """
    allowed = config.step_seconds
    if config.deadline_seconds is not None and average_steps is not None:
        left = config.deadline_seconds - progress.seconds - progress.reserve
        share = max(left, 0.001) / max(1.0, average_steps - progress.steps)
        allowed = share if allowed is None else min(allowed, share)
    return step_seconds / allowed if allowed and step_seconds else 0.0


def judge_in_force(config: SpecReasonConfig, ratio: float) -> Judge:
    """The judge, its threshold lowered to the floor in proportion while a run takes up to twice its time."""
    judge = config.judge_in_force
    if config.threshold_floor is None or ratio <= 1.0:
        return judge
    asked = judge.accepts_from
    return judge.with_threshold(asked - min(1.0, ratio - 1.0) * (asked - config.threshold_floor))


def judge_at(config: SpecReasonConfig, threshold: float) -> Judge:
    """The judge of a step that was decided under ``threshold``.

    How late a run was is not in the record, so any threshold that lateness allows is taken for the one in force.
    """
    judge, lowest = config.judge_in_force, config.threshold_floor
    eased = lowest is not None and lowest <= threshold <= judge.accepts_from
    return judge.with_threshold(threshold) if eased else judge


def proposals_in_force(config: SpecReasonConfig, ratio: float) -> int:
    """How many versions of a step are drafted."""
    return 1 if ratio > 1.0 else config.proposals


def answer_tokens(config: SpecReasonConfig, seconds_left: float | None, token_seconds: float | None) -> int:
    """How many tokens an answer may have for which ``seconds_left`` are left, at ``token_seconds`` a token."""
    if seconds_left is None or not token_seconds:
        return config.answer_tokens or ANSWER_TOKENS
    return min(config.answer_tokens or ANSWER_TOKENS, max(SHORTEST_ANSWER, int(seconds_left / token_seconds)))
