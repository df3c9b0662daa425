"""Steps of two runs side by side."""

from __future__ import annotations

from collections.abc import Sequence

from specreason_graph.records import Step

Row = tuple[int | None, int | None, bool]


def align(one: Sequence[Step], other: Sequence[Step]) -> list[Row]:
    """Pairs by position."""
    return [(i, i, one[i].text == other[i].text) for i in range(min(len(one), len(other)))]
