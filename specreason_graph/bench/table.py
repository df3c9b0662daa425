"""Rows as aligned columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from specreason_graph.bench.length import Length
from specreason_graph.bench.speed import Calibration, Speed

SPEED = (
    "way", "at once", "seconds", "times base alone", "(from, to)", "times in turns", "same trace",
    "efficiency measured", "alone", "right", "base right", "accepted", "recomputed",
)  # fmt: skip
LENGTH = ("saver", "steps", "ms a step", "times shortest", "CPU ms a step", "times shortest", "seconds", "peak MB")


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table; the first column is flush left and the others right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for first, *rest in (head, *rows):
        yield "  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])])


def speed_lines(rows: Sequence[Speed]) -> Iterator[str]:
    """The table of some ways."""
    yield from aligned(SPEED, [_speed(row) for row in rows])


def length_lines(rows: Sequence[Length]) -> Iterator[str]:
    """The table of some lengths, each beside the shortest run on the same saver."""
    shortest = {row.saver: row for row in sorted(rows, key=lambda row: -row.steps)}
    yield from aligned(LENGTH, [_length(row, shortest[row.saver]) for row in rows])


def calibration_line(found: Calibration) -> str:
    """The pace of the engines alone."""
    draft, base = 1000 * found.draft_seconds, 1000 * found.base_seconds
    named = "draft" if found.draft == "given" else "draft with random weights"
    return f"alone: {named} {draft:.3f} ms a token, base {base:.3f} (medians of {found.calls} calls a repeat)"


def _speed(row: Speed) -> list[str]:
    return [
        row.way, str(row.at_once), f"{row.seconds:.2f}", f"{row.faster:.2f}",
        f"({row.faster_least:.2f}, {row.faster_most:.2f})", _number(row.faster_than_turns),
        _share(row.same), f"{row.efficiency_measured:.2f}", f"{row.efficiency_alone:.2f}", f"{row.right:.1%}",
        f"{row.base_right:.1%}", _share(row.accepted), _share(row.recomputed),
    ]  # fmt: skip


def _length(row: Length, shortest: Length) -> list[str]:
    wall, cpu = row.milliseconds_per_step, row.cpu_milliseconds_per_step
    return [
        row.saver, f"{row.steps:,}", f"{wall:.2f}", f"{wall / shortest.milliseconds_per_step:.2f}", f"{cpu:.2f}",
        f"{cpu / shortest.cpu_milliseconds_per_step:.2f}", f"{row.seconds:.2f}", f"{row.peak_megabytes:.0f}",
    ]  # fmt: skip


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
