"""The audit report: one self-contained HTML page for a run, for two runs side by side, or as an index of runs.

The pages can be read without network and without script; the script only filters, searches and scrolls. Texts of
models, users and databases are escaped, and a policy in the page allows no script but its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from markupsafe import Markup

from specreason_graph.audit.ask.alignment import align, divergence
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.audit.show.page import Served, fragment, render
from specreason_graph.audit.show.parts import render_parts
from specreason_graph.audit.show.place import Links, links_between
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


def render_run(
    run: RecordedRun,
    verification: Verified | None = None,
    links: Links | None = None,
) -> str:
    """Render the page of one run as a file of its own.

    ``verification`` is the result of `verify`, and is shown if given. ``links`` are pages of other runs.
    """
    view = RunView(run, verification, links)
    return render_view(view, render_parts(view))


def render_view(view: RunView, shown: dict[str, Markup], live: Served | None = None) -> str:
    """Render the page of one run from its parts; ``live``: how it is served."""
    return render("run.html", view=view, shown=shown, live=live)


def render_comparison(
    one: RecordedRun,
    other: RecordedRun,
    verification: Verified | None = None,
    other_verification: Verified | None = None,
    *,
    pages: tuple[str, str] | None = None,
    live: Served | None = None,
) -> str:
    """Render two runs in one page: their common steps, the first difference, the rest side by side, and the costs.

    ``pages``: where the page of each run is. ``live``: how the page is served.
    """
    views = (RunView(one, verification), RunView(other, other_verification))
    rows = list(_compare(*views))
    return render(
        "comparison.html", views=views, rows=rows, parting=divergence(rows), settings=_different_settings(*views),
        costs=_costs(*views), pages=pages, live=live,
    )  # fmt: skip


def render_index(runs: Sequence[tuple[RecordedRun, str]]) -> str:
    """Render an index of runs, each with the relative URL of its own page."""
    links = links_between([run for run, _ in runs], [link for _, link in runs])
    rows = [
        fragment("index_row.html", "row", RunView(run, links=others), link, f"run-{number}")
        for number, ((run, link), others) in enumerate(zip(runs, links, strict=True), 1)
    ]
    return render("index.html", rows=rows)


def render_list(rows: Sequence[Markup], live: Served) -> str:
    """Render the served list of runs from its rows, the latest first."""
    return render("index.html", rows=rows, live=live)


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
