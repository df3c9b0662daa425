"""Charts for pages: Vega-Lite, rendered here to SVG, so that a page needs no script and no network for them.

Colours are those of the page's style sheet, light or dark. Each chart is rendered for a wide and for a narrow screen,
and the style sheet shows one of them: a wide chart shrunk to a phone could not be read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import vl_convert
from markupsafe import Markup

WIDE, NARROW = 860, 250
"""Widths of the plotting area, in pixels."""
COLOURS = {
    "ink": "#010101", "quiet": "#020202", "line": "#030303", "draft": "#040404", "base": "#050505", "score": "#060606",
    "bad": "#070707", "link": "#080808",
}  # fmt: skip
"""What stands for a colour of the style sheet while a chart is rendered."""
FAR = -20
"""Thresholds below this are shown on a logarithmic scale."""
TICKS = (-250, -100, -30, -10, -3, -1, 0)
"""What is written along such a scale."""
PURPOSES = ("base writes", "base scores", "draft writes", "wasted")
"""Kinds of work in the chart of costs, in the order of the bars' parts."""
STYLE = {
    "background": None, "font": "system-ui, sans-serif",
    "view": {"stroke": COLOURS["line"]},
    "axis": {
        "labelColor": COLOURS["quiet"], "titleColor": COLOURS["ink"], "gridColor": COLOURS["line"],
        "domainColor": COLOURS["line"], "tickColor": COLOURS["line"], "labelFontSize": 12, "titleFontSize": 13,
        "titleFontWeight": "normal", "gridOpacity": 0.5, "labelLimit": 150,
        "titlePadding": 12,
    },
    "legend": {
        "labelColor": COLOURS["ink"], "titleColor": COLOURS["ink"], "labelFontSize": 12, "orient": "bottom",
        "title": None, "symbolType": "square", "labelLimit": 120,
    },
    "text": {"color": COLOURS["ink"], "fontSize": 12},
    "line": {"color": COLOURS["score"]}, "point": {"color": COLOURS["score"], "filled": True, "size": 50},
    "rule": {"color": COLOURS["quiet"]},
}  # fmt: skip
"""Style of all charts."""


LEFT, RIGHT = {"align": "left", "dx": 7}, {"align": "right", "dx": -7}
"""How a name stands beside a mark in the left and in the right half of a chart."""


class Spot(NamedTuple):
    """A strategy in the plane of answers and speed: each figure with the ends of its interval."""

    name: str
    """The strategy."""
    right: tuple[float, float, float]
    """Share of right answers, 0 to 1."""
    faster: tuple[float, float, float]
    """Times base alone."""


class Bar(NamedTuple):
    """A part of a strategy's bar."""

    name: str
    """The strategy."""
    purpose: str
    """One of `PURPOSES`."""
    seconds: float
    """Engine seconds a question."""


class Trial(NamedTuple):
    """A threshold."""

    threshold: float
    """The threshold, on the judge's scale."""
    acceptance: float
    """Share of the scored proposals that it accepts, 0 to 1."""
    seconds: float
    """Estimated engine seconds of a run."""


