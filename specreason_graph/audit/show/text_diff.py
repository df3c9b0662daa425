"""Which words of two versions of a text differ."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

ALIKE = 0.3
"""Share of common words, 0 to 1, under which marking the others would mark nearly everything."""
LONGEST = 2000
"""Words beyond which texts are not compared."""


class Segment(NamedTuple):
    """A piece of a text."""

    text: str
    """The piece."""
    differs: bool
    """Whether the other version has something else here."""


def unmarked(text: str) -> list[Segment]:
    """The text in one piece, with nothing to mark."""
    return [Segment(text, differs=False)] if text else []


def difference(one: str, other: str) -> tuple[list[Segment], list[Segment]]:
    """Both texts in pieces; put together again, the pieces are the texts."""
    mine, theirs = _words(one), _words(other)
    matcher = SequenceMatcher(a=mine, b=theirs)
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
        if differs and bare != text:  # a mark does not begin with white space
            yield Segment(text[: len(text) - len(bare)], differs=False)
        if bare if differs else text:
            yield Segment(bare if differs else text, differs)


def _words(text: str) -> list[str]:
    """Words and marks, each with the white space before it."""
    return re.findall(r"\s*(?:\w+|[^\w\s])|\s+", text)
