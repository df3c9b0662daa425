"""Thresholds over many runs: what each would accept and cost, and which one reaches a target acceptance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from specreason_graph.audit.ask.whatif import seconds_per_token, what_if
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.config import ScoreReduction
from specreason_graph.errors import ConfigError
from specreason_graph.record.records import Record, Step

THRESHOLDS = [half / 2 for half in range(19)]
"""The thresholds that are compared: 0 to 9 in halves."""


class Point(Record):
    """One point of the curve: many runs under one threshold."""

    threshold: float
    """The threshold, 0 to 9."""
    acceptance: float
    """Fraction of a run's scored steps that would be accepted, 0 to 1; mean over the runs."""
    seconds: float
    """Estimated engine seconds of a run's steps; mean over the runs."""
    same: int
    """Number of runs that would be the same to the last token."""
    runs: int
    """Number of runs with scores, which the other figures are about."""


class Suggestion(Record):
    """A threshold for a target acceptance, and the risk that comes with it."""

    threshold: float | None
    """The highest threshold that is shown to reach the target; None when no threshold is."""
    target: float
    """Target fraction of accepted steps, 0 to 1."""
    confidence: float
    """Probability with which both bounds hold together, 0 to 1."""
    acceptance: float | None
    """Acceptance at the threshold, 0 to 1; mean over the runs."""
    acceptance_at_least: float | None
    """Lower bound of the acceptance on new questions of the same kind: the target, which the test confirms."""
    let_in: float | None
    """Fraction of scored steps that the threshold accepts and the recorded policy rejected; mean over the runs."""
    let_in_at_most: float | None
    """Upper bound of ``let_in`` on new questions of the same kind: the risk."""
    runs: int
    """Number of runs that the suggestion rests on."""


def curve(runs: Sequence[RecordedRun], *, score_reduction: ScoreReduction | None = None) -> list[Point]:
    """Compute acceptance and estimated seconds for each of `THRESHOLDS`, over the runs that have scores."""
    runs = [run for run in runs if any(map(_is_evidence, run.steps))]
    base_seconds = seconds_per_token(runs)
    return [_point(threshold, runs, score_reduction, base_seconds) for threshold in THRESHOLDS]


def suggest(
    runs: Sequence[RecordedRun],
    target: float,
    *,
    confidence: float = 0.95,
    score_reduction: ScoreReduction | None = None,
) -> Suggestion:
    """Suggest the highest threshold whose acceptance on new questions is at least ``target``, with a bound on the risk.

    Method: learn then test (Angelopoulos et al., arXiv 2110.01052) with fixed-sequence testing. Thresholds are tried
    from 0 upwards, until the lower bound of the acceptance is below the target; the threshold before that one is
    suggested. The bounds are Hoeffding's, on the mean over runs, each with half of the error probability. The bound of
    the risk holds for all thresholds together. Assumptions: the runs are independent draws of the questions to come,
    and steps after a changed decision score like the recorded ones.
    """
    if not 0 < target <= 1 or not 0 < confidence < 1:
        wrong = ("target", target) if not 0 < target <= 1 else ("confidence", confidence)
        raise ConfigError(f"{wrong[0]} = {wrong[1]:g} is not allowed", hint="write a share between 0 and 1")
    used = [run for run in runs if any(map(_is_evidence, run.steps))]
    if not used:
        raise ConfigError("none of the runs has a score", hint="name runs with scored steps")
    error = (1 - confidence) / 2
    # The wider margin is a union bound over all thresholds, because the one that is suggested depends on the runs.
    margin, wider = _margin(len(used), error), _margin(len(used), error / len(THRESHOLDS))
    found = None
    for threshold in THRESHOLDS:
        shares = [what_if(run, threshold=threshold, score_reduction=score_reduction).acceptance for run in used]
        if fmean(shares) - margin < target:
            break
        found = (threshold, fmean(shares))
    let_in = fmean(_let_in(run, found[0], score_reduction) for run in used) if found else None
    return Suggestion(
        threshold=found[0] if found else None, target=target, confidence=confidence, runs=len(used),
        acceptance=found[1] if found else None, acceptance_at_least=target if found else None,
        let_in=let_in, let_in_at_most=None if let_in is None else min(1.0, let_in + wider),
    )  # fmt: skip


def _is_evidence(step: Step) -> bool:
    """Whether a step says something about thresholds: it has a score, and no human decided instead of the score."""
    return step.score is not None and step.decision.review is None


def _margin(runs: int, error: float) -> float:
    """Hoeffding's bound: how far the mean over ``runs`` lies from the true mean, except with probability ``error``."""
    return math.sqrt(math.log(1 / error) / (2 * runs))


def _point(
    threshold: float, runs: Sequence[RecordedRun], score_reduction: ScoreReduction | None, base_seconds: float
) -> Point:
    found = [
        what_if(run, threshold=threshold, score_reduction=score_reduction, seconds_per_base_token=base_seconds)
        for run in runs
    ]
    return Point(
        threshold=threshold, acceptance=fmean(each.acceptance for each in found) if found else 0.0,
        seconds=fmean(each.seconds for each in found) if found else 0.0,
        same=sum(each.first_divergence is None for each in found), runs=len(found),
    )  # fmt: skip


def _let_in(run: RecordedRun, threshold: float, score_reduction: ScoreReduction | None) -> float:
    """Fraction of the scored steps that the threshold would accept and the recorded policy rejected."""
    scored = sum(_is_evidence(step) for step in run.steps)
    changed = what_if(run, threshold=threshold, score_reduction=score_reduction).changed
    return sum(bool(each.would_be) and not each.recorded for each in changed) / scored if scored else 0.0
