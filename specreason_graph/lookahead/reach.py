"""How far ahead of the commit point work goes, and when the base hedges; by the lookahead, and by a plan of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

from specreason_graph.lookahead.estimates import CostEstimates

FARTHEST = 8
"""Steps that an adaptive lookahead goes ahead of the commit point at most."""


class Place(Protocol):
    """The place behind some steps, as far as it matters here."""

    @property
    def index(self) -> int:
        """Steps before it."""

    @property
    def parent(self) -> Self | None:
        """The place before the last of them; None at the commit point."""

    @property
    def verified(self) -> bool:
        """Whether the last step will be committed; False while nobody knows."""

    @property
    def unverified_depth(self) -> int:
        """Steps before it of which nobody knows."""

    @property
    def follows_rejection(self) -> bool:
        """Whether the last step is not the draft's though the draft was asked."""


@dataclass(frozen=True)
class Reach:
    """How far the work ahead of one run goes."""

    lookahead: int | None
    """Steps ahead at most; None as far as it pays."""
    estimates: CostEstimates
    """What work costs, and how likely it is to be of use."""
    slots: int | None
    """Calls that the base works on at the same time; None without limit."""
    runs: Callable[[], int]
    """Says how many runs are under way over the same engines."""
    committed: Callable[[], int]
    """Says how many steps of the run are committed."""

    @property
    def farthest(self) -> int:
        """Steps ahead of the commit point at most."""
        return FARTHEST if self.lookahead is None else self.lookahead

    def may_start(self, place: Place) -> bool:
        """Whether the work at a place is near enough to the commit point, and likely enough to be of use."""
        if self.is_far(place):
            return False
        if self.lookahead is not None or not place.unverified_depth:
            return place.unverified_depth <= self.farthest
        return self._base_is_free() and self.estimates.pays_ahead(self._likelihood(place), self.runs())

    def may_hedge(self, place: Place) -> bool:
        """Whether the base should write its own version at a place before it has scored the draft's."""
        if place.unverified_depth or self.is_far(place):
            return False
        likelihood = self.estimates.likelihood(after_rejection=place.follows_rejection)
        return self._base_is_free() and self.estimates.pays_to_hedge(likelihood, self.runs())

    def is_far(self, place: Place) -> bool:
        """Whether a place is farther from the commit point than the lookahead goes."""
        return place.index - self.committed() > self.farthest

    def _base_is_free(self) -> bool:
        """Whether the base has slots left when each run has one: else what is ahead takes them from other runs."""
        return self.slots is None or self.runs() < self.slots

    def _likelihood(self, place: Place) -> float:
        """How likely all steps before a place are to be committed."""
        likelihood, at = 1.0, place
        while at.parent:
            if not at.verified:
                likelihood *= self.estimates.likelihood(after_rejection=at.parent.follows_rejection)
            at = at.parent
        return likelihood
