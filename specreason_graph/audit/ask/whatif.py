"""What another threshold, score_reduction or policy would have decided, from the records alone.

Up to the first decision that comes out differently the answer is exact: the same steps were written and scored. What
would have been written behind it nobody knows; there the run is taken to go on as the recorded steps did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean

from specreason_graph.audit.read.recorded import RecordedRun, check_readable
from specreason_graph.config import ScoreReduction
from specreason_graph.errors import ConfigError
from specreason_graph.policies.acceptance import best_of, decide
from specreason_graph.record.records import Record, Score, Step, Usage


class Policy(Record):
    """What is asked about."""

    threshold: float
    """Score from which a proposal would be accepted, 0 to 9; that of a late run's own steps where none was given."""
    score_reduction: ScoreReduction
    """How the score would be read."""
    first_steps_by_base: int
    """How many steps at the start the base model would write itself."""


class Changed(Record):
    """A decision that would come out differently, were the step reached with the same text before it."""

    step: int
    """Position of the step, from 0."""
    recorded: bool
    """Whether the draft's step was taken."""
    would_be: bool | None
    """Whether it would be; None where the draft was not asked, so nobody knows."""
    number: float | None
    """The score as the policy reads it; None where the step has none."""
    another: bool = False
    """Whether it would be about another of the versions that the draft wrote."""


class WhatIf(Record):
    """One run under another policy."""

    policy: Policy
    """The other policy."""
    steps: int
    """Committed steps of the run."""
    changed: list[Changed]
    """Decisions that would change; only the first is certain to be met."""
    acceptance: float
    """Share of the scored steps that would be accepted, 0 to 1: exact before the first change, estimated behind it."""
    seconds: float
    """Engine seconds of the steps: recorded before the first change, estimated from recorded costs behind it."""
    recorded_seconds: float
    """Engine seconds of the steps as they were."""

    @property
    def first_divergence(self) -> int | None:
        """Position of the first step that would be decided differently; None when the run would be the same."""
        return self.changed[0].step if self.changed else None


def what_if(
    run: RecordedRun, *, threshold: float | None = None, score_reduction: ScoreReduction | None = None,
    first_steps_by_base: int | None = None, rewriting: float | None = None,
) -> WhatIf:  # fmt: skip
    """Decide every step of a run under another policy; what is not given stays, and what a human said.

    ``rewriting``: seconds the base model takes for a token, for the estimate; None takes what it took in this run.
    `ThreadError` when the record is damaged, `ConfigError` for a threshold that is none.
    """
    config, given = check_readable(run).typed_manifest.config, threshold is not None
    policy = Policy(
        threshold=_checked(config.threshold if threshold is None else threshold),
        score_reduction=score_reduction or config.score_reduction,
        first_steps_by_base=config.first_steps_by_base if first_steps_by_base is None else first_steps_by_base,
    )  # fmt: skip
    verdicts = [_verdict(step, policy, policy.threshold if given else step.decision.threshold) for step in run.steps]
    changed = [
        each
        for step, verdict in zip(run.steps, verdicts, strict=True)
        for each in _change(step, policy, verdict=verdict)
    ]
    scored = [verdict for step, verdict in zip(run.steps, verdicts, strict=True) if step.score and verdict is not None]
    return WhatIf(
        policy=policy, steps=len(run.steps), changed=changed, acceptance=fmean(scored) if scored else 0.0,
        seconds=_seconds(run.steps, verdicts, rewriting or seconds_per_token([run])),
        recorded_seconds=sum(cost.usage.seconds for step in run.steps for cost in step.costs),
    )  # fmt: skip


def _checked(threshold: float) -> float:
    if not 0 <= threshold <= 9:
        raise ConfigError(f"threshold = {threshold:g} is not allowed", hint="write a score from 0 to 9")
    return threshold


def _drafted(step: Step) -> bool:
    return step.author == "draft"


def _change(step: Step, policy: Policy, *, verdict: bool | None) -> Iterator[Changed]:
    """What would change at a step, if anything."""
    score = _best(step, policy.score_reduction)
    another = score is not step.score
    if not step.decision.review and (verdict != _drafted(step) or (verdict and another)):
        number = decide(score, threshold=0, score_reduction=policy.score_reduction).number if score else None
        yield Changed(step=step.index, recorded=_drafted(step), would_be=verdict, number=number, another=another)


def _best(step: Step, score_reduction: ScoreReduction) -> Score | None:
    """The score of the version that would be decided on."""
    scores = [score for score in (step.score, *(each.score for each in step.alternatives)) if score]
    return scores[best_of(scores, score_reduction)] if scores else None


def _verdict(step: Step, policy: Policy, threshold: float) -> bool | None:
    """Whether the draft's step would be taken; None where the record does not say, and where a human decided."""
    if step.decision.review:
        return None
    if step.index < policy.first_steps_by_base:
        return False
    if score := _best(step, policy.score_reduction):
        return decide(score, threshold=threshold, score_reduction=policy.score_reduction).accepted
    return None if step.decision.reason == "first_steps_by_base" else False


def _seconds(steps: Sequence[Step], verdicts: Sequence[bool | None], rewriting: float) -> float:
    """Seconds of the steps: one that would be taken saves the rewriting, one that would not costs it."""
    total = 0.0
    for step, verdict in zip(steps, verdicts, strict=True):
        rewritten = sum(cost.usage.seconds for cost in step.costs if cost.purpose == "regenerate" and not cost.wasted)
        total += sum(cost.usage.seconds for cost in step.costs)
        if verdict and not _drafted(step):
            total -= rewritten
        elif verdict is False and _drafted(step):
            total += rewriting * len(step.token_ids)
    return total


def seconds_per_token(runs: Iterable[RecordedRun]) -> float:
    """Seconds the base model took for a token that it wrote, in steps and answers; 0 where it wrote none."""
    written = Usage()
    for run in runs:
        costs = [c for step in run.steps for c in step.costs if c.purpose == "regenerate" and not c.wasted]
        by_base = [run.answer.usage] if run.answer and run.answer.author == "base" else []
        written = sum((*(cost.usage for cost in costs), *by_base), written)
    return written.seconds_per_token
