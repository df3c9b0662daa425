"""The result of a benchmark as one self-contained HTML page: charts, tables, and the questions that differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from specreason_graph.audit.ask.thresholds import curve
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.audit.show.page import render
from specreason_graph.bench.charts import Bar, Spot, Trial, costs, plane, sweep
from specreason_graph.bench.compare import verdict
from specreason_graph.bench.figures import Figures, Interval, Row
from specreason_graph.bench.markdown import HEADS, cells, purposes
from specreason_graph.bench.results import Results, RunRow
from specreason_graph.bench.tasks import Question

MOST = 200
"""Questions that differ which a page shows."""
Reports = Mapping[str, str]
"""Relative URL of a run's report, by thread id."""
ReadRun = Callable[[str], RecordedRun | None]
"""Reads the recorded run of a thread; None where there is none."""


class Differing(NamedTuple):
    """A question on which strategies differ."""

    question: Question
    """The question."""
    sample: int
    """Which of its samples, from 0."""
    runs: list[RunRow | None]
    """The run of each strategy, in the order of the table."""


class Sweep(NamedTuple):
    """What other thresholds would have done with a strategy's runs."""

    strategy: str
    """The strategy."""
    judge: str
    """Kind of its judge."""
    threshold: float
    """The threshold in force."""
    chart: Markup
    """The chart."""


def differing(results: Results, figures: Figures) -> list[Differing]:
    """The questions that some strategies answer right and others do not, in the order of the task.

    The draft alone does not count: it answers many wrong that all others get right.
    """
    names = [row.strategy.name for row in figures.rows]
    counts = [row.strategy.alone != "draft" for row in figures.rows]
    samples = range(results.header.samples if results.header else 1)
    found = []
    for question in results.questions.values():
        for sample in samples:
            runs = [results.find(name, question.id, sample) for name in names]
            if len({run.right for run, counted in zip(runs, counts, strict=True) if run and counted}) > 1:
                found.append(Differing(question, sample, runs))
    return found


def render_page(results: Results, figures: Figures, read_run: ReadRun, reports: Reports | None = None) -> str:
    """Render the page; ``read_run`` gives the recorded runs from which the effect of other thresholds is computed."""
    rows, (inside, outside) = differing(results, figures), _spots(figures.rows)
    heads = ["same answer as the base" if figures.agreement and each == "right" else each for each in HEADS]
    return render(
        "bench.html", results=results, figures=figures, heads=heads, verdict=verdict(results),
        rows=[cells(row) for row in figures.rows], purposes=purposes(figures), machines=dict.fromkeys(
            machine.line() for machine in results.machines),
        plane=plane(inside, answers="same answer" if figures.agreement else "right answers"),
        costs=costs([bar for row in figures.rows for bar in _bars(row)]), sweeps=_sweeps(results, figures, read_run),
        names=[row.strategy.name for row in figures.rows], differing=rows[:MOST], left_out=len(rows[MOST:]),
        reports=reports or {}, outside=outside,
    )  # fmt: skip


def _spots(rows: Sequence[Row]) -> tuple[list[Spot], list[Spot]]:
    """Strategies in the plane, and the draft alone apart where it is so bad that the others would be one spot."""
    one = Interval(value=1.0, low=1.0, high=1.0)
    graded = [(row, row.right) for row in rows if row.right is not None]
    lowest = min((right.low for row, right in graded if row.strategy.alone != "draft"), default=0.0)
    inside, outside = list[Spot](), list[Spot]()
    for row, right in graded:
        spot = Spot(row.strategy.name, _ends(right), _ends(row.faster or one))
        is_far = row.strategy.alone == "draft" and right.high < lowest
        (outside if is_far else inside).append(spot)
    return inside, outside


def _ends(found: Interval) -> tuple[float, float, float]:
    return found.value, found.low, found.high


def _bars(row: Row) -> list[Bar]:
    totals: dict[str, float] = {}
    for each in row.spent:
        purpose = (
            "wasted" if each.wasted else "draft writes" if each.engine == "draft"
            else "base scores" if each.purpose == "score" else "base writes"
        )  # fmt: skip
        totals[purpose] = totals.get(purpose, 0.0) + each.usage.seconds / row.runs
    return [Bar(row.strategy.name, purpose, seconds) for purpose, seconds in totals.items()]


def _sweeps(results: Results, figures: Figures, read_run: ReadRun) -> list[Sweep]:
    """A chart for each strategy that has a judge with a threshold, from its recorded runs."""
    found = []
    for row in figures.rows:
        if row.accepted is None:
            continue
        read = (read_run(run.thread) for run in results.runs(row.strategy.name))
        runs = [run for run in read if run is not None]
        points = curve(runs) if runs else []
        if len(points) > 1:
            judge = runs[0].typed_manifest.config.judge_in_force
            trials = [Trial(each.threshold, each.acceptance, each.seconds) for each in points]
            drawn = sweep(trials, judge.accepts_from)
            found.append(Sweep(row.strategy.name, judge.kind, judge.accepts_from, drawn))
    return found
