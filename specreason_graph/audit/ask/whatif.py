"""What another threshold, judge or policy would have decided, computed from the records alone.

The answer is exact up to the first decision that changes, because until then the same steps are written and scored.
After it another text would follow, which is not known. The figures after it are estimates: they assume that the run
goes on with the recorded steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from specreason_graph.audit.check.recompute import judge_before
from specreason_graph.audit.check.totals import Trail
from specreason_graph.audit.read.recorded import RecordedRun, check_readable
from specreason_graph.config import SpecReasonConfig, overridden
from specreason_graph.policies.acceptance import best_of, decide
from specreason_graph.record.records import Decision, Record, Score, Step, Usage
from specreason_graph.strategy import AnyJudge, Judge, MissingRollback

Named = Judge | str | Mapping[str, Any] | None
"""A judge by whom a run is looked at: itself, its kind, or settings of it; None for the run's own."""


class Policy(Record):
    """The policy that is asked about."""

    threshold: float
    """Number from which a proposal would be accepted, on the judge's scale.

    Where no threshold is given, each step keeps its own, which may be lower in a run that was late.
    """
    judge: AnyJudge
    """Who would decide."""
    first_steps_by_base: int
    """How many steps at the start the base model would write without asking the draft."""


class Changed(Record):
    """A decision that would change, if the run reached the step with the same text before it."""

    step: int
    """Position of the step, from 0."""
    recorded: bool
    """Whether the draft's step was accepted."""
    would_be: bool | None
    """Whether the draft's step would be accepted; None where nobody knows: the draft was not asked, or the record lacks
    what the judge goes by."""
    number: float | None
    """The score under the policy, on its judge's scale; None where the record does not tell."""
    another: bool = False
    """Whether the policy would decide on another version that the draft wrote of the step."""
    goes_back: bool = False
    """Whether the draft's step would be rejected as it was, and other steps before it would be taken back."""


class WhatIf(Record):
    """One run under another policy."""

    policy: Policy
    """The other policy."""
    steps: int
    """Committed steps of the run."""
    changed: list[Changed]
    """Decisions that would change; only the first one is certain."""
    acceptance: float
    """Fraction of the scored steps that would be accepted, 0 to 1: exact before the first change, then estimated."""
    seconds: float
    """Engine seconds of the steps: recorded before the first change, estimated from recorded costs after it."""
    recorded_seconds: float
    """Engine seconds of the steps as recorded."""

    @property
    def first_divergence(self) -> int | None:
        """Position of the first step whose decision would change, from 0; None when the run would be the same."""
        return self.changed[0].step if self.changed else None


def what_if(
    run: RecordedRun, *, threshold: float | None = None, judge: Named = None,
    first_steps_by_base: int | None = None, seconds_per_base_token: float | None = None,
) -> WhatIf:  # fmt: skip
    """Decide every step of a run again under another policy.

    Settings that are not given stay as recorded, and so do the decisions of humans; a mapping without ``kind`` changes
    settings of the recorded judge. ``seconds_per_base_token`` serves the estimate of seconds; None measures it in this
    run. Raises `ThreadError` when the record is damaged, and `ConfigError` for a setting that is not allowed.
    """
    manifest = check_readable(run).typed_manifest
    config = manifest.config
    given = {name: value for name, value in (("judge", judge), ("threshold", threshold)) if value is not None}
    asked = overridden(config, given)
    first = config.first_steps_by_base if first_steps_by_base is None else first_steps_by_base
    policy = Policy(threshold=asked.judge_in_force.accepts_from, judge=asked.judge, first_steps_by_base=first)
    keeps = threshold is None and _same_threshold(asked.judge_in_force, config.judge_in_force)
    judged = [(step, _judge_for(step, asked.judge_in_force, keeps=keeps)) for step in run.steps]
    if not given:  # steps that a fork took over were decided by the judge of the run before
        judged = [
            (step, judge_before(step, manifest) if step.index < manifest.taken_over else judge)
            for step, judge in judged
        ]
    verdicts, changed, trail = list[bool | None](), list[Changed](), _trail(config)
    for step, judge in judged:
        verdict = _verdict(step, first, judge)
        if changed and verdict is False and step.decision.reason == "writer_chose_base":
            verdict = None  # behind other steps the writer may choose otherwise
        verdicts.append(verdict)
        again = _decided(step, judge)
        goes_back = bool(
            trail and not changed and verdict is False and step.index >= manifest.taken_over
            and trail.doubted(again, step).taken_back != step.taken_back
        )  # fmt: skip
        changed += _change(step, judge, verdict=verdict, goes_back=goes_back)
        if trail:
            trail.take(step.model_copy(update={"decision": again}))
    scored = [verdict for step, verdict in zip(run.steps, verdicts, strict=True) if step.score and verdict is not None]
    return WhatIf(
        policy=policy, steps=len(run.steps), changed=changed, acceptance=fmean(scored) if scored else 0.0,
        seconds=_seconds(run.steps, verdicts, seconds_per_base_token or seconds_per_token([run])),
        recorded_seconds=sum(cost.usage.seconds for step in run.steps for cost in step.costs),
    )  # fmt: skip


