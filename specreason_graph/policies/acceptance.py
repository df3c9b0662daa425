"""Which score is enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specreason_graph.config import Band, SpecReasonConfig
from specreason_graph.policies.speculation import pays
from specreason_graph.record.records import Decision, Goodput, Proposal, Reason, Review, Score
from specreason_graph.strategy import Judge

DIGIT = "digit"
"""The judge whose name records leave out: all that there was, once."""


def decide(score: Score, judge: Judge) -> Decision:
    """Accept a proposal as ``judge`` makes of the evidence."""
    verdict = judge.decide(score)
    reason: Reason = "score_reaches_threshold" if verdict.accepted else "score_below_threshold"
    return Decision(
        accepted=verdict.accepted, reason=reason, number=verdict.number, threshold=verdict.threshold,
        score_reduction=_reduction(judge, verdict.kind), judge=None if verdict.kind == DIGIT else verdict.kind,
    )  # fmt: skip


def best_of(scores: Sequence[Score], judge: Judge) -> int:
    """Which of several proposals is the best by ``judge``; the first of those that are equal."""
    ranks = [rank(score, judge) for score in scores]
    return ranks.index(max(ranks))


def rank(score: Score, judge: Judge) -> tuple[bool, float]:
    """What proposals are compared by: whether they are let in, and how far they are from the threshold."""
    verdict = judge.decide(score)
    return verdict.accepted, verdict.number - verdict.threshold


def _reduction(judge: Judge, kind: str) -> Any:
    """How the digits became a number, where it is the digit that decided."""
    return next((getattr(part, "reduction", None) for part in judge.parts() if part.kind == kind == DIGIT), None)


def decide_reviewed(decision: Decision, review: Review) -> Decision:
    """What a human made of a decision that a score alone would have settled otherwise, or the same."""
    reasons: dict[str, Reason] = {
        "accept": "accepted_by_reviewer", "reject": "rejected_by_reviewer", "edit": "written_by_reviewer",
    }  # fmt: skip
    settled = {"accepted": review.verdict == "accept", "reason": reasons[review.verdict], "review": review}
    return decision.model_copy(update=settled)


def asks_human(decision: Decision, band: Band | None) -> bool:
    """Whether the score lies in the band of those a human settles."""
    return band is not None and decision.number is not None and decision.number in band


def decide_unscored(
    proposal: Proposal | None, config: SpecReasonConfig, error: str | None = None, goodput: Goodput | None = None,
    handover: str | None = None,
) -> Decision:  # fmt: skip
    """Why the base model writes a step although nothing was scored.

    A proposal without text cannot be judged: when the draft wants to end the thinking, or writes only white space, the
    base model writes the next token itself, and that settles it. So it does when the proposal leaves the judge no room,
    when the draft engine failed with ``error`` (empty where it had failed before), when drafting does not pay by the
    figures in ``goodput``, or the base model is timed for them, and when the writer says so, for which ``handover`` is
    its reason.
    """
    reason: Reason = "first_steps_by_base" if error is None else "draft_failed"
    if goodput:
        reason = "base_is_timed" if goodput.probe or pays(goodput) else "drafting_does_not_pay"
    if handover:
        reason = "writer_chose_base"
    if proposal is not None:
        reason = "proposal_ends_thinking" if proposal.closes_thinking else "proposal_is_blank"
        reason = reason if proposal.is_blank else "proposal_too_long"
    return Decision(
        accepted=False, reason=reason, number=None, score_reduction=_reduction(config.judge, config.judge.kind),
        threshold=config.judge_in_force.accepts_from, error=error or None, goodput=goodput,
        writer=handover,
    )  # fmt: skip
