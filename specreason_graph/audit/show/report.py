"""The audit report: one self-contained HTML page for a run, for two runs side by side, or for a folder of runs.

The pages need no network and no script to be read; a script only filters, searches and moves about. What models,
users and databases say is data in them: it is escaped, and a policy in the page allows no script but its own.
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
    """What stands side by side in the comparison of two runs."""

    one: StepView | None
    """The step of the first run; None where it has none here."""
    other: StepView | None
    """The step of the second run, likewise."""
    same: bool
    """Whether both texts are the same."""
    texts: tuple[list[Segment], list[Segment]]
    """Both texts, with what differs marked."""


def render_run(run: RecordedRun, verification: Verified | None = None) -> str:
    """The page of one run; ``verification`` is what `verify` found, and is shown where it is given."""
    return render("run.html", view=RunView(run, verification))


def render_comparison(
    one: RecordedRun,
    other: RecordedRun,
    verification: Verified | None = None,
    other_verification: Verified | None = None,
) -> str:
    """Two runs in one page: what they share, where they part, and how each goes on; who wrote and what it cost."""
    views = (RunView(one, verification), RunView(other, other_verification))
    rows = list(_compare(*views))
    return render(
        "comparison.html", views=views, rows=rows, parting=divergence(rows), settings=_different_settings(*views),
        costs=_costs(*views),
    )  # fmt: skip


def render_index(runs: Sequence[tuple[RecordedRun, str]]) -> str:
    """A page that lists runs, each with the relative URL of its own page."""
    return render("index.html", rows=[(RunView(run), link) for run, link in runs])


def _compare(one: RunView, other: RunView) -> Iterator[ComparedRow]:
    """The aligned steps; those that cannot be read are left out, and told among the findings."""
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
    """Engine, purpose, and what each run spent on it."""
    spent = [
        {(cost.engine, cost.purpose): cost.usage for cost in view.summary.costs if not cost.wasted} for view in views
    ]
    keys = dict.fromkeys(key for each in spent for key in each)
    return [(engine, purpose, [each.get((engine, purpose)) for each in spent]) for engine, purpose in keys]
