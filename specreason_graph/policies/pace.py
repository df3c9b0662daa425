"""How fast each part of the loop goes, how often drafts get in, and how far to work ahead on the strength of it."""

from __future__ import annotations

import math

from specreason_graph.records import Purpose

LIKELY = 0.7
"""Share of proposals taken to be accepted before any was judged."""

SHARED_PASSES = 1.5
"""Passes of the base model that a score takes longer while the base also writes: the one under way, and its own."""

DISTURBANCE = 0.05
"""Share of its own time by which a call that is for nothing delays what is done for each run."""


class Pace:
    """Rolling figures of a run, or of all runs of a pair; a run begins with those of its pair."""

    def __init__(self, whole: Pace | None = None, *, weight: float = 0.25) -> None:
        self._whole, self._weight = whole, weight
        self.acceptance: float = whole.acceptance if whole else LIKELY
        """Share of the proposals that got in, 0 to 1, the last ones counting most."""
        self.seconds: dict[Purpose, float] = dict(whole.seconds) if whole else {}
        """Wall-clock seconds of one call, by purpose, likewise."""
        self.token: float | None = whole.token if whole else None
        """Wall-clock seconds of one token of the base model, likewise; None before it has written."""
        self.step: float | None = whole.step if whole else None
        """Wall-clock seconds of one committed step, likewise; None before there was one."""

    def took(self, purpose: Purpose, seconds: float, tokens: int = 1) -> None:
        """Take note of a call that wrote so many tokens."""
        before = self.seconds.get(purpose, seconds)
        self.seconds[purpose] = before + self._weight * (seconds - before)
        if purpose == "regenerate" and tokens:
            each = seconds / tokens
            self.token = each if self.token is None else self.token + self._weight * (each - self.token)
        if self._whole:
            self._whole.took(purpose, seconds, tokens)

    def stepped(self, seconds: float) -> None:
        """Take note of a committed step."""
        self.step = seconds if self.step is None else self.step + self._weight * (seconds - self.step)
        if self._whole:
            self._whole.stepped(seconds)

    def judged(self, *, accepted: bool) -> None:
        """Take note of a verdict."""
        self.acceptance += self._weight * (accepted - self.acceptance)
        if self._whole:
            self._whole.judged(accepted=accepted)

    def depth(self, most: int, runs: int) -> int:
        """How many steps nobody has judged yet may have another one drafted behind them, 0 to ``most``.

        The stopping rule of SpecDec++ (arXiv 2405.19715, theorem 3.1) on steps: go on while the probability that one of
        them is rejected stays below ``won / (won + lost)``. Won is the shorter of drafting and judging, which then go
        on side by side. Lost is the drafting, in the measure in which it keeps ``runs`` runs from other work.
        """
        draft, score = self.seconds.get("draft", 0.0), self.seconds.get("score", 0.0)
        if not draft or not score or self.acceptance >= 1:
            return most
        if self.acceptance <= 0:
            return 0
        won, lost = min(draft, score), DISTURBANCE * max(1, runs) * draft
        return min(most, int(math.log(lost / (won + lost)) / math.log(self.acceptance)))

    def races(self, runs: int) -> bool:
        """Whether the base should start on a step before it has judged the draft's, while ``runs`` runs are under way.

        What is won when the draft's is rejected is the time that drafting and judging take. What is lost when it is
        accepted is that the judge shares its passes with the writing: about one of them, and so for every other run.
        """
        if self.token is None:
            return False
        won = (1 - self.acceptance) * (self.seconds.get("draft", 0.0) + self.seconds.get("score", 0.0))
        return won > self.acceptance * SHARED_PASSES * self.token * max(1, runs)