def plane(spots: Sequence[Spot], *, answers: str = "right answers") -> Markup:
    """Right answers against speed, a mark for each strategy with both intervals; better is above and to the right."""
    of_base = {"test": "datum.name === 'base'", "value": COLOURS["base"]}

    def spec(width: int) -> dict[str, Any]:
        height = 320 if width == WIDE else 280
        values = [
            {"name": each.name, "right": each.right[0], "low": each.right[1], "high": each.right[2],
             "faster": each.faster[0], "slowest": each.faster[1], "fastest": each.faster[2]}
            for each in spots
        ]  # fmt: skip
        shifts = _shifts(spots, width, height)
        x = {"field": "faster", "type": "quantitative", "title": "times base alone (right is faster)",
             "axis": {"tickCount": 8 if width == WIDE else 4},
             "scale": {"zero": False, "padding": 20, "nice": True}}  # fmt: skip
        y = {"field": "right", "type": "quantitative", "title": answers, "axis": {"format": "%"},
             "scale": {"zero": False, "padding": 10, "domainMax": 1.0}}  # fmt: skip
        beside: list[dict[str, Any]] = [
            {
                "transform": [{"filter": {"field": "name", "equal": each.name}}],
                "mark": {"type": "text", "limit": 150, "dy": shifts[each.name], **(LEFT if on_left else RIGHT)},
                "encoding": {"x": x, "y": y, "text": {"field": "name"}},
            }
            for each in spots
            for on_left in [each.faster[0] <= (min(s.faster[1] for s in spots) + max(s.faster[2] for s in spots)) / 2]
        ]  # fmt: skip
        return {
            "data": {"values": values}, "width": width, "height": height,
            "layer": [
                {"data": {"values": [{"faster": 1}]}, "mark": {"type": "rule", "strokeDash": [4, 4]},
                 "encoding": {"x": x}},
                {"mark": {"type": "rule", "color": COLOURS["score"], "opacity": 0.6},
                 "encoding": {"x": {**x, "field": "slowest"}, "x2": {"field": "fastest"}, "y": y}},
                {"mark": {"type": "rule", "color": COLOURS["score"], "opacity": 0.6},
                 "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}}},
                {"mark": {"type": "point", "size": 70, "opacity": 1},
                 "encoding": {"x": x, "y": y, "color": {"condition": of_base, "value": COLOURS["score"]}}},
                *beside,
            ],
        }  # fmt: skip

    return chart(spec, "Right answers and speed of each strategy; the table below has the figures.")


def costs(bars: Sequence[Bar]) -> Markup:
    """Engine seconds a question, by strategy and purpose, as stacked bars."""
    names = list(dict.fromkeys(bar.name for bar in bars))
    colours = [COLOURS[each] for each in ("base", "score", "draft", "bad")]

    def spec(width: int) -> dict[str, Any]:
        return {
            "data": {"values": [{**bar._asdict(), "order": PURPOSES.index(bar.purpose)} for bar in bars]},
            "width": width - 60 if width == WIDE else width - 40, "height": {"step": 26}, "mark": {"type": "bar"},
            "encoding": {
                "y": {"field": "name", "type": "nominal", "sort": names, "title": None,
                      "axis": {"labelLimit": 150 if width == WIDE else 90}},
                "x": {"field": "seconds", "type": "quantitative", "title": "engine seconds a question",
                      "axis": {"tickCount": 6 if width == WIDE else 3}},
                "color": {"field": "purpose", "type": "nominal", "scale": {"domain": PURPOSES, "range": colours},
                          "legend": {"columns": 4 if width == WIDE else 2}},
                "order": {"field": "order", "type": "ordinal"},
            },
        }  # fmt: skip

    return chart(spec, "Engine seconds of each strategy by model and purpose; the table of tokens has more.")


def sweep(trials: Sequence[Trial], threshold: float) -> Markup:
    """Acceptance and estimated engine seconds by threshold; the one in force is marked."""
    values = [each._asdict() for each in trials]

    def spec(width: int) -> dict[str, Any]:
        # Log-likelihoods reach from 0 to hundreds, and what matters is near 0.
        scale = {"type": "symlog"} if min(each.threshold for each in trials) < FAR else {"zero": False}
        x: dict[str, Any] = {"field": "threshold", "type": "quantitative", "title": "threshold", "scale": scale}
        if "type" in scale:
            x["axis"] = {"values": TICKS if width == WIDE else TICKS[::2]}
        half = width // 2 - 40 if width == WIDE else width

        def panel(field: str, title: str, form: str) -> dict[str, Any]:
            y = {"field": field, "type": "quantitative", "title": title, "axis": {"format": form}}
            return {
                "width": half, "height": 150,
                "layer": [
                    {"data": {"values": [{"threshold": threshold}]}, "mark": {"type": "rule", "strokeDash": [4, 4]},
                     "encoding": {"x": x}},
                    {"mark": {"type": "line", "point": {"size": 30}}, "encoding": {"x": x, "y": y}},
                ],
            }  # fmt: skip

        panels = [panel("acceptance", "accepted", "%"), panel("seconds", "engine s a question", "")]
        return {"data": {"values": values}, ("hconcat" if width == WIDE else "vconcat"): panels}

    return chart(spec, "Acceptance and estimated engine seconds for each threshold; a dashed line marks the one used.")


def chart(spec: Callable[[int], Mapping[str, Any]], label: str) -> Markup:
    """A chart as two SVG elements, one for wide and one for narrow screens; ``spec`` is given the width."""
    drawn = [_svg(spec(width), name, label) for width, name in ((WIDE, "wide"), (NARROW, "narrow"))]
    return Markup("").join(drawn)


def _svg(spec: Mapping[str, Any], name: str, label: str) -> Markup:
    whole = {"$schema": "https://vega.github.io/schema/vega-lite/v6.json", "config": STYLE, **spec}
    svg = vl_convert.vegalite_to_svg(whole)
    for colour, stands in COLOURS.items():
        svg = svg.replace(f'"{stands}"', f'"var(--{colour})"')
    head = Markup('<svg class="chart {}" role="img" aria-label="{}" ').format(name, label)
    # What is in the picture is in tables, too: to who listens it is one picture with a label.
    inner = re.sub(r' (?:aria-\w+|role)="[^"]*"', "", svg.removeprefix("<svg "))
    inner = re.sub(r' class="marks"', "", inner, count=1)
    return head + Markup(inner)  # noqa: S704 - rendered by Vega, which escapes texts


def _shifts(spots: Sequence[Spot], width: int, height: int) -> dict[str, int]:
    """How far names are moved up or down, in pixels, so that those of near marks do not stand on each other."""
    if not spots:
        return {}
    bottom, top = min(each.right[1] for each in spots), max(each.right[2] for each in spots)
    left, right = min(each.faster[1] for each in spots), max(each.faster[2] for each in spots)
    taken: list[tuple[float, float]] = []
    found = {}
    for each in sorted(spots, key=lambda spot: -spot.right[0]):
        x = (each.faster[0] - left) / ((right - left) or 1.0) * width
        y = (top - each.right[0]) / ((top - bottom) or 1.0) * height
        moved = y - 9
        while any(abs(moved - other) < 14 and abs(x - beside) < 130 for beside, other in taken):
            moved += 7
        taken.append((x, moved))
        found[each.name] = round(moved - y)
    return found
