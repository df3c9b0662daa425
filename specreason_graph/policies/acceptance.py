"""Which score is enough.

Both reductions of a score are from the paper (arXiv 2504.07891, section 4.1 and its reference code).
"""

from __future__ import annotations

from collections.abc import Sequence

from specreason_graph.config import Band, ScoreReduction, SpecReasonConfig
from specreason_graph.policies.speculation import pays
from specreason_graph.record.records import Decision, Goodput, Proposal, Reason, Review, Score


def decide(score: Score, *, threshold: float, score_reduction: ScoreReduction) -> Decision:
    """Accept a proposal whose score, reduced as asked, reaches the threshold."""
    number = float(score.greedy) if score_reduction == "greedy" else score.mean
    accepted = number >= threshold
    reason: Reason = "score_reaches_threshold" if accepted else "score_below_threshold"
    return Decision(
        accepted=accepted, reason=reason, number=number, score_reduction=score_reduction, threshold=threshold
    )


def best_of(scores: Sequence[Score], score_reduction: ScoreReduction) -> int:
    """Which of several proposals has the highest score, reduced as asked; the first of those that are equal."""
    numbers = [decide(score, threshold=0, score_reduction=score_reduction).number or 0.0 for score in scores]
    return numbers.index(max(numbers))


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
    proposal: Proposal | None, config: SpecReasonConfig, error: str | None = None, goodput: Goodput | None = None
) -> Decision:
    """Why the base model writes a step although nothing was scored.

    A proposal without text cannot be judged: when the draft wants to end the thinking, or writes only white space, the
    base model writes the next token itself, and that settles it. So it does when the proposal leaves the judge no room,
    when the draft engine failed with ``error`` (empty where it had failed before), and when drafting does not pay by
    the figures in ``goodput``, or the base model is timed for them.
    """
    reason: Reason = "first_steps_by_base" if error is None else "draft_failed"
    if goodput:
        reason = "base_is_timed" if goodput.probe or pays(goodput) else "drafting_does_not_pay"
    if proposal is not None:
        reason = "proposal_ends_thinking" if proposal.closes_thinking else "proposal_is_blank"
        reason = reason if proposal.is_blank else "proposal_too_long"
    return Decision(
        accepted=False, reason=reason, number=None, score_reduction=config.score_reduction, threshold=config.threshold,
        error=error or None, goodput=goodput,
    )  # fmt: skip
