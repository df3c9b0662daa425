"""What a sampling judge may have let in: a bound from the steps that were asked about all the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.errors import ConfigError
from specreason_graph.judging.combined import Sample
from specreason_graph.record.records import Record, Score


class Unasked(Record):
    """Steps that were let in because the first judge of a `Sample` was sure of them, and what the sampled ones tell."""

    sure: int
    """Steps that the first judge was sure of."""
    sampled: int
    """Those of them that went to the next judge all the same."""
    rejected: int
    """Those that it rejected then."""
    share_at_most: float
    """At most this share of such steps would the next judge reject, 0 to 1; 1 where none was sampled."""
    confidence: float
    """Probability with which that holds, 0 to 1."""

    @property
    def unasked(self) -> int:
        """Steps that were let in without asking the next judge."""
        return self.sure - self.sampled


def unasked(runs: Iterable[RecordedRun], *, confidence: float = 0.95) -> Unasked | None:
    """Bound how often the next judge would have rejected steps that it was not asked about; None without a `Sample`.

    The bound is Clopper and Pearson's, one-sided and exact for the rate of steps that are independent draws; the share
    among the unasked of few runs scatters around that rate. The steps of one run are only nearly independent, so many
    runs are better than a long one. The bound is about ``then`` as a judge, not about the truth.
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence = {confidence:g} is not allowed", hint="write a share between 0 and 1")
    found = [each for run in runs for each in _of_run(run)]
    asked = [rejected for judge, score, rejected in found if judge.is_sampled(score)]
    if not found:
        return None
    return Unasked(
        sure=len(found), sampled=len(asked), rejected=sum(asked), confidence=confidence,
        share_at_most=at_most(sum(asked), len(asked), confidence),
    )  # fmt: skip


def _of_run(run: RecordedRun) -> Iterator[tuple[Sample, Score, bool]]:
    """Yield the steps that a judge was sure of, and whether the next one rejects; a fork's own steps only."""
    manifest = run.typed_manifest
    judges = [part for part in manifest.config.judge_in_force.parts() if isinstance(part, Sample)]
    for judge in judges:
        for score in (score for step in run.steps[manifest.taken_over :] for score in step.scores):
            if score.has(judge.kind) and not judge.first.wants(score) and judge.is_sure(score):
                yield judge, score, judge.is_sampled(score) and not judge.then.decide(score).accepted


def at_most(events: int, trials: int, confidence: float) -> float:
    """The greatest probability of an event under which so few ``events`` in ``trials`` are not too unlikely."""
    low, high = 0.0, 1.0
    if events >= trials:
        return high
    for _ in range(50):  # halves the interval each time
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most_likely(events, trials, middle) > 1 - confidence else (low, middle)
    return high


def _at_most_likely(events: int, trials: int, probability: float) -> float:
    """Probability of at most so many ``events``; in logarithms, as terms of many trials have no place in a float."""
    every = math.lgamma(trials + 1)
    yes, no = math.log(probability), math.log1p(-probability)
    return math.fsum(
        math.exp(every - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * yes + (trials - k) * no)
        for k in range(events + 1)
    )
