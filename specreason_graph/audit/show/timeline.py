"""The timeline of a run: its engine calls as bars on one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from specreason_graph.audit.show.labels import PURPOSES, duration
from specreason_graph.record.records import Answer, Cost, Engine, Step

WIDTH = 1000.0
"""Length of the whole line, in units of the drawing."""
NARROWEST = 1.0
"""Least width of a bar, in units of the drawing, so that it can be seen."""
PAUSE_SECONDS = 1.0
"""Idle seconds from which a pause is drawn shorter; in a long run a tenth of its working time instead."""

FATES = {"discarded": ", discarded", "wasted": ", speculative work wasted"}


@dataclass(frozen=True)
class Bar:
    """The work of one engine for one purpose of one step."""

    engine: Engine
    """Role of the engine that worked."""
    kind: str
    """Purpose of the calls, or ``discarded`` or ``wasted``."""
    anchor: str
    """Id of the step or answer on the page."""
    title: str
    """Description for people."""
    started: float | None
    """When the work began, in seconds since 1970; None where it was not recorded."""
    seconds: float
    """How long the work took, in seconds."""
    reviewed: bool
    """Whether a human was asked about the step."""
    left: float = 0.0
    """Where the bar begins, 0 to `WIDTH`."""
    width: float = 0.0
    """Width of the bar, in the same units."""


@dataclass(frozen=True)
class Pause:
    """Idle time that is drawn shorter than it was."""

    left: float
    """Where the pause begins, 0 to `WIDTH`."""
    width: float
    """Width of the pause, in the same units."""
    title: str
    """Description for people: its length, and whether a human was asked before it."""


@dataclass(frozen=True)
class Timeline:
    """All work of a run, laid out on one line."""

    bars: list[Bar]
    """The work, in the order in which it began."""
    pauses: list[Pause]
    """The pauses that are drawn shorter."""
    seconds: float
    """Seconds from the first call to the end of the last one, pauses included."""
    measured: bool
    """Whether the start of each call was recorded; else the bars are drawn one behind the other."""


def draw_timeline(steps: Sequence[Step], answer: Answer | None) -> Timeline:
    """Lay out the calls by their times; long pauses are drawn shorter and listed."""
    bars = [*_step_bars(steps), *_answer_bars(answer)]
    measured = bool(bars) and all(bar.started is not None for bar in bars)
    bars = sorted(bars, key=lambda bar: bar.started or 0.0) if measured else list(_one_after_the_other(bars))
    gaps = list(_gaps(bars))
    whole = max((_end(bar) for bar in bars), default=0.0) - (bars[0].started or 0.0 if bars else 0.0)
    longest = max(PAUSE_SECONDS, (whole - sum(gaps)) / 10)
    waits = [gap for gap in gaps if gap > longest]
    # A pause takes 4% of the line, and all pauses together take at most 30%.
    cut = max(whole - sum(waits), 1e-6) * min(0.04, 0.3 / max(1, len(waits)))
    drawn = whole - sum(waits) + cut * len(waits)  # never 0 below, as in a run whose calls took no time
    return _lay_out(bars, gaps, longest=longest, cut=cut, scale=WIDTH / max(drawn, 1e-6), measured=measured)


def _lay_out(
    bars: list[Bar], gaps: list[float], *, longest: float, cut: float, scale: float, measured: bool
) -> Timeline:
    placed, pauses, hidden, asked = [], [], bars[0].started or 0.0 if bars else 0.0, False
    for bar, gap in zip(bars, gaps, strict=True):
        begun = bar.started or 0.0
        if gap > longest:
            hidden += gap - cut
            title = f"{duration(gap)} without a call" + (", after a human was asked" if asked else "")
            pauses.append(Pause(round((begun - hidden - cut) * scale, 2), round(cut * scale, 2), title))
        width = max(NARROWEST, bar.seconds * scale)
        left = max(0.0, min((begun - hidden) * scale, WIDTH - width))
        placed.append(replace(bar, left=round(left, 2), width=round(width, 2)))
        asked = bar.reviewed
    whole = max((_end(bar) for bar in bars), default=0.0) - (bars[0].started or 0.0 if bars else 0.0)
    return Timeline(placed, pauses, whole, measured)


def _end(bar: Bar) -> float:
    return (bar.started or 0.0) + bar.seconds


def _one_after_the_other(bars: Sequence[Bar]) -> Iterator[Bar]:
    """Yield bars without recorded times, each starting where the one before ends."""
    at = 0.0
    for bar in bars:
        yield replace(bar, started=at)
        at += bar.seconds


def _gaps(bars: Sequence[Bar]) -> Iterator[float]:
    """Yield the idle seconds before each call."""
    end = bars[0].started or 0.0 if bars else 0.0
    for bar in bars:
        yield max(0.0, (bar.started or 0.0) - end)
        end = max(end, _end(bar))  # calls of both engines overlap


def _step_bars(steps: Sequence[Step]) -> Iterator[Bar]:
    for step in steps:
        for cost in step.costs:
            kind = _kind(cost, step)
            title = f"step {step.index + 1}: {PURPOSES[cost.purpose]} by the {cost.engine} model"
            yield Bar(
                engine=cost.engine, kind=kind, anchor=f"step-{step.index + 1}",
                title=f"{title}{FATES.get(kind, '')}, {duration(cost.usage.seconds)}",
                started=cost.usage.started, seconds=cost.usage.seconds, reviewed=step.decision.review is not None,
            )  # fmt: skip


def _kind(cost: Cost, step: Step) -> str:
    if cost.wasted:
        return "wasted"
    return "discarded" if cost.purpose == "draft" and step.discarded is not None else cost.purpose


def _answer_bars(answer: Answer | None) -> Iterator[Bar]:
    if answer:
        usage = answer.usage
        title = f"{PURPOSES['answer']} by the {answer.author} model, {duration(usage.seconds)}"
        yield Bar(answer.author, "answer", "answer", title, usage.started, usage.seconds, reviewed=False)
