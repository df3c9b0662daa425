"""Efficiency: how much of a run's time went into the tokens that it committed."""

from __future__ import annotations

from collections.abc import Sequence

from specreason_graph.record.records import Cost, Purpose, Step
from specreason_graph.record.standing import standing
from specreason_graph.record.summary import Summary

WROTE: dict[str, Purpose] = {"draft": "draft", "base": "regenerate"}
"""Purpose of the call that wrote a committed step, by author."""


def committed_costs(steps: Sequence[Step], total: Summary) -> list[Cost]:
    """Return the engine work behind the committed tokens: one cost per step, and that of the answer."""
    written = [cost for step in standing(steps) if (cost := _committed(step))]
    return [*written, *(cost for cost in total.costs if cost.purpose == "answer")]


def _committed(step: Step) -> Cost | None:
    """Return the cost of the call that wrote the committed text; None where a human wrote it."""
    purpose = WROTE.get(step.author)
    return next((cost for cost in step.costs if cost.purpose == purpose and not cost.wasted), None)


def seconds_measured(costs: Sequence[Cost]) -> float:
    """Return the measured seconds of the calls, which are longer when the engine works on other calls, too."""
    return sum(cost.usage.seconds for cost in costs)
