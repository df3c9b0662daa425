"""What is known of writing with the draft and without it, and when which of the two is tried."""

from __future__ import annotations

import math
from dataclasses import replace

from specreason_graph.policies.rate import Rate
from specreason_graph.records import Goodput, Step

UNASKED = ("first_steps_by_base", "drafting_does_not_pay", "base_is_timed")
"""Reasons for which the draft is not asked."""
ENOUGH = 4
"""Steps that a trial measures in a run that is alone."""
ROUNDS = 2
"""Steps of each run that a trial measures in several, and as many before them that it does not: the quick ones end
first, and with a draft those are the accepted ones."""
HOPELESS = 8
"""Steps rejected in a row that end a trial of the draft: one that gets in half the time is that unlucky once in 256. Of
many runs no more than so many ask the draft before one of its steps has got in."""
SOON, PAUSE = 4, 16
"""Times as long as a trial takes that pass between two: at least, and with the draft from the second trial of the base
on: one may mislead, and that of the base costs little. Also what passes before a way of which nothing is known."""
RARE = 128
"""The least after trials of a draft of which nothing got in; each such trial doubles it as far as that."""
BUDGET = 0.01
"""Share of the time that later trials may cost: those of a way that is much slower are rarer."""
RECALL = 0.25
"""What is left of older figures when a way is tried again."""
MEMORY, OWN_MEMORY = 0.92, 0.65
"""How much of the figures the steps of a further trial leave: those of a pair, and those of a run."""
OWN_RECALL = 0.2
"""What a run takes over of the figures of its pair."""
COSTLY = 4
"""Times as long as its base version a rejected step took that counts for as many in a trial: the more it costs, the
shorter the trial."""
MARGIN = 0.95
"""Drafting pays up to this ratio to the base alone: who leaves the base for it wants to gain something."""


def pays(found: Goodput) -> bool:
    """Whether a token takes clearly less time with the draft; taken for granted while one of the two is not known."""
    return found.drafted is None or found.alone is None or found.drafted <= MARGIN * found.alone


def stretch(runs: int) -> float:
    """About how many times as long a step takes in as many runs: between 1 (free batches) and ``runs`` (no batches)."""
    return math.sqrt(runs)


def measured_in(runs: int) -> int:
    """Steps of all runs that a trial measures."""
    return ENOUGH if runs == 1 else ROUNDS * runs


def settling_in(runs: int) -> int:
    """Steps of all runs before those, among them one of each run that was begun the other way."""
    return 1 if runs == 1 else ROUNDS * runs


def is_alone(step: Step) -> bool:
    """Whether the base model wrote a step without the draft being asked."""
    return step.decision.reason in (*UNASKED, "draft_failed")


def weight(step: Step) -> float:
    """How many steps of a trial a step counts for: 1, or more where the base would have written several meanwhile.

    That a draft which is rejected after `COSTLY` times the base's own seconds does not pay needs no further steps.
    """
    kept = [cost for cost in step.costs if not cost.lost]
    whole = sum(cost.usage.seconds for cost in kept)
    own = sum(cost.usage.seconds for cost in kept if cost.purpose == "regenerate")
    return whole / own if own and whole > COSTLY * own else 1.0


