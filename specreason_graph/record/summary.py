"""What a run took: acceptance, tokens by model and purpose, time by stage. Derived from the records, never stored."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from specreason_graph.record.records import Answer, Cost, Record, Step, Usage, formerly
from specreason_graph.record.standing import standing


class Summary(Record):
    """Totals of one run."""

    steps: int
    """Committed steps."""
    proposals: int
    """Steps of the draft model that were scored."""
    accepted: int
    """Proposals that entered the trace."""
    costs: list[Cost]
    """Tokens and seconds for each engine and purpose, thrown-away work included; wasted work in rows of its own."""
    discarded: Usage
    """The part of the draft model's work that was rejected, or that another version was better than."""
    wasted: Usage = Field(default=Usage(), validation_alias=formerly("wasted", "lost"))
    """Work of both models that led nowhere: speculative work, and that on steps which were taken back."""
    taken_back: int = 0
    """Committed steps that were taken back."""
    elapsed: float | None = None
    """Wall-clock seconds of the steps; None in runs of schema versions 1 and 2."""
    base_only_seconds: float | None = Field(default=None, validation_alias=formerly("base_only_seconds", "alone"))
    """What the base model alone would have taken for the same tokens, at the speed it wrote at here, in seconds; None
    where it wrote none."""

    @property
    def acceptance(self) -> float:
        """Share of the proposals that were accepted, 0 to 1; 0 when there were none."""
        return self.accepted / self.proposals if self.proposals else 0.0

    @property
    def work(self) -> Usage:
        """All engine calls together, wasted ones included."""
        return sum((cost.usage for cost in self.costs), Usage())

    @property
    def seconds(self) -> float:
        """Seconds spent in engine calls."""
        return sum(cost.usage.seconds for cost in self.costs)


def summarise(steps: Sequence[Step], answer: Answer | None) -> Summary:
    """Add up a trace and its answer."""
    gone = {position for step in steps for position in step.taken_back}
    costs = [
        cost.model_copy(update={"wasted": True}) if step.index in gone else cost
        for step in steps for cost in step.costs
    ]  # fmt: skip
    if answer:
        written = [Cost(engine=answer.author, purpose="answer", usage=answer.usage)] if answer.usage.calls else []
        costs += [*written, *answer.wasted]  # a plain reply is its steps, and nothing was written behind them
    discarded = [step.discarded.usage for step in steps if step.discarded]
    discarded += [each.proposal.usage for step in steps for each in step.alternatives]
    wasted = [cost.usage for cost in costs if cost.wasted]
    times = [step.elapsed for step in steps if step.elapsed is not None]
    elapsed = sum(times) if times and len(times) == len(steps) else None
    accepted = sum(step.decision.accepted for step in steps)
    scored = sum(step.score is not None for step in steps)
    return Summary(
        steps=len(steps), proposals=scored, accepted=accepted, costs=_by_purpose(costs),
        discarded=sum(discarded, Usage()), wasted=sum(wasted, Usage()),
        taken_back=len(gone), elapsed=elapsed,
        base_only_seconds=None if elapsed is None else _base_only_seconds(steps, answer),
    )  # fmt: skip


def _base_only_seconds(steps: Sequence[Step], answer: Answer | None) -> float | None:
    costs = [cost for step in steps for cost in step.costs if cost.purpose == "regenerate" and not cost.wasted]
    by_base = [answer.usage] if answer and answer.author == "base" else []
    written = sum((cost.usage for cost in costs), sum(by_base, Usage()))
    tokens = sum(len(step.token_ids) for step in standing(steps))
    return written.seconds_per_token * tokens if written.generated_tokens else None


def _by_purpose(costs: Sequence[Cost]) -> list[Cost]:
    totals: dict[tuple[str, str, bool], Cost] = {}
    for cost in costs:
        key = (cost.engine, cost.purpose, cost.wasted)
        before = totals[key].usage if key in totals else Usage()
        totals[key] = cost.model_copy(update={"usage": before + cost.usage})
    return list(totals.values())


def seconds_of(step: Step) -> float:
    """What a step took of the run's time; older records only tell what its engine calls took, one after the other."""
    return sum(cost.usage.seconds for cost in step.costs) if step.elapsed is None else step.elapsed
