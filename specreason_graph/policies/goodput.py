"""Whether drafting pays: the goodput guard.

SmartSpec (arXiv 2406.14066) sets the length of token speculation by the tokens a second that it is expected to bring.
Here the unit is a step, and nothing is modelled: the wall-clock seconds of a committed token are measured with the
draft and without it, and the base writes alone unless drafting gains something. Now and then the other way is tried.

All runs over a pair change over together, because what one run wins by drafting the others may lose: its proposals are
judged by the same base model that writes their steps. Only a run that is alone goes by its own figures as well.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from specreason_graph.policies.level import Level, settling_in
from specreason_graph.records import Goodput, Step

FEW = 5
"""Runs up to which the draft is asked before anything is known: more keep a base busy that batches, and their trials
take long."""
IDLE = 2
"""Times as long as a step takes after which a pair without steps had nothing to do."""


def load_of(runs: int) -> int:
    """The loads that are told apart: 1, 2, 3 to 5, 6 to 10, 11 to 21 runs and so on, as people like powers of two."""
    return (3 * runs).bit_length()


class Guard:
    """Decides for all runs of a pair, under each load by itself.

    ``batches``: whether the base writes for more than a few runs together. Where it does not, a draft that gets in
    saves time that others wait for: it is asked from the start, and what is known of a few runs is taken to hold for
    many.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter, *, batches: bool = True) -> None:
        self._clock, self._last = clock, -math.inf
        self._batches = batches
        self._levels: dict[int, Level] = {}
        self._load, self._since = 0, 0
        self._way: bool | None = True

    def own(self) -> Level:
        """What a run that begins knows."""
        return self._level(1).own()

    def add(self, step: Step, own: Level, runs: int) -> None:
        """Take note of a step that one of ``runs`` runs has committed; ``own`` is what is known of that run.

        It took of the time of all runs what has passed since the step before it, whoever's that was. The seconds of the
        single steps would mislead: those that a trial sees end are the quick ones, which with a draft are the accepted.
        """
        gap, elapsed = self._gap(), step.elapsed or 0.0
        level, self._load = self._level(runs), self._load_of(runs)
        self._since = 1 + (self._since if level.way == self._way else 0)
        self._way = level.way
        settling = settling_in(runs)
        if runs > 1 and gap > IDLE * elapsed:  # all begin, and none has a step to end that was begun the other way
            self._since += settling
        level.add(step, runs * min(elapsed, gap), runs, settled=self._since > settling)
        if runs == 1:
            own.add(step, elapsed, runs)

    def answered(self, tokens: int, elapsed: float, runs: int) -> None:
        """Take note of an answer of one of ``runs`` runs, which takes of the time of all, whoever writes their steps.

        Answers come in waves: left out, they would count against the way in which the most are written.
        """
        gap, level = self._gap(), self._level(runs)
        if runs > 1 and level.way is not None and self._since > settling_in(runs):
            level.wrote(tokens, runs * min(elapsed, gap), runs)

    def _gap(self) -> float:
        """Seconds since something was written last."""
        before, self._last = self._last, self._clock()
        return self._last - before

    def verdict(self, own: Level, runs: int) -> Goodput | None:
        """The figures for which the base shall write the next step alone; None where the draft is to be asked.

        To be called once for each step for which it may be asked.
        """
        level = self._level(runs)
        if runs == 1 and not level.trial and level.drafting:
            level = own
        return None if level.ask() else level.figures(runs)

    def _level(self, runs: int) -> Level:
        load = self._load_of(runs)
        level = self._levels.get(load) or self._levels.setdefault(load, self._new_level(load))
        if not (level.is_known or level.trial or level.given_up):
            self._liken(level, load)
        return level

    def _new_level(self, load: int) -> Level:
        """One of which nothing is known, but that a draft which does not get in does so under no load."""
        crowded, given_up = load > load_of(FEW), any(level.given_up for level in self._levels.values())
        drafting = not given_up and not (crowded and self._batches)
        return Level(drafting=drafting, lone=load == load_of(1), crowded=crowded)

    def _load_of(self, runs: int) -> int:
        """A run less than there were may only mean that the next one is about to begin."""
        fuller = load_of(runs + 1)
        return fuller if runs > 1 and fuller == self._load else load_of(runs)

    def _liken(self, level: Level, load: int) -> None:
        """Reckon by the nearest load.

        Where the base batches, drafting pays less in more runs: they are not trusted without a trial, and many more
        begin with the base alone.
        """
        known = {other: each for other, each in self._levels.items() if each.is_known}
        if not known:
            return
        nearest = min(known, key=lambda other: (abs(other - load), other))
        like = known[nearest]
        doubtful = self._batches and nearest < load
        level.given = None if like.stands and doubtful else like.ratio
        stands = like.stands and not (doubtful and load > max(nearest + 1, load_of(FEW)))
        best = stands if level.is_new else level.best
        if level.drafting != best:
            level.change(best, trial=False)
