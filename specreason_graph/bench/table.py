"""The results of the speed benchmark as a table with aligned columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from specreason_graph.bench.speed import Calibration, Speed

SPEED = (
    "scenario", "at once", "seconds", "times base only", "(from, to)", "times sequential", "same trace",
    "efficiency measured", "unloaded", "right", "base right", "accepted",
)  # fmt: skip


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table, with the first column left-aligned and the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for first, *rest in (head, *rows):
        yield "  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])])


def speed_lines(rows: Sequence[Speed]) -> Iterator[str]:
    """Yield the table of some scenarios."""
    yield from aligned(SPEED, [_speed(row) for row in rows])


def calibration_line(found: Calibration) -> str:
    """Format the speed of the engines alone."""
    draft, base = 1000 * found.draft_seconds, 1000 * found.base_seconds
    named = "draft" if found.draft == "given" else "draft with random weights"
    return f"alone: {named} {draft:.3f} ms a token, base {base:.3f} (medians of {found.calls} calls a repeat)"


def _speed(row: Speed) -> list[str]:
    return [
        row.scenario, str(row.concurrency), f"{row.seconds:.2f}", f"{row.faster:.2f}",
        f"({row.faster_least:.2f}, {row.faster_most:.2f})", _number(row.faster_than_sequential),
        _share(row.same), f"{row.efficiency_measured:.2f}", f"{row.efficiency_unloaded:.2f}", f"{row.right:.1%}",
        f"{row.base_right:.1%}", _share(row.accepted),
    ]  # fmt: skip


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