def _trail(config: SpecReasonConfig) -> Trail | None:
    """Return the steps that stand, for a rule that may take some back; None where none does, or nobody knows it."""
    rule = config.rollback
    return None if rule.kind == "never" or isinstance(rule, MissingRollback) else Trail(config)


def _decided(step: Step, judge: Judge) -> Decision:
    """Return the decision on a step with the number that it would have gone by."""
    score = _best(step, judge)
    if score is None:
        return step.decision
    again = decide(score, judge)
    return step.decision.model_copy(update={"number": again.number, "judge": again.judge})


def _same_threshold(judge: Judge, before: Judge) -> bool:
    return not judge.is_combined and judge.kind == before.kind and judge.accepts_from == before.accepts_from


def _judge_for(step: Step, judge: Judge, *, keeps: bool) -> Judge:
    """Return who would decide on a step: under its own threshold where no other one is asked about."""
    return judge.with_threshold(step.decision.threshold) if keeps else judge


def _drafted(step: Step) -> bool:
    return step.author == "draft"


def _change(step: Step, judge: Judge, *, verdict: bool | None, goes_back: bool) -> Iterator[Changed]:
    """Yield the change of a step's decision, if there is one."""
    score = _best(step, judge)
    another = score is not None and score is not step.score
    if not step.decision.review and (verdict != _drafted(step) or (verdict and another) or goes_back):
        number = judge.decide(score).number if score else None
        yield Changed(
            step=step.index, recorded=_drafted(step), would_be=verdict, number=number, another=another,
            goes_back=goes_back,
        )  # fmt: skip


def _best(step: Step, judge: Judge) -> Score | None:
    """Return the score of the version that the judge would decide on; None where the record does not tell."""
    scores = step.scores
    if any(judge.wants(score) for score in scores):
        return None
    return scores[best_of(scores, judge)] if scores else None


def _verdict(step: Step, first_steps_by_base: int, judge: Judge) -> bool | None:
    """Whether the draft's step would be accepted; None where a human decided, and where nobody knows."""
    if step.decision.review:
        return None
    if step.index < first_steps_by_base:
        return False
    if step.score:
        score = _best(step, judge)
        return judge.decide(score).accepted if score else None
    # All other reasons for a missing score hold under any policy, as a draft that failed or ended the thinking.
    return None if step.decision.reason == "first_steps_by_base" else False


def _seconds(steps: Sequence[Step], verdicts: Sequence[bool | None], base_seconds: float) -> float:
    """Estimate the seconds of the steps; ``base_seconds`` is what the base model takes for a token.

    A step that would now be accepted saves its regeneration, and one that would now be rejected adds one.
    """
    total = 0.0
    for step, verdict in zip(steps, verdicts, strict=True):
        regenerated = sum(c.usage.seconds for c in step.costs if c.purpose == "regenerate" and not c.wasted)
        total += sum(cost.usage.seconds for cost in step.costs)
        if verdict and not _drafted(step):
            total -= regenerated
        elif verdict is False and _drafted(step):
            total += base_seconds * len(step.token_ids)
    return total


def seconds_per_token(runs: Iterable[RecordedRun]) -> float:
    """Return the seconds that the base model took for a token, in steps and answers; 0 where it generated none."""
    written = Usage()
    for run in runs:
        costs = [c for step in run.steps for c in step.costs if c.purpose == "regenerate" and not c.wasted]
        by_base = [run.answer.usage] if run.answer and run.answer.author == "base" else []
        written = sum((*(cost.usage for cost in costs), *by_base), written)
    return written.seconds_per_token