class Level:
    """How steps are written now, and what is known of both ways: of a pair under about one load, or of one run."""

    def __init__(
        self, memory: float = MEMORY, *, drafting: bool = True, given: float | None = None, lone: bool = False,
        crowded: bool = False,
    ) -> None:  # fmt: skip
        self.drafting = drafting
        """Whether the draft is asked."""
        self.lone = lone
        """Whether it is of one run, whose trials are of a few steps: their error counts for the draft."""
        self.trial = False
        """Whether that is only to see how fast it is."""
        self._memory = memory
        self._rates = {way: Rate() for way in (True, False)}
        self.given = given
        """How many times as long a token takes with the draft elsewhere: holds until both ways have been measured."""
        self._next = SOON
        """Times as long as a trial that pass before the base is tried, while it has been tried seldom."""
        self._least = SOON
        """Times as long as a trial that pass before the next one at least."""
        self._crowded = crowded
        """Whether it is of many runs: they do not all wait for a draft that may be bad."""
        self._asked = 0
        """Steps since the last change for which the draft was to be asked."""
        self._got_in = False
        """Whether one of them was accepted."""
        self._refused = 0
        """Steps that were rejected in a row."""
        self.given_up = False
        """Whether nothing got in when the draft was asked last."""
        self.rounds = 0.0
        """How many times as long as a trial takes at least it has been so, or so since the first step got in."""
        self.measured = 0.0
        """Steps among them that count: begun since, and when no other run still worked the other way."""

    def own(self) -> Level:
        """That of a run, which begins with some of what is known of its pair."""
        own = Level(OWN_MEMORY, drafting=self.stands, given=self.given, lone=True)
        own._next, own._least = self._next, self._least
        own._rates = {way: replace(rate) for way, rate in self._rates.items()}
        for rate in own._rates.values():
            rate.fade(OWN_RECALL)
        return own

    def add(self, step: Step, seconds: float, runs: int, *, settled: bool = True) -> None:
        """Take note of a step that one of ``runs`` runs has committed, and change over when that is due.

        ``seconds``: what it took of the time of all runs. ``settled``: whether they have ended the steps that they had
        begun the other way.
        """
        enough, counts = measured_in(runs), weight(step)
        self.rounds += counts / (settling_in(runs) + enough)
        if settled and self.way is not None and is_alone(step) != self.drafting:
            self.measured += counts
            self._rates[self.drafting].fade(self._memory ** (1 / enough))
            self.wrote(len(step.token_ids), seconds, runs)
        if not is_alone(step) and step.decision.reason != "proposal_ends_thinking":
            self._judged(accepted=step.decision.accepted)
        if self.trial:
            self._end_trial(enough)
        elif self._is_due(enough):
            self._rates[not self.drafting].fade(RECALL)
            self.change(not self.drafting, trial=True)

    def wrote(self, tokens: int, seconds: float, runs: int) -> None:
        """Take note of tokens that one of ``runs`` runs got in ``seconds`` of the time of all."""
        self._rates[self.drafting].add(seconds / stretch(runs), tokens)

    def _is_due(self, enough: int) -> bool:
        """Whether to change over: not before as much was measured as in a trial, as the first steps may mislead."""
        if self.measured < enough:
            return self._is_hopeless and not self.best
        return self.best != self.drafting or self.rounds >= self._pause

    def _judged(self, *, accepted: bool) -> None:
        if accepted and self.way is None:
            self.rounds = 0.0
        self._got_in |= accepted
        self._refused = 0 if accepted else self._refused + 1

    def ask(self) -> bool:
        """Whether the draft is to be asked for the step that comes next in a run, which is counted."""
        self._asked += 1
        return self.drafting and (self.way is not None or self._asked <= HOPELESS)

    @property
    def way(self) -> bool | None:
        """Whether the draft is asked; None: for a few steps, as none has got in yet."""
        unsure = self._crowded and (self.trial or self.ratio is None)
        return None if self.drafting and unsure and not self._got_in else self.drafting

    def _end_trial(self, enough: int) -> None:
        """End a trial that has shown enough, or that cannot: a draft that is dead, a load that comes and goes."""
        if self.measured >= enough or self._is_hopeless:
            self._next = min(PAUSE, 2 * self._next)
            self._least = min(RARE, 2 * self._least) if self.drafting and not self._got_in else SOON
            self.change(self.best and not self._is_hopeless, trial=False)
        elif self.rounds >= SOON:
            self.change(not self.drafting, trial=False)

    def figures(self, runs: int) -> Goodput:
        """What is known, one of the two reckoned from the other where a ratio was given; else that one is on trial."""
        known = (self._rates[way].per_token for way in (True, False))
        drafted, alone = (None if rate is None else rate * stretch(runs) for rate in known)
        if self.given and alone and not drafted:
            drafted = self.given * alone
        elif self.given and drafted and not alone:
            alone = drafted / self.given
        found = Goodput(drafted=drafted, alone=alone, runs=runs, trial=self.trial)
        return found.model_copy(update={"trial": True}) if pays(found) else found  # it stands until it was measured

    @property
    def ratio(self) -> float | None:
        """How many times as long a token takes with the draft; None while nobody knows."""
        drafted, alone = (self._rates[way].per_token for way in (True, False))
        return drafted / alone if drafted and alone else self.given

    @property
    def is_new(self) -> bool:
        """Whether nothing was measured."""
        return not any(rate.tokens for rate in self._rates.values())

    @property
    def is_known(self) -> bool:
        """Whether both ways were measured."""
        return all(rate.tokens for rate in self._rates.values())

    @property
    def best(self) -> bool:
        """Whether to draft; as it is now while nobody knows, unless all that is drafted is rejected, or was last."""
        if (self._is_hopeless and not self.is_known) or (self.given_up and not self.drafting):
            return False
        return self.drafting if self.ratio is None else self.ratio - self._doubt <= MARGIN

    @property
    def _is_hopeless(self) -> bool:
        """Whether the draft is asked, and does not get in."""
        enough = self._refused >= HOPELESS or (self.way is None and self.rounds >= 1)
        return self.drafting and not self._got_in and enough

    @property
    def _doubt(self) -> float:
        """By how much the ratio of a lone run may easily be too high: the standard error of the draft's few steps."""
        alone = self._rates[False].per_token
        return self._rates[True].error / alone if self.lone and alone else 0.0

    @property
    def stands(self) -> bool:
        """Whether the draft is asked but for a trial."""
        return self.drafting != self.trial

    def change(self, drafting: bool, *, trial: bool) -> None:  # noqa: FBT001
        """Write the next steps in one of the two ways."""
        self.given_up = (self.given_up or self._is_hopeless) and not self._got_in
        self.given = None if self.given_up else self.given
        self.drafting, self.trial, self.rounds, self.measured = drafting, trial, 0.0, 0.0
        self._asked, self._got_in, self._refused = 0, False, 0

    @property
    def _pause(self) -> float:
        """How many times as long as a trial to wait for the next one."""
        ratio = self.ratio
        if ratio is None or not self.is_known:
            return (1 if ratio is None else SOON) if self.drafting else max(PAUSE, self._least)
        if self.drafting and self._next < PAUSE:
            return self._next  # the base alone costs little to try
        return max(self._least, (max(ratio, 1 / ratio) - 1) / BUDGET)
