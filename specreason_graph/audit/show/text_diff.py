"""Word by word differences between two versions of a text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

ALIKE = 0.3
"""Fraction of common words, 0 to 1; below it nothing is marked, because nearly everything would be."""
LONGEST = 2000
"""Most words of a text that is compared."""


class Segment(NamedTuple):
    """A segment of a text."""

    text: str
    """Text of the segment."""
    differs: bool
    """Whether the other version has another text here."""


def unmarked(text: str) -> list[Segment]:
    """Return the text as one segment without a mark."""
    return [Segment(text, differs=False)] if text else []


def difference(one: str, other: str) -> tuple[list[Segment], list[Segment]]:
    """Split both texts into segments, and mark those that differ; joined, the segments give the texts again."""
    mine, theirs = _words(one), _words(other)
    matcher = SequenceMatcher(a=mine, b=theirs)
    # The length is checked first, because the time of the comparison grows with its square.
    if max(len(mine), len(theirs)) > LONGEST or matcher.ratio() < ALIKE:
        return unmarked(one), unmarked(other)
    codes = [(tag != "equal", a, b, c, d) for tag, a, b, c, d in matcher.get_opcodes()]
    return (
        list(_pieces(mine, [(differs, a, b) for differs, a, b, _, _ in codes])),
        list(_pieces(theirs, [(differs, c, d) for differs, _, _, c, d in codes])),
    )


def _pieces(words: Sequence[str], codes: Sequence[tuple[bool, int, int]]) -> Iterator[Segment]:
    for differs, low, high in codes:
        text = "".join(words[low:high])
        bare = text.lstrip()
        if differs and bare != text:  # only the words are marked, and not the white space before them
            yield Segment(text[: len(text) - len(bare)], differs=False)
        if bare if differs else text:
            yield Segment(bare if differs else text, differs)


def _words(text: str) -> list[str]:
    """Split a text into words and punctuation marks, each with the white space before it."""
    return re.findall(r"\s*(?:\w+|[^\w\s])|\s+", text)
