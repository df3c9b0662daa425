"""Who worked when: the engine calls of a run on one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from specreason_graph.audit.show.labels import PURPOSES, duration
from specreason_graph.record.records import Answer, Cost, Engine, Step

WIDTH = 1000.0
"""Units that the whole line is long."""
NARROWEST = 1.0
"""Units that a bar has at least, so that it is seen."""
PAUSE_SECONDS = 1.0
"""Idle time from which the line is cut short, unless the run worked more than ten times as long."""

FATES = {"discarded": ", discarded", "wasted": ", speculative work wasted"}


@dataclass(frozen=True)
class Bar:
    """One kind of work for one step."""

    engine: Engine
    """Who worked."""
    kind: str
    """What for: the purpose of the call, or ``discarded`` or ``wasted``."""
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
    """Lay out the calls where they began and ended; a long wait is cut short, and told."""
    bars = [*_step_bars(steps), *_answer_bars(answer)]
    measured = bool(bars) and all(bar.started is not None for bar in bars)
    bars = sorted(bars, key=lambda bar: bar.started or 0.0) if measured else list(_in_turns(bars))
    gaps = list(_gaps(bars))
    whole = max((_end(bar) for bar in bars), default=0.0) - (bars[0].started or 0.0 if bars else 0.0)
    longest = max(PAUSE_SECONDS, (whole - sum(gaps)) / 10)
    waits = [gap for gap in gaps if gap > longest]
    cut = max(whole - sum(waits), 1e-6) * min(0.04, 0.3 / max(1, len(waits)))
    drawn = whole - sum(waits) + cut * len(waits)
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


def _in_turns(bars: Sequence[Bar]) -> Iterator[Bar]:
    """Bars of which nobody knows when they began, one behind the other."""
    at = 0.0
    for bar in bars:
        yield replace(bar, started=at)
        at += bar.seconds


def _gaps(bars: Sequence[Bar]) -> Iterator[float]:
    """Idle seconds before each call."""
    end = bars[0].started or 0.0 if bars else 0.0
    for bar in bars:
        yield max(0.0, (bar.started or 0.0) - end)
        end = max(end, _end(bar))


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
