"""What a plan compares: the base alone, with token-level speculation, and loops by judge and lookahead."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from specreason_graph.errors import ConfigError
from specreason_graph.strategy import Settings

Judged = Literal["digit", "likelihood", "confidence", "cascade"]


class Planned(Settings):
    """A way to answer, as far as its time goes."""

    name: str
    """Its name in the table."""
    judge: Judged | None = "digit"
    """Who scores a step: the base with a digit or by likelihood, the draft's own confidence, or a cascade of the last
    two; None where the base writes every step."""
    stepwise: bool = True
    """Whether the base alone writes step by step through the graph, and not in one call."""
    judge_tokens: Annotated[int, Field(ge=0, le=10_000)] = 35
    """Tokens of the digit judge's instruction."""
    lookahead: Annotated[int, Field(ge=0, le=64)] | None = None
    """Steps worked on ahead of the commit point; None goes by acceptance and load."""
    acceptance: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the scored proposals that are accepted; None takes that of the record."""
    escalated: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the proposals about which a cascade asks its second judge; None takes that of the record."""
    token_speculation: bool = False
    """Whether the base has token-level speculation inside its engine."""

    @property
    def drafts(self) -> bool:
        """Whether a draft is asked."""
        return self.judge is not None


BASE = Planned(name="base", judge=None, stepwise=False)
"""The base alone in one call, which the others are compared with."""
STEPWISE = Planned(name="stepwise", judge=None)
"""The base alone through the graph, step by step."""
KNOWN = {each.name: each for each in (
    BASE,
    STEPWISE,
    Planned(name="base+speculation", judge=None, stepwise=False, token_speculation=True),
    Planned(name="paper", judge_tokens=70, lookahead=0),
    Planned(name="digit"),
    Planned(name="likelihood", judge="likelihood"),
    Planned(name="confidence", judge="confidence"),
    Planned(name="cascade", judge="cascade"),
    Planned(name="digit+speculation", token_speculation=True),
    Planned(name="likelihood+speculation", judge="likelihood", token_speculation=True),
)}  # fmt: skip
"""Strategies by name."""
COMPARED = ("base+speculation", "paper", "digit", "likelihood", "cascade", "likelihood+speculation")
"""What is compared with the base where nobody names strategies."""


def parse_strategy(text: str) -> Planned:
    """Read ``NAME`` or ``NAME:setting=value,...``; `ConfigError` with what is allowed for anything else."""
    name, _, more = text.partition(":")
    if name not in KNOWN:
        raise ConfigError(f"there is no strategy {name!r} to plan", hint=f"known: {', '.join(KNOWN)}")
    changes: dict[str, Any] = {"name": text} if more else {}
    for part in filter(None, more.split(",")):
        key, found, value = part.partition("=")
        if not found or key not in CHANGEABLE:
            raise ConfigError(f"{part!r} in the strategy {text!r} is not allowed", hint=ALLOWED)
        changes[key] = None if value == "none" else value
    try:
        return Planned.model_validate({**KNOWN[name].model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"{first['loc'][0]} = {first['input']} in the strategy {text!r} is not allowed: {first['msg'].lower()}",
            hint=ALLOWED,
        ) from None


CHANGEABLE = ("acceptance", "lookahead", "judge_tokens", "escalated")
ALLOWED = f"write NAME:setting=value,... with the settings {', '.join(CHANGEABLE)}"
