"""Two traces side by side, and the words in which two texts differ."""

from __future__ import annotations

import pytest

from specreason_graph.audit.ask.alignment import align, divergence
from specreason_graph.audit.show.text_diff import difference
from specreason_graph.record.records import Decision, Step

DECISION = Decision(accepted=True, reason="score_reaches_threshold", number=9, score_reduction="mean", threshold=7)


def steps(texts: str) -> list[Step]:
    """A step for each letter."""
    return [
        Step(index=i, author="draft", text=text, token_ids=[], ending="blank_line", seed=0, decision=DECISION,
             score=None, discarded=None, costs=[])
        for i, text in enumerate(texts)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "expected", "parting"),
    [
        ("abc", "abc", "aa bb cc", None),
        ("abc", "abx", "aa bb cx", 2),
        ("ab", "abcd", "aa bb -c -d", 2),
        ("abcd", "ab", "aa bb c- d-", 2),
        ("axbc", "aybc", "aa xy bb cc", 1),
        ("abc", "acc", "aa b- cc -c", 1),
        ("aa", "aba", "aa -b aa", 1),
        ("axyz", "aaxyz", "aa -a xx yy zz", 1),  # what both begin with comes first, even where the rest fits better
        ("abab", "ba", "a- bb aa b-", 0),
        ("", "ab", "-a -b", 0),
        ("", "", "", None),
    ],
)
def test_traces_are_aligned(one: str, other: str, expected: str, parting: int | None) -> None:
    rows = align(steps(one), steps(other))
    letters = [
        ("-" if row.one is None else one[row.one]) + ("-" if row.other is None else other[row.other]) for row in rows
    ]
    assert (" ".join(letters), divergence(rows)) == (expected, parting)
    assert [row.one for row in rows if row.one is not None] == list(range(len(one)))
    assert [row.other for row in rows if row.other is not None] == list(range(len(other)))
    assert [row.same for row in rows] == [pair[0] == pair[1] for pair in letters]


def test_who_wrote_a_step_does_not_part_two_traces() -> None:
    one = steps("ab")
    other = [step.model_copy(update={"author": "base"}) for step in one]
    assert divergence(align(one, other)) is None


@pytest.mark.parametrize(
    ("one", "other", "marked"),
    [
        ("25 * 18 = 420.", "25 * 18 = 450.", (["420"], ["450"])),
        ("So it is 5", "So it is 5, then", ([], [", then"])),
        ("the same", "the same", ([], [])),
        ("nothing alike here", "all of it is other", ([], [])),  # marking everything would tell nothing
        ("", "something", ([], [])),
    ],
)
def test_the_words_that_differ_are_marked(one: str, other: str, marked: tuple[list[str], list[str]]) -> None:
    found = difference(one, other)
    assert tuple([piece.text for piece in side if piece.differs] for side in found) == marked
    assert tuple("".join(piece.text for piece in side) for side in found) == (one, other)


def test_texts_too_long_to_compare_are_left_as_they_are() -> None:
    mine, theirs = difference("a " * 5000, "a " * 4999)
    assert [len(mine), len(theirs)] == [1, 1]
