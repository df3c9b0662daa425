"""Who worked when: the engine calls of a run on one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from specreason_graph.audit.phrases import PURPOSES, duration
from specreason_graph.records import Answer, Engine, Step

WIDTH = 1000.0
"""Units that the whole line is long."""
NARROWEST = 1.0
"""Units that a bar has at least, so that it is seen."""
PAUSE_SECONDS = 1.0
"""Idle time from which the line is cut short, unless the run worked more than ten times as long."""


@dataclass(frozen=True)
class Bar:
    """One kind of work for one step."""

    engine: Engine
    """Who worked."""
    kind: str
    """What for: the purpose of the call, or ``discarded``."""
    anchor: str
    """Where on the page it belongs."""
    title: str
    """What it was, in words."""
    started: float | None
    """When it began, seconds since 1970; None where nobody looked."""
    seconds: float
    """How long it took."""
    reviewed: bool
    """Whether a human was asked about the step."""
    left: float = 0.0
    """Where the bar begins, 0 to `WIDTH`."""
    width: float = 0.0
    """How long it is drawn."""


@dataclass(frozen=True)
class Pause:
    """Idle time that is drawn shorter than it was."""

    left: float
    """Where it begins, 0 to `WIDTH`."""
    width: float
    """How long it is drawn."""
    title: str
    """How long it was, and whether a human was asked before it."""


@dataclass(frozen=True)
class Timeline:
    """All work of a run, laid out."""

    bars: list[Bar]
    """The work, in the order it was done."""
    pauses: list[Pause]
    """What was cut short."""
    seconds: float
    """From the first call to the end of the last one, pauses included."""
    measured: bool
    """Whether it is known when the calls began; else they are drawn one behind the other."""


def draw_timeline(steps: Sequence[Step], answer: Answer | None) -> Timeline:
    """Lay out the calls in the order they began; a long wait is cut short, and told."""
    bars = [*_step_bars(steps), *_answer_bars(answer)]
    measured = bool(bars) and all(bar.started is not None for bar in bars)
    gaps = [0.0] * len(bars)
    if measured:
        bars.sort(key=lambda bar: bar.started or 0.0)
        gaps = list(_gaps(bars))
    busy = sum(bar.seconds for bar in bars)
    longest = max(PAUSE_SECONDS, busy / 10)
    worked = busy + sum(gap for gap in gaps if gap <= longest)
    cut = max(worked, 1e-6) * min(0.04, 0.3 / max(1, sum(gap > longest for gap in gaps)))
    return _lay_out(bars, gaps, longest=longest, cut=cut, measured=measured)


def _lay_out(bars: list[Bar], gaps: list[float], *, longest: float, cut: float, measured: bool) -> Timeline:
    drawn = [cut if gap > longest else gap for gap in gaps]
    scale = WIDTH / max(sum(drawn) + sum(bar.seconds for bar in bars), 1e-6)
    placed, pauses, at, asked = [], [], 0.0, False
    for bar, gap, shown in zip(bars, gaps, drawn, strict=True):
        if gap > longest:
            title = f"{duration(gap)} without a call" + (", after a human was asked" if asked else "")
            pauses.append(Pause(round(at * scale, 2), round(shown * scale, 2), title))
        at += shown
        width = max(NARROWEST, bar.seconds * scale)
        placed.append(replace(bar, left=round(min(at * scale, WIDTH - width), 2), width=round(width, 2)))
        at, asked = at + bar.seconds, bar.reviewed
    return Timeline(placed, pauses, sum(gaps) + sum(bar.seconds for bar in bars), measured)


def _gaps(bars: Sequence[Bar]) -> Iterator[float]:
    """Idle seconds before each call."""
    end = bars[0].started or 0.0
    for bar in bars:
        started = bar.started or 0.0
        yield max(0.0, started - end)
        end = max(end, started + bar.seconds)


def _step_bars(steps: Sequence[Step]) -> Iterator[Bar]:
    for step in steps:
        for cost in step.costs:
            lost = cost.purpose == "draft" and step.discarded is not None
            title = f"step {step.index + 1}: {PURPOSES[cost.purpose]} by the {cost.engine} model"
            yield Bar(
                engine=cost.engine, kind="discarded" if lost else cost.purpose, anchor=f"step-{step.index + 1}",
                title=f"{title}{', discarded' if lost else ''}, {duration(cost.usage.seconds)}",
                started=cost.usage.started, seconds=cost.usage.seconds, reviewed=step.decision.review is not None,
            )  # fmt: skip


def _answer_bars(answer: Answer | None) -> Iterator[Bar]:
    if answer:
        usage = answer.usage
        title = f"{PURPOSES['answer']} by the {answer.author} model, {duration(usage.seconds)}"
        yield Bar(answer.author, "answer", "answer", title, usage.started, usage.seconds, reviewed=False)
