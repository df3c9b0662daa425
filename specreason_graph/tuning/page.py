"""The page that shows why a strategy was chosen: one self-contained file, readable without script and network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from specreason_graph.audit.show.page import render
from specreason_graph.bench.charts import COLOURS, WIDE, chart
from specreason_graph.tuning.choose import Outcome, SweepPoint, Tried
from specreason_graph.tuning.tune import Tuned

MOST_LOST = 0.25
"""Share of lost answers up to which thresholds are drawn."""
LINES = ("draft", "base", "score", "bad", "link", "ink", "quiet")
"""Colours of the judges."""


def render_tuning(tuned: Tuned, settings: str) -> str:
    """The page of a tuning; ``settings`` is the file that it wrote."""
    return render(
        "tune.html", tuned=tuned, settings=settings, sweep=_sweep(tuned.replays.sweep, tuned.alpha),
        speeds=_speeds(tuned.outcomes) if tuned.outcomes else None, bound_of=bound_sentence,
        discernment={each.judge: each for each in tuned.replays.discernment},
    )  # fmt: skip


def bound_sentence(tried: Tried | Outcome) -> str:
    """What is known of the answers that a strategy loses, in a sentence."""
    bound = tried.bound
    if bound is None:
        return "no bound: it was fitted on the same questions, or some steps have no label"
    if bound.threshold is not None:
        return f"at most {bound.alpha:.0%}, shown on {bound.questions} right answers"
    if bound.needed is None:
        return f"no bound: even the strictest threshold loses {bound.tested[0].lost:.0%} of {bound.questions}"
    return f"not shown by {bound.questions} right answers: {bound.needed} would do, if none more were lost"


def _speeds(outcomes: Sequence[Outcome]) -> Markup:
    """How much faster the strategies were that were run, with intervals."""
    values = [{"name": each.candidate.name, "faster": each.faster, "low": each.low, "high": each.high}
              for each in outcomes]  # fmt: skip

    def spec(width: int) -> dict[str, Any]:
        y = {"field": "name", "type": "nominal", "sort": None, "axis": None}
        x = {"field": "faster", "type": "quantitative", "title": "times base alone (right is faster)",
             "scale": {"zero": False, "padding": 15}, "axis": {"tickCount": 6 if width == WIDE else 3}}  # fmt: skip
        return {
            "data": {"values": values}, "width": width - (200 if width == WIDE else 0), "height": {"step": 44},
            "layer": [
                {"data": {"values": [{"faster": 1}]}, "mark": {"type": "rule", "strokeDash": [4, 4]},
                 "encoding": {"x": x}},
                {"mark": {"type": "rule", "color": COLOURS["score"], "strokeWidth": 2},
                 "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y}},
                {"mark": {"type": "point", "size": 70, "opacity": 1}, "encoding": {"x": x, "y": y}},
                {"mark": {"type": "text", "align": "left", "dy": -12},
                 "encoding": {"x": {"value": 4}, "y": y, "text": {"field": "name"}}},
            ],
        }  # fmt: skip

    return chart(spec, "Measured speed of each strategy against the base alone; the table below has the figures.")


def _sweep(points: Sequence[SweepPoint], alpha: float) -> Markup:
    """What each threshold of each judge is expected to take and to lose."""
    judges = list(dict.fromkeys(each.judge for each in points))
    values = [
        {"judge": each.judge, "order": -each.threshold, "lost": each.estimate.lost, "faster": each.estimate.faster}
        for each in points
        if each.estimate.lost <= max(MOST_LOST, 2 * alpha)
    ]

    def spec(width: int) -> dict[str, Any]:
        x = {"field": "lost", "type": "quantitative", "title": "right answers lost", "axis": {"format": "%"}}
        y = {"field": "faster", "type": "quantitative", "title": "times base alone", "scale": {"zero": False}}
        colours = {"field": "judge", "type": "nominal",
                   "legend": {"columns": 4 if width == WIDE else 1, "columnPadding": 40},
                   "scale": {"domain": judges, "range": [COLOURS[name] for name in LINES]}}  # fmt: skip
        return {
            "data": {"values": values}, "width": width - 60 if width == WIDE else width, "height": 280,
            "layer": [
                {"data": {"values": [{"faster": 1}]}, "mark": {"type": "rule", "strokeDash": [4, 4]},
                 "encoding": {"y": y}},
                {"data": {"values": [{"lost": alpha}]},
                 "mark": {"type": "rule", "strokeDash": [2, 3], "color": COLOURS["bad"]}, "encoding": {"x": x}},
                {"mark": {"type": "line", "point": {"size": 35}},
                 "encoding": {"x": x, "y": y, "order": {"field": "order"}, "color": colours}},
            ],
        }  # fmt: skip

    return chart(spec, "Estimated speed against the share of right answers lost, for all judges and thresholds.")
