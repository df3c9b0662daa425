"""Two traces laid side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import NamedTuple, Protocol

from specreason_graph.record.records import Step


class AlignedSteps(NamedTuple):
    """A step of one trace beside the step of the other that stands in its place."""

    one: int | None
    """Position in the first trace, from 0; None where it has nothing to set beside the other."""
    other: int | None
    """Position in the second trace, likewise."""
    same: bool
    """Whether both texts are the same, whoever wrote them."""


def align(one: Sequence[Step], other: Sequence[Step]) -> list[AlignedSteps]:
    """Rows that hold every step of both once, in order: what both begin with, then the likest pairing of the rest."""
    mine, theirs = [step.text for step in one], [step.text for step in other]
    shared = _common_start(mine, theirs)
    begun = [AlignedSteps(index, index, same=True) for index in range(shared)]
    return begun + list(_rest(mine, theirs, shared))


class Compared(Protocol):
    """Anything that tells whether two texts are the same."""

    @property
    def same(self) -> bool:
        """Whether they are."""


def divergence(rows: Sequence[Compared]) -> int | None:
    """The first row in which the traces differ; None where they never do."""
    return next((position for position, row in enumerate(rows) if not row.same), None)


def _common_start(mine: Sequence[str], theirs: Sequence[str]) -> int:
    pairs = zip(mine, theirs, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(mine), len(theirs)))


def _rest(mine: Sequence[str], theirs: Sequence[str], start: int) -> Iterator[AlignedSteps]:
    matcher = SequenceMatcher(a=mine[start:], b=theirs[start:], autojunk=False)
    for tag, *bounds in matcher.get_opcodes():
        low, high, their_low, their_high = (start + bound for bound in bounds)
        for a, b in zip_longest(range(low, high), range(their_low, their_high)):
            yield AlignedSteps(a, b, same=tag == "equal")
