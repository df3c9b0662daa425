"""The page that shows why a strategy was chosen: one self-contained file, readable without script and network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from specreason_graph.audit.show.page import render
from specreason_graph.tuning.choose import Outcome, SweepPoint, Tried
from specreason_graph.tuning.tune import Tuned

WIDTH, HEIGHT = 440, 260
"""Size of a chart, in its own units."""
LEFT, RIGHT, TOP, BOTTOM = 34, 14, 12, 40
"""Room for labels at each side of a chart."""
MOST_LOST = 0.25
"""Share of lost answers up to which thresholds are drawn."""
ROW = 46
"""Height of a strategy in the chart of runs."""


class Tick(NamedTuple):
    """A mark on an axis."""

    at: float
    """Where it is."""
    label: str
    """What it says."""


class Dot(NamedTuple):
    """A threshold in the sweep."""

    x: float
    """Where it is from the left."""
    y: float
    """Where it is from the top."""
    title: str
    """What it is."""


class Curve(NamedTuple):
    """The thresholds of a judge."""

    judge: str
    """What the judge is called."""
    place: int
    """Which of the judges, from 0; it chooses the colour and the dashes."""
    line: str
    """Points of the line."""
    dots: list[Dot]
    """Its thresholds."""


class Sweep(NamedTuple):
    """The chart of all thresholds."""

    curves: list[Curve]
    """A curve a judge."""
    across: list[Tick]
    """Marks on the axis of lost answers."""
    up: list[Tick]
    """Marks on the axis of speed."""
    even: float
    """Height at which a strategy is as fast as the base alone."""
    limit: float
    """Where the share lies that may be lost."""


class Bar(NamedTuple):
    """A strategy in the chart of runs."""

    name: str
    """What it is called."""
    y: float
    """Its middle."""
    low: float
    """Where its interval begins."""
    at: float
    """Where its speed lies."""
    high: float
    """Where its interval ends."""
    label: str
    """Its figures."""


def render_tuning(tuned: Tuned, settings: str) -> str:
    """The page of a tuning; ``settings`` is the file that it wrote."""
    return render(
        "tune.html", package="specreason_graph.tuning", tuned=tuned, settings=settings,
        sweep=_sweep(tuned.replays.sweep, tuned.alpha), bars=list(_bars(tuned.outcomes)),
        bar_ticks=_bar_ticks(tuned.outcomes), size=(WIDTH, HEIGHT), sides=(LEFT, RIGHT, TOP, BOTTOM), row=ROW,
        bound_of=bound_sentence, discernment={each.judge: each for each in tuned.replays.discernment},
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


def _sweep(points: Sequence[SweepPoint], alpha: float) -> Sweep:
    most_lost = max(2 * alpha, MOST_LOST)
    points = [each for each in points if each.estimate.lost <= most_lost]
    fastest = max([1.2, *(each.estimate.faster for each in points)])
    across, up = _scale(0, most_lost, LEFT, WIDTH - RIGHT), _scale(0, fastest * 1.05, HEIGHT - BOTTOM, TOP)
    judges = list(dict.fromkeys(each.judge for each in points))
    curves = []
    for place, judge in enumerate(judges):
        own = sorted((each for each in points if each.judge == judge), key=lambda each: -each.threshold)
        dots = [
            Dot(
                across(each.estimate.lost), up(each.estimate.faster),
                f"{judge} {each.threshold:.4g}: {each.estimate.faster:.2f} times as fast, {each.estimate.lost:.0%} "
                f"lost, {each.estimate.acceptance:.0%} let in",
            )
            for each in own
        ]  # fmt: skip
        curves.append(Curve(judge, place, " ".join(f"{dot.x:.1f},{dot.y:.1f}" for dot in dots), dots))
    return Sweep(
        curves, [Tick(across(most_lost * part / 5), f"{most_lost * part / 5:.0%}") for part in range(6)],
        [Tick(up(number), f"{number:.1f}") for number in _round_numbers(fastest * 1.05)], up(1.0), across(alpha),
    )  # fmt: skip


def _bars(outcomes: Sequence[Outcome]) -> Iterator[Bar]:
    scale = _scale(0, _most(outcomes), LEFT, WIDTH - RIGHT)
    for place, each in enumerate(outcomes):
        label = f"{each.faster:.2f} ({each.low:.2f} to {each.high:.2f}), {each.right} of {each.questions} right"
        y = TOP + ROW * place + ROW * 0.8
        yield Bar(each.candidate.name, y, scale(each.low), scale(each.faster), scale(each.high), label)


def _bar_ticks(outcomes: Sequence[Outcome]) -> list[Tick]:
    scale = _scale(0, _most(outcomes), LEFT, WIDTH - RIGHT)
    return [Tick(scale(number), f"{number:.1f}") for number in _round_numbers(_most(outcomes))]


def _most(outcomes: Sequence[Outcome]) -> float:
    return max([1.2, *(each.high for each in outcomes)]) * 1.05


def _round_numbers(most: float) -> list[float]:
    step = 0.5 if most < 4 else 1.0 if most < 8 else 5.0
    return [step * place for place in range(int(most / step) + 1)]


class _scale:  # noqa: N801 - it is called like a function
    """From figures to places in a chart."""

    def __init__(self, low: float, high: float, first: float, last: float) -> None:
        self._low, self._first = low, first
        self._unit = (last - first) / (high - low or 1.0)

    def __call__(self, value: float) -> float:
        return round(self._first + (value - self._low) * self._unit, 1)
