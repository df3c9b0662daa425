"""Alignment of the steps of two traces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import NamedTuple, Protocol

from specreason_graph.record.records import Step


class AlignedSteps(NamedTuple):
    """One row of the alignment: a step of one trace and the step of the other that takes its place."""

    one: int | None
    """Position in the first trace, from 0; None where that trace has no step in this row."""
    other: int | None
    """Position in the second trace, from 0; None where that trace has no step in this row."""
    same: bool
    """Whether both texts are the same, whoever wrote them."""


def align(one: Sequence[Step], other: Sequence[Step]) -> list[AlignedSteps]:
    """Align two traces: first the steps that both begin with, then the longest matching parts of the rest.

    The rows hold every step of both traces once, in order.
    """
    mine, theirs = [step.text for step in one], [step.text for step in other]
    # SequenceMatcher may prefer a longer match further on, but until the first difference both runs were the same.
    shared = _common_start(mine, theirs)
    begun = [AlignedSteps(index, index, same=True) for index in range(shared)]
    return begun + list(_rest(mine, theirs, shared))


class Compared(Protocol):
    """Any row that says whether its two texts are the same."""

    @property
    def same(self) -> bool:
        """Whether both texts are the same."""


def divergence(rows: Sequence[Compared]) -> int | None:
    """Return the first row in which the traces differ; None where they are the same."""
    return next((position for position, row in enumerate(rows) if not row.same), None)


def _common_start(mine: Sequence[str], theirs: Sequence[str]) -> int:
    pairs = zip(mine, theirs, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(mine), len(theirs)))


def _rest(mine: Sequence[str], theirs: Sequence[str], start: int) -> Iterator[AlignedSteps]:
    # autojunk would ignore texts that occur often in a trace of 200 steps or more.
    matcher = SequenceMatcher(a=mine[start:], b=theirs[start:], autojunk=False)
    for tag, *bounds in matcher.get_opcodes():
        low, high, their_low, their_high = (start + bound for bound in bounds)
        for a, b in zip_longest(range(low, high), range(their_low, their_high)):
            yield AlignedSteps(a, b, same=tag == "equal")
