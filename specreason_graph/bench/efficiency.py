"""How much of a run's time its committed tokens would have needed had nothing ever waited."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from specreason_graph.record.records import Cost, Engine, Purpose, Step
from specreason_graph.record.summary import Summary

SecondsPerToken = Mapping[Engine, float]
"""Seconds a token of each engine."""
WROTE: dict[str, Purpose] = {"draft": "draft", "base": "regenerate"}
"""What an author's committed step was asked for."""


def committed_costs(steps: Sequence[Step], total: Summary) -> list[Cost]:
    """The engine work that made the committed tokens, one cost a step, and the answer's."""
    written = [cost for step in steps if (cost := _committed(step))]
    return [*written, *(cost for cost in total.costs if cost.purpose == "answer")]


def _committed(step: Step) -> Cost | None:
    """The call that wrote the committed text; None where a human did."""
    purpose = WROTE.get(step.author)
    return next((cost for cost in step.costs if cost.purpose == purpose and not cost.wasted), None)


def seconds_measured(costs: Sequence[Cost]) -> float:
    """Seconds as the calls took them, stretched by whatever else the engine did meanwhile."""
    return sum(cost.usage.seconds for cost in costs)


def seconds_alone(costs: Sequence[Cost], pace: SecondsPerToken) -> float:
    """Seconds as the same tokens take with nothing else at work."""
    return sum(pace[cost.engine] * cost.usage.generated_tokens for cost in costs)


def seconds_per_token(costs: Sequence[Cost], engine: Engine) -> float:
    """Seconds a token, the median of an engine's calls; 0 where it wrote nothing."""
    usages = [cost.usage for cost in costs if cost.engine == engine and cost.usage.generated_tokens]
    return statistics.median(usage.seconds / usage.generated_tokens for usage in usages) if usages else 0.0
