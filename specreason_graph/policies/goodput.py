"""Whether drafting pays: the goodput guard.

SmartSpec (arXiv 2406.14066) sets the length of token speculation by the tokens a second that it is expected to bring.
Here the unit is a step, and nothing is modelled: the wall-clock seconds of a committed token are measured with the
draft and without it, under the load there is, and the base model writes alone while that is faster.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from specreason_graph.records import Goodput, Step

ENOUGH = 4
"""Drafted steps that must have been measured before they are held against drafting."""
PRIOR = 64.0
"""What is known of the pair counts in a run like that many of its own tokens."""
PROBE, RARELY = 16, 64
"""Steps that the base writes alone before drafting is tried again: at first, and at most."""


def pays(found: Goodput) -> bool:
    """Whether a token takes no longer with the draft than without it."""
    return found.drafted <= found.alone


@dataclass
class Rate:
    """Seconds a token, the last steps counting most."""

    memory: float
    """Share of what is known that a further step leaves, 0 to 1."""
    seconds: float = 0.0
    tokens: float = 0.0
    steps: int = 0

    def add(self, seconds: float, tokens: int) -> None:
        """Take note of a step."""
        self.seconds = self.memory * self.seconds + seconds
        self.tokens = self.memory * self.tokens + tokens
        self.steps += 1

    def behind(self, prior: Rate) -> float | None:
        """Seconds a token, with what was known before weighed in; None while nothing is known."""
        weight = PRIOR if prior.tokens else 0.0
        tokens = self.tokens + weight
        known = prior.seconds / prior.tokens if prior.tokens else 0.0
        return (self.seconds + weight * known) / tokens if tokens else None


class Rates:
    """What was measured with and without the draft."""

    def __init__(self, memory: float = 0.98) -> None:
        self.drafted, self.alone = Rate(memory), Rate(memory)

    def add(self, step: Step) -> None:
        """Take note of a committed step; what the base wrote tells how fast it is, also where the draft was asked."""
        seconds, tokens = step.elapsed or 0.0, len(step.token_ids)
        if step.decision.goodput or step.decision.reason == "first_steps_by_base":
            self.alone.add(seconds, tokens)
            return
        self.drafted.add(seconds, tokens)
        if step.author == "base" and tokens:
            written = sum(cost.usage.seconds for cost in step.costs if cost.purpose == "regenerate" and not cost.lost)
            self.alone.add(written, tokens)


@dataclass
class Level:
    """What is known of a pair while about so many runs are under way."""

    rates: Rates = field(default_factory=Rates)
    wait: int = PROBE
    """Steps until drafting is tried again."""
    pause: int = PROBE
    """How many those were the last time."""


class Guard:
    """Measures all runs of a pair, each load by itself."""

    def __init__(self) -> None:
        self._levels: dict[int, Level] = {}

    def add(self, step: Step, own: Rates, runs: int) -> None:
        """Take note of a step that one of ``runs`` runs has committed, whose own rates are ``own``."""
        own.add(step)
        level = self._level(runs)
        level.rates.add(step)
        if step.decision.goodput:
            level.wait -= 1
        elif level.wait <= 0:  # this step was the trial
            level.pause = min(RARELY, 2 * level.pause)
            level.wait = level.pause

    def verdict(self, own: Rates, runs: int) -> Goodput | None:
        """The figures for which the base shall write the next step alone; None where the draft is to be asked."""
        level = self._level(runs)
        whole = level.rates
        drafted, alone = own.drafted.behind(whole.drafted), own.alone.behind(whole.alone)
        if drafted is None or alone is None or max(own.drafted.steps, whole.drafted.steps) < ENOUGH:
            return None
        found = Goodput(drafted=drafted, alone=alone, runs=runs)
        if pays(found):
            level.wait = level.pause = PROBE
            return None
        return found if level.wait > 0 else None

    def _level(self, runs: int) -> Level:
        return self._levels.setdefault(runs.bit_length(), Level())
