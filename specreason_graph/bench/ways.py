"""The ways of thinking that are measured against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from specreason_graph.errors import UsageError
from specreason_graph.records import Record

Draft = Literal["given", "random"]
"""Which draft works: the pair's own, or one of the same architecture with random weights."""
NEVER = 10**6
"""More steps than any run has: the draft is never asked before them."""


class Way(Record):
    """One way of running the graph."""

    name: str
    """What it is called in the table."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Fields of `SpecReasonConfig` on top of those that all ways share."""
    draft: Draft = "given"
    """Which draft it has."""


SHORT = {"max_step_tokens": 64}
"""For a draft that ends a step by accident only: else each would be as long as a step may be."""
HOPELESS = {"threshold": 9.0, **SHORT}
"""No proposal gets in, so that the answers are those of base alone; small judges have seen no text that random weights
write, and like some of it."""
BASE = Way(name="base alone", settings={"first_steps_by_base": NEVER})
"""The same graph, and the draft is never asked; it may work ahead as the others may."""
TURNS = Way(name="in turns", settings={"window": 0})
"""The loop with one engine at work at a time."""
WAYS = (
    BASE,
    TURNS,
    Way(name="window 4", settings={"window": 4}),
    Way(name="adaptive", settings={"window": None}),
    Way(name="guarded", settings={"guard": True}),
    Way(name="bad draft", settings=HOPELESS, draft="random"),
    Way(name="bad draft, guarded", settings={"guard": True, **HOPELESS}, draft="random"),
)
"""What is measured unless somebody chooses."""


def choose(names: Sequence[str] | None) -> list[Way]:
    """The ways with these names, all for none; base alone is always among them."""
    known = {way.name: way for way in WAYS}
    for name in names or ():
        if name not in known:
            raise UsageError(f"unknown way {name!r}; known ways: {', '.join(known)}")
    return [way for way in WAYS if not names or way is BASE or way.name in names]


def with_draft(ways: Sequence[Way], draft: Draft) -> list[Way]:
    """The ways that work with a draft, base alone first; none where no way needs that draft."""
    others = [way for way in ways if way.draft == draft and way is not BASE]
    return [BASE, *others] if others or (draft == "given" and len(ways) == 1) else []


def rotated(ways: Sequence[Way], turns: int) -> list[Way]:
    """The ways with another one first at each turn, so that none always comes first or last."""
    first = turns % len(ways)
    return [*ways[first:], *ways[:first]]
