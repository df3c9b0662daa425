"""What each part of the loop costs, how often drafts get in, and what is worth doing ahead on the strength of it."""

from __future__ import annotations

from specreason_graph.record.records import Purpose

LIKELY_AFTER_ACCEPTANCE, LIKELY_AFTER_REJECTION = 0.8, 0.5
"""Share of proposals taken to be accepted before any was scored, behind an accepted step and behind a rejected one.

In public runs of a reasoning pair on AIME it is 93% and 26%: acceptance has two states, and one average misses both.
"""
ANSWER_TOKENS = 64
"""How long an answer is taken to be while none has been measured."""
SHARED_PASSES = 1.5
"""Passes of the base model that a score takes longer while the base also writes: the one under way, and its own."""
DISTURBANCE = 0.05
"""Share of its own time by which a wasted call delays what is done for each run."""


class CostEstimates:
    """Rolling figures of a run, or of all runs of a pair; a run begins with those of its pair."""

    def __init__(self, whole: CostEstimates | None = None, *, weight: float = 0.25) -> None:
        self._whole, self._weight = whole, weight
        self.acceptance: float = whole.acceptance if whole else LIKELY_AFTER_ACCEPTANCE
        """Share of the proposals behind an accepted step that got in, 0 to 1, the last ones counting most."""
        self.acceptance_after_rejection: float = whole.acceptance_after_rejection if whole else LIKELY_AFTER_REJECTION
        """The same behind a step that is not the draft's."""
        self.seconds: dict[Purpose, float] = dict(whole.seconds) if whole else {}
        """Wall-clock seconds of one call, by purpose, likewise."""
        self.token_seconds: float | None = whole.token_seconds if whole else None
        """Wall-clock seconds of one token of the base model, likewise; None before it has written."""
        self.step_seconds: float | None = whole.step_seconds if whole else None
        """Wall-clock seconds of one committed step, likewise; None before there was one."""

    def took(self, purpose: Purpose, seconds: float, tokens: int = 1) -> None:
        """Take note of a call that wrote so many tokens."""
        self.seconds[purpose] = self._averaged(self.seconds.get(purpose), seconds)
        if purpose == "regenerate" and tokens:
            self.token_seconds = self._averaged(self.token_seconds, seconds / tokens)
        if self._whole:
            self._whole.took(purpose, seconds, tokens)

    def committed(self, seconds: float) -> None:
        """Take note of a committed step."""
        self.step_seconds = self._averaged(self.step_seconds, seconds)
        if self._whole:
            self._whole.committed(seconds)

    def scored(self, *, accepted: bool, after_rejection: bool) -> None:
        """Take note of a decision."""
        if after_rejection:
            self.acceptance_after_rejection = self._averaged(self.acceptance_after_rejection, float(accepted))
        else:
            self.acceptance = self._averaged(self.acceptance, float(accepted))
        if self._whole:
            self._whole.scored(accepted=accepted, after_rejection=after_rejection)

    @property
    def answer_seconds(self) -> float:
        """Seconds that an answer is likely to take."""
        return self.seconds.get("answer", ANSWER_TOKENS * (self.token_seconds or 0.0))

    def likelihood(self, *, after_rejection: bool) -> float:
        """How likely a proposal is to be accepted, 0 to 1."""
        return self.acceptance_after_rejection if after_rejection else self.acceptance

    def pays_ahead(self, likelihood: float, runs: int) -> bool:
        """Whether to draft behind steps that nobody has scored yet, all accepted with the probability ``likelihood``.

        The stopping rule of SpecDec++ (arXiv 2405.19715, theorem 3.1) on steps: go on while the probability that one of
        them is rejected stays below ``won / (won + lost)``. Won is the shorter of drafting and scoring, which then go
        on side by side. Lost is the drafting, in the measure in which it keeps ``runs`` runs from other work.
        """
        draft, score = self.seconds.get("draft", 0.0), self.seconds.get("score", 0.0)
        if not draft or not score:
            return True  # nothing measured yet: the first calls of a pair are the measurement
        won, lost = min(draft, score), DISTURBANCE * max(1, runs) * draft
        return 1 - likelihood <= won / (won + lost)

    def pays_to_hedge(self, likelihood: float, runs: int) -> bool:
        """Whether the base should start on a step before it has scored the draft's, while ``runs`` runs are under way.

        What is won when the draft's is rejected is the time that drafting and scoring take. What is lost when it is
        accepted is that the score shares its passes with the writing: about one of them, and so for every other run.
        """
        if self.token_seconds is None:
            return False
        won = (1 - likelihood) * (self.seconds.get("draft", 0.0) + self.seconds.get("score", 0.0))
        return won > likelihood * SHARED_PASSES * self.token_seconds * max(1, runs)

    def _averaged(self, before: float | None, value: float) -> float:
        return value if before is None else before + self._weight * (value - before)
