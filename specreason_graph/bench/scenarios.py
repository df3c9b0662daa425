"""The scenarios of thinking that are measured against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from specreason_graph.errors import UsageError
from specreason_graph.record.records import Record

DraftKind = Literal["given", "random"]
"""Which draft works: the pair's own, or one of the same architecture with random weights."""
NEVER = 10**6
"""More steps than any run has: the draft is never asked before them."""


class Scenario(Record):
    """One scenario of running the graph."""

    name: str
    """What it is called in the table."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Fields of `SpecReasonConfig` on top of those that all scenarios share."""
    draft: DraftKind = "given"
    """Which draft it has."""


SHORT = {"max_step_tokens": 64}
"""For a draft that ends a step by accident only: else each would be as long as a step may be."""
HOPELESS = {"threshold": 9.0, **SHORT}
"""No proposal gets in, so that the answers are those of base only; small judges have seen no text that random weights
write, and like some of it."""
BASE_ONLY = Scenario(name="base only", settings={"first_steps_by_base": NEVER})
"""The same graph, and the draft is never asked; it may work ahead as the others may."""
SEQUENTIAL = Scenario(name="sequential", settings={"lookahead": 0})
"""The loop with one engine at work at a time."""
SCENARIOS = (
    BASE_ONLY,
    SEQUENTIAL,
    Scenario(name="lookahead 4", settings={"lookahead": 4}),
    Scenario(name="adaptive", settings={"lookahead": None}),
    Scenario(name="controlled", settings={"speculation_control": True}),
    Scenario(name="bad draft", settings=HOPELESS, draft="random"),
    Scenario(name="bad draft, controlled", settings={"speculation_control": True, **HOPELESS}, draft="random"),
)
"""What is measured unless somebody chooses."""


def choose(names: Sequence[str] | None) -> list[Scenario]:
    """The scenarios with these names, all for none; base only is always among them."""
    known = {scenario.name: scenario for scenario in SCENARIOS}
    for name in names or ():
        if name not in known:
            raise UsageError(f"unknown scenario {name!r}; known scenarios: {', '.join(known)}")
    return [scenario for scenario in SCENARIOS if not names or scenario is BASE_ONLY or scenario.name in names]


def with_draft(scenarios: Sequence[Scenario], draft: DraftKind) -> list[Scenario]:
    """The scenarios that work with a draft, base only first; none where no scenario needs that draft."""
    others = [scenario for scenario in scenarios if scenario.draft == draft and scenario is not BASE_ONLY]
    return [BASE_ONLY, *others] if others or (draft == "given" and len(scenarios) == 1) else []


def rotated(scenarios: Sequence[Scenario], turns: int) -> list[Scenario]:
    """The scenarios with another one first at each turn, so that none always comes first or last."""
    first = turns % len(scenarios)
    return [*scenarios[first:], *scenarios[:first]]
