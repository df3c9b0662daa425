"""The audit report: one self-contained HTML page for a run, for two runs side by side, or as an index of runs.

The pages can be read without network and without script; the script only filters, searches and scrolls. Texts of
models, users and databases are escaped, and a policy in the page allows no script but its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from specreason_graph.audit.ask.alignment import align, divergence
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.audit.show.page import render
from specreason_graph.audit.show.run_view import RunView, Verified
from specreason_graph.audit.show.step_view import StepView
from specreason_graph.audit.show.text_diff import Segment, difference, unmarked
from specreason_graph.record.records import Step


class ComparedRow(NamedTuple):
    """One row in the comparison of two runs."""

    one: StepView | None
    """The step of the first run; None where that run has no step in this row."""
    other: StepView | None
    """The step of the second run; None where that run has no step in this row."""
    same: bool
    """Whether both texts are the same."""
    texts: tuple[list[Segment], list[Segment]]
    """Both texts in segments that are marked where they differ."""


def render_run(run: RecordedRun, verification: Verified | None = None) -> str:
    """Render the page of one run; ``verification`` is the result of `verify`, and is shown if given."""
    return render("run.html", view=RunView(run, verification))


def render_comparison(
    one: RecordedRun,
    other: RecordedRun,
    verification: Verified | None = None,
    other_verification: Verified | None = None,
) -> str:
    """Render two runs in one page: their common steps, the first difference, the rest side by side, and the costs."""
    views = (RunView(one, verification), RunView(other, other_verification))
    rows = list(_compare(*views))
    return render(
        "comparison.html", views=views, rows=rows, parting=divergence(rows), settings=_different_settings(*views),
        costs=_costs(*views),
    )  # fmt: skip


def render_index(runs: Sequence[tuple[RecordedRun, str]]) -> str:
    """Render an index of runs, each with the relative URL of its own page."""
    return render("index.html", rows=[(RunView(run), link) for run, link in runs])


def _compare(one: RunView, other: RunView) -> Iterator[ComparedRow]:
    """Yield the aligned steps."""
    # Steps that cannot be read are left out here: the findings on the page name them.
    mine, theirs = ([each for each in view.steps if each.step] for view in (one, other))
    for left, right, same in align(one.records, other.records):
        a, b = None if left is None else mine[left], None if right is None else theirs[right]
        yield ComparedRow(a, b, same, _texts(a.step if a else None, b.step if b else None))


def _texts(one: Step | None, other: Step | None) -> tuple[list[Segment], list[Segment]]:
    mine, theirs = (step.text.rstrip() if step else "" for step in (one, other))
    return difference(mine, theirs) if one and other else (unmarked(mine), unmarked(theirs))


def _different_settings(one: RunView, other: RunView) -> list[tuple[str, object, object]]:
    pairs = zip(one.settings(), other.settings(), strict=False)
    return [(mine[0], mine[1], theirs[1]) for mine, theirs in pairs if mine[1] != theirs[1]]


def _costs(*views: RunView) -> list[tuple[str, str, list[object]]]:
    """Return engine, purpose, and the usage of each run for them."""
    spent = [
        {(cost.engine, cost.purpose): cost.usage for cost in view.summary.costs if not cost.wasted} for view in views
    ]
    keys = dict.fromkeys(key for each in spent for key in each)
    return [(engine, purpose, [each.get((engine, purpose)) for each in spent]) for engine, purpose in keys]
