"""The scenarios that the speed benchmark compares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from specreason_graph.errors import UsageError
from specreason_graph.record.records import Record

DraftKind = Literal["given", "random"]
"""The draft of a scenario: the pair's own, or one of the same architecture with random weights."""
NEVER = 10**6
"""More steps than any run has, as ``first_steps_by_base``: the draft is never asked."""


class Scenario(Record):
    """One way to run the graph, with settings and a draft."""

    name: str
    """Name of the scenario in the table."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Fields of `SpecReasonConfig`, in addition to those that all scenarios share."""
    draft: DraftKind = "given"
    """The draft of the scenario."""


SHORT = {"max_step_tokens": 64}
"""Settings for a draft with random weights, which hardly ever ends a step before its token limit."""
HOPELESS = {"threshold": 9.0, **SHORT}
"""Settings for a bad draft: no proposal is accepted, so the answers are those of base only.

A lower threshold would accept some of its text, because a small judge has never seen what random weights write.
"""
BASE_ONLY = Scenario(name="base only", settings={"first_steps_by_base": NEVER})
"""The same graph without the draft: the base model writes every step, with the same lookahead as elsewhere."""
SEQUENTIAL = Scenario(name="sequential", settings={"lookahead": 0})
"""The loop without lookahead: only one engine works at a time."""
SCENARIOS = (
    BASE_ONLY,
    SEQUENTIAL,
    Scenario(name="lookahead 4", settings={"lookahead": 4}),
    Scenario(name="adaptive", settings={"lookahead": None}),
    Scenario(name="controlled", settings={"speculation_control": True}),
    Scenario(name="bad draft", settings=HOPELESS, draft="random"),
    Scenario(name="bad draft, controlled", settings={"speculation_control": True, **HOPELESS}, draft="random"),
)
"""The scenarios that are measured by default."""


def choose(names: Sequence[str] | None) -> list[Scenario]:
    """Return the scenarios with these names, or all without names; base only is always among them."""
    known = {scenario.name: scenario for scenario in SCENARIOS}
    for name in names or ():
        if name not in known:
            raise UsageError(f"unknown scenario {name!r}; known scenarios: {', '.join(known)}")
    return [scenario for scenario in SCENARIOS if not names or scenario is BASE_ONLY or scenario.name in names]


def with_draft(scenarios: Sequence[Scenario], draft: DraftKind) -> list[Scenario]:
    """Return the scenarios that use this draft, base only first; an empty list where no scenario uses it."""
    others = [scenario for scenario in scenarios if scenario.draft == draft and scenario is not BASE_ONLY]
    return [BASE_ONLY, *others] if others or (draft == "given" and len(scenarios) == 1) else []


def rotated(scenarios: Sequence[Scenario], turns: int) -> list[Scenario]:
    """Return the scenarios in another order for each number of turns, so that none always comes first or last."""
    first = turns % len(scenarios)
    return [*scenarios[first:], *scenarios[:first]]
