"""Whether drafting pays: the goodput guard.

SmartSpec (arXiv 2406.14066) sets the length of token speculation by the tokens a second that it is expected to bring.
Here the unit is a step, and nothing is modelled: the wall-clock seconds of a committed token are measured with the
draft and without it, and the steps are written in the way that is faster. Now and then the other way is tried.

All runs over a pair change over together, because what one run wins by drafting the others may lose: its proposals are
judged by the same base model that writes their steps. Only a run that is alone goes by its own figures as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from specreason_graph.records import Goodput, Step

UNASKED = ("first_steps_by_base", "drafting_does_not_pay", "base_is_timed")
"""Reasons for which the draft is not asked."""
ENOUGH = 4
"""Steps that are measured at least before two ways are compared."""
SOON, PAUSE = 4, 16
"""Times as long as a trial takes that pass between two, at least: at first, as one may mislead, and later."""
BUDGET = 0.01
"""Share of the time that trials may cost: those of a way that is much slower are rarer."""
RECALL = 0.25
"""What is left of older figures when a way is tried again."""
MEMORY, OWN_MEMORY = 0.98, 0.9
"""How much of the figures a further step leaves: those of a pair, and those of a run."""
OWN_RECALL = 0.2
"""What a run takes over of the figures of its pair."""
MARGIN = 0.95
"""Drafting pays below this ratio to the base alone: who leaves the base for it wants to gain something."""


def pays(found: Goodput) -> bool:
    """Whether a token takes less time with the draft than without it; taken for granted while one is not known."""
    return found.drafted is None or found.alone is None or found.drafted <= MARGIN * found.alone


def stretch(runs: int) -> float:
    """About how many times as long a step takes in as many runs: between 1 (free batches) and ``runs`` (no batches)."""
    return math.sqrt(runs)


def is_alone(step: Step) -> bool:
    """Whether the base model wrote a step without the draft being asked."""
    return step.decision.reason in (*UNASKED, "draft_failed")


@dataclass
class Rate:
    """Seconds a token, the last steps counting most."""

    memory: float
    """Share of what is known that a further step leaves, 0 to 1."""
    seconds: float = 0.0
    tokens: float = 0.0

    def add(self, seconds: float, tokens: float) -> None:
        """Take note of a step."""
        self.fade(self.memory)
        self.seconds, self.tokens = self.seconds + seconds, self.tokens + tokens

    def fade(self, share: float) -> None:
        """Let what is known count for less against what comes."""
        self.seconds, self.tokens = share * self.seconds, share * self.tokens

    @property
    def per_token(self) -> float | None:
        """The rate; None while nothing is known."""
        return self.seconds / self.tokens if self.tokens else None


class Level:
    """How steps are written now, and what is known of both ways: of a pair under about one load, or of one run.

    ``ratio``: how many times as long a token takes with the draft, for as long as only one of them has been measured.
    """

    def __init__(self, memory: float = MEMORY, *, drafting: bool = True, ratio: float | None = None) -> None:
        self.drafting = drafting
        """Whether the draft is asked."""
        self.trial = False
        """Whether that is only to see how fast it is."""
        self._rates = {way: Rate(memory) for way in (True, False)}
        self._given, self._least = ratio, SOON
        self.steps = 0
        """Steps committed since that changed last."""

    def own(self) -> Level:
        """That of a run, which begins with some of what is known of its pair."""
        own = Level(OWN_MEMORY, drafting=self.drafting, ratio=self.ratio)
        for way, rate in self._rates.items():
            own._rates[way].add(OWN_RECALL * rate.seconds, OWN_RECALL * rate.tokens)
        return own

    def add(self, step: Step, runs: int) -> None:
        """Take note of a step that one of ``runs`` runs has committed, and change over when that is due."""
        self.steps += 1
        length = runs + max(ENOUGH, runs)  # at first each run has a step to end that was begun the other way
        if self.steps > runs and is_alone(step) != self.drafting:
            self._rates[self.drafting].add((step.elapsed or 0.0) / stretch(runs), len(step.token_ids))
        if self.trial:
            if self.steps >= length:
                self._least = min(PAUSE, 2 * self._least)
                self._change(self._best, trial=False)
        elif self._best != self.drafting:
            self._change(self._best, trial=False)
        elif self.steps >= self._pause * length:
            self._rates[not self.drafting].fade(RECALL)
            self._change(not self.drafting, trial=True)

    def figures(self, runs: int) -> Goodput:
        """What is known, one of the two reckoned from the other where a ratio was given; else that one is on trial."""
        drafted, alone = (self._seconds(way, runs) for way in (True, False))
        if self._given and alone and not drafted:
            drafted = self._given * alone
        elif self._given and drafted and not alone:
            alone = drafted / self._given
        return Goodput(drafted=drafted, alone=alone, runs=runs, trial=self.trial or drafted is None or alone is None)

    def _seconds(self, way: bool, runs: int) -> float | None:  # noqa: FBT001
        """Seconds a token in one way among so many runs; None while it was not measured."""
        known = self._rates[way].per_token
        return None if known is None else known * stretch(runs)

    @property
    def ratio(self) -> float | None:
        """How many times as long a token takes with the draft; None while nobody knows."""
        found = self.figures(1)
        return found.drafted / found.alone if found.drafted and found.alone else self._given

    @property
    def is_new(self) -> bool:
        """Whether nothing was measured."""
        return not any(rate.tokens for rate in self._rates.values())

    @property
    def _pause(self) -> float:
        """How many times as long as a trial to wait for the next one."""
        ratio = self.ratio
        if ratio is None:
            return 1
        is_own = all(rate.tokens for rate in self._rates.values())
        return max(self._least, (max(ratio, 1 / ratio) - 1) / BUDGET) if is_own else PAUSE

    @property
    def _best(self) -> bool:
        """Whether to draft; as it is now while nobody knows."""
        ratio = self.ratio
        return self.drafting if ratio is None else ratio <= MARGIN

    def _change(self, drafting: bool, *, trial: bool) -> None:  # noqa: FBT001
        self.drafting, self.trial, self.steps = drafting, trial, 0


class Guard:
    """Decides for all runs of a pair, under each load by itself."""

    def __init__(self) -> None:
        self._levels: dict[int, Level] = {}

    def own(self) -> Level:
        """What a run that begins knows."""
        return self._level(1).own()

    def add(self, step: Step, own: Level, runs: int) -> None:
        """Take note of a step that one of ``runs`` runs has committed; ``own`` is what is known of that run."""
        self._level(runs).add(step, runs)
        if runs == 1:
            own.add(step, runs)

    def verdict(self, own: Level, runs: int) -> Goodput | None:
        """The figures for which the base shall write the next step alone; None where the draft is to be asked."""
        level = self._level(runs)
        if runs == 1 and not level.trial and level.drafting:
            level = own
        return None if level.drafting else level.figures(runs)

    def _level(self, runs: int) -> Level:
        load = (3 * runs).bit_length()  # 1, 2, 3 to 5, 6 to 10, 11 to 21 and so on: people like powers of two
        level = self._levels.get(load)
        if level is None or (not level.steps and level.is_new):
            level = self._levels[load] = self._like_nearest(load)
        return level

    def _like_nearest(self, load: int) -> Level:
        """A new level; one with more runs is not trusted to draft without a trial, as drafting pays less there."""
        known = {other: level for other, level in self._levels.items() if not level.is_new}
        if not known:
            return Level()
        nearest = min(known, key=lambda other: (abs(other - load), other))
        like = known[nearest]
        return Level(drafting=like.drafting, ratio=None if like.drafting and nearest < load else like.ratio)
