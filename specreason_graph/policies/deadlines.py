"""How a run keeps to its time: what is kept for the answer, how late it is, and what it does about it.

AdaServe (arXiv 2501.12162) sets the speculation of each request by how much slack its objective leaves. Here a run
that is late drafts one proposal a step and, where the caller allows it, asks for less of a score.
"""

from __future__ import annotations

from specreason_graph.config import SpecReasonConfig
from specreason_graph.policies.pace import Pace

ANSWER_TOKENS = 64
"""How long an answer is taken to be while none has been measured."""
SHORTEST_ANSWER = 16
"""Tokens that an answer may always have."""


def answer_reserve(pace: Pace) -> float:
    """Seconds that are kept for the answer."""
    return pace.seconds.get("answer", ANSWER_TOKENS * (pace.token or 0.0))


def lateness(config: SpecReasonConfig, pace: Pace, seconds: float, steps: int, expected: float | None) -> float:
    """Seconds a step takes over those it may take, behind ``steps`` steps and ``seconds`` seconds; 0 without a limit.

    Where only the end is set, the time that is left is dealt out to the steps that runs over this pair take on average
    (``expected``), and nobody is late while that is not known.
    """
    allowed = config.step_seconds
    if config.deadline_seconds is not None and expected is not None:
        left = config.deadline_seconds - seconds - answer_reserve(pace)
        share = max(left, 0.001) / max(1.0, expected - steps)
        allowed = share if allowed is None else min(allowed, share)
    return pace.step / allowed if allowed and pace.step else 0.0


def threshold_in_force(config: SpecReasonConfig, late: float) -> float:
    """The threshold, lowered to its floor in proportion while a run takes up to twice the time it may take."""
    if config.threshold_floor is None:
        return config.threshold
    eased = min(1.0, max(0.0, late - 1.0))
    return config.threshold - eased * (config.threshold - config.threshold_floor)


def proposals_in_force(config: SpecReasonConfig, late: float) -> int:
    """How many versions of a step are drafted."""
    return 1 if late > 1.0 else config.proposals


def answer_tokens(config: SpecReasonConfig, pace: Pace, left: float | None) -> int:
    """How many tokens an answer may have for which ``left`` seconds are left."""
    if left is None or not pace.token:
        return config.answer_tokens
    return min(config.answer_tokens, max(SHORTEST_ANSWER, int(left / pace.token)))
