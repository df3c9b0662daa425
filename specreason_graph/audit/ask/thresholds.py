"""Thresholds over many runs: what each would accept and cost, and which one reaches a target acceptance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from specreason_graph.audit.ask.whatif import Named, seconds_per_token, what_if
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.config import overridden
from specreason_graph.errors import ConfigError
from specreason_graph.record.records import Record, Step
from specreason_graph.strategy import Judge


class Point(Record):
    """One point of the curve: many runs under one threshold."""

    threshold: float
    """The threshold, on the judge's scale."""
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


def curve(runs: Sequence[RecordedRun], *, judge: Named = None) -> list[Point]:
    """Compute acceptance and estimated seconds for each of the judge's trials, over the runs that have its evidence."""
    used, trials = _used(runs, judge)
    base_seconds = seconds_per_token(used)
    return [_point(threshold, used, judge, base_seconds) for threshold in trials]


def suggest(runs: Sequence[RecordedRun], target: float, *, confidence: float = 0.95, judge: Named = None) -> Suggestion:
    """Suggest the highest threshold whose acceptance on new questions is at least ``target``, with a bound on the risk.

    Method: learn then test (Angelopoulos et al., arXiv 2110.01052) with fixed-sequence testing. The judge's trials are
    tried from the easiest on, until the lower bound of the acceptance is below the target; the threshold before that
    one is suggested. The bounds are Hoeffding's, on the mean over runs, each with half of the error probability. The
    bound of the risk holds for all thresholds together. Assumptions: the runs are independent draws of the questions to
    come, and steps after a changed decision score like the recorded ones.
    """
    if not 0 < target <= 1 or not 0 < confidence < 1:
        wrong = ("target", target) if not 0 < target <= 1 else ("confidence", confidence)
        raise ConfigError(f"{wrong[0]} = {wrong[1]:g} is not allowed", hint="write a share between 0 and 1")
    used, trials = _used(runs, judge)
    if not used:
        raise ConfigError("none of the runs has a score", hint="name runs with scored steps")
    error = (1 - confidence) / 2
    # The wider margin is a union bound over all thresholds, because the one that is suggested depends on the runs.
    margin, wider = _margin(len(used), error), _margin(len(used), error / len(trials))
    found = None
    for threshold in trials:
        shares = [what_if(run, threshold=threshold, judge=judge).acceptance for run in used]
        if fmean(shares) - margin < target:
            break
        found = (threshold, fmean(shares))
    let_in = fmean(_let_in(run, found[0], judge) for run in used) if found else None
    return Suggestion(
        threshold=found[0] if found else None, target=target, confidence=confidence, runs=len(used),
        acceptance=found[1] if found else None, acceptance_at_least=target if found else None,
        let_in=let_in, let_in_at_most=None if let_in is None else min(1.0, let_in + wider),
    )  # fmt: skip


def _used(runs: Sequence[RecordedRun], judge: Named) -> tuple[list[RecordedRun], Sequence[float]]:
    """Return the runs that tell something about thresholds, and the thresholds to try; all runs have one judge."""
    judged = [(run, _judge_of(run, judge)) for run in runs]
    used = [(run, by) for run, by in judged if any(_is_evidence(step, by) for step in run.steps)]
    if len(kinds := {by.kind for _, by in used}) > 1:
        names = ", ".join(sorted(kinds))
        raise ConfigError(f"the runs have several judges: {names}", hint="name one with --judge")
    return [run for run, _ in used], used[0][1].trials_in_force if used else ()


def _judge_of(run: RecordedRun, judge: Named) -> Judge:
    config = run.typed_manifest.config
    return config.judge if judge is None else overridden(config, {"judge": judge}).judge


def _is_evidence(step: Step, judge: Judge) -> bool:
    """Whether a step says something about thresholds: it has a score, and no human decided instead of the score."""
    return step.score is not None and step.decision.review is None and judge.wants(step.score) is None


def _margin(runs: int, error: float) -> float:
    """Hoeffding's bound: how far the mean over ``runs`` lies from the true mean, except with probability ``error``."""
    return math.sqrt(math.log(1 / error) / (2 * runs))


def _point(threshold: float, runs: Sequence[RecordedRun], judge: Named, base_seconds: float) -> Point:
    found = [what_if(run, threshold=threshold, judge=judge, seconds_per_base_token=base_seconds) for run in runs]
    return Point(
        threshold=threshold, acceptance=fmean(each.acceptance for each in found) if found else 0.0,
        seconds=fmean(each.seconds for each in found) if found else 0.0,
        same=sum(each.first_divergence is None for each in found), runs=len(found),
    )  # fmt: skip


def _let_in(run: RecordedRun, threshold: float, judge: Named) -> float:
    """Fraction of the scored steps that the threshold would accept and the recorded policy rejected."""
    by = _judge_of(run, judge)
    scored = sum(_is_evidence(step, by) for step in run.steps)
    changed = what_if(run, threshold=threshold, judge=judge).changed
    return sum(bool(each.would_be) and not each.recorded for each in changed) / scored if scored else 0.0
