"""The loop against the base model alone: the same problems, every way in turn, again and again.

Ways are only compared with each other inside one repeat, where they have their turns with a few problems each, and each
with empty prefix caches; what is told are the medians of those ratios: a machine that gets slower changes nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from specreason_graph.bench.efficiency import Pace, pace_of
from specreason_graph.bench.laps import Lap, play, run_lap
from specreason_graph.bench.prefixes import Reuse, forget, recording
from specreason_graph.bench.ways import BASE, SHORT, TURNS, Draft, Way, rotated
from specreason_graph.engines.pair import EnginePair
from specreason_graph.graph import CompiledSpecReason, create_specreason
from specreason_graph.models.abacus.problems import Problem
from specreason_graph.records import Record

SAMPLE = 8
"""Problems of a calibration, and at least those behind the figures of the cache."""
PART, PARTS = 10, 8
"""Problems that one way is asked before the next one has its turn: at least, and times as many as there are at once."""
CALIBRATING = {"window": 0, "max_steps": 6, "answer_tokens": 64, **SHORT}
"""Settings of a calibration: one call at a time, and short."""


class Calibration(Record):
    """Each engine alone: one question at a time, nothing else at work; medians over the repeats."""

    kind: Literal["calibration"] = "calibration"
    """What this line is."""
    draft: Draft
    """Which draft it is."""
    at_once: int
    """Runs at a time in the ways that were measured together with it."""
    draft_seconds: float
    """Seconds a token of the draft, the median of its calls; a call reads what is new in its prompt, too."""
    base_seconds: float
    """Seconds a token of the base, likewise."""
    calls: int
    """Calls of both in a repeat."""


class Speed(Record):
    """One way at one number of runs at once; ratios are medians over the repeats."""

    kind: Literal["speed"] = "speed"
    """What this line is."""
    draft: Draft
    """Which draft it has."""
    at_once: int
    """Runs at a time."""
    way: str
    """Name of the way."""
    settings: dict[str, Any]
    """Its settings on top of those that all ways share."""
    problems: int
    """Problems of a repeat."""
    repeats: int
    """How often each way ran them."""
    seconds: float
    """Wall time of a repeat, median."""
    faster: float
    """Wall time of base alone over this one's."""
    faster_least: float
    """The lowest of the repeats."""
    faster_most: float
    """The highest of the repeats."""
    faster_than_turns: float | None
    """Wall time of the loop in turns over this one's; None where that did not run."""
    same: float | None
    """Share of the runs whose trace is token for token that of the run in turns with the same seed, 0 to 1; None for
    base alone and where nothing ran in turns."""
    efficiency_measured: float
    """Seconds of the committed tokens over wall seconds of the runs, 0 to 1, as measured: engines that do several
    things at once stretch each, and this figure with it."""
    efficiency_alone: float
    """The same with the committed tokens at the pace that each engine has alone."""
    right: float
    """Share of the answers that are right, 0 to 1, over all repeats, each of which has seeds of its own."""
    base_right: float
    """The same of base alone."""
    accepted: float | None
    """Share of the judged proposals that were accepted; None where none was judged."""
    recomputed: float | None
    """Prompt tokens computed anew that a perfect cache of the engine's block size would have kept, as a share of all
    prompt tokens; None where nobody looked."""


@dataclass(frozen=True)
class Figures:
    """What was found at one number of runs at once."""

    calibration: Calibration
    """The pace of the engines."""
    rows: list[Speed]
    """One a way."""


@dataclass(frozen=True)
class Bench:
    """What is measured on one pair."""

    pair: EnginePair
    """The engines."""
    draft: Draft
    """Which draft the pair has."""
    ways: Sequence[Way]
    """What is compared, base alone among it."""
    problems: Sequence[Problem]
    """What is asked."""
    repeats: int = 5
    """How often each way runs them."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings that all ways share."""
    cache: bool = True
    """Whether to look at the prefix caches."""
    tell: Callable[[str], None] = lambda _line: None
    """Is told the seconds of each repeat when it ends."""

    def measure(self, at_once: int) -> Figures:
        """Every way in each repeat, in an order that changes, and before them the pace of the engines at that time."""
        graphs = {way.name: self._graph(way.settings) for way in self.ways}
        laps: dict[str, list[Lap]] = {way.name: [] for way in self.ways}
        paces = []
        for turn in range(self.repeats):
            paces.append(self._calibrate(at_once))
            pace: Pace = {"draft": paces[-1].draft_seconds, "base": paces[-1].base_seconds}
            for name, lap in self._repeat(graphs, at_once, pace, turn).items():
                laps[name].append(lap)
            took = ", ".join(f"{name} {of[-1].seconds:.2f} s" for name, of in laps.items())
            self.tell(f"{at_once} at once, repeat {turn + 1} of {self.repeats}: {took}")
        shares = {name: self._reuse(graph, at_once).share for name, graph in graphs.items()} if self.cache else {}
        rows = [make_row(way, at_once, laps, len(self.problems), self.draft, shares.get(way.name)) for way in self.ways]
        return Figures(_median(paces), rows)

    def _repeat(self, graphs: dict[str, CompiledSpecReason], at_once: int, pace: Pace, turn: int) -> dict[str, Lap]:
        """Each way over all problems, some of them at a time: when the machine slows down, all ways do."""
        laps: dict[str, Lap] = {}
        for number, (first, part) in enumerate(parts(self.problems, at_once)):
            for way in rotated(self.ways, turn + number):
                self.pair.run(lambda: forget(self.pair))
                seed = turn * len(self.problems) + first  # those right are counted over as many different runs
                lap = run_lap(graphs[way.name], part, at_once, pace, seed)
                laps[way.name] = laps[way.name] + lap if way.name in laps else lap
        return laps

    def _calibrate(self, at_once: int) -> Calibration:
        """Time the engines alone: the draft with all it writes accepted, and the base writing everything."""
        costs = []
        for settings in ({"threshold": 0.0}, BASE.settings):
            _, played = play(self._graph(CALIBRATING | settings), self.problems[:SAMPLE], 1)
            costs += [cost for each in played for cost in each.costs]
        return Calibration(
            draft=self.draft, at_once=at_once, draft_seconds=pace_of(costs, "draft"),
            base_seconds=pace_of(costs, "base"), calls=sum(cost.usage.calls for cost in costs),
        )  # fmt: skip

    def _graph(self, settings: dict[str, Any]) -> CompiledSpecReason:
        return create_specreason(self.pair, **{**self.settings, **settings}).compile()

    def _reuse(self, graph: CompiledSpecReason, at_once: int) -> Reuse:
        """What the caches kept, on a few problems that nobody times."""
        self.pair.run(lambda: forget(self.pair))
        with recording(self.pair) as recorders:
            play(graph, self.problems[: max(SAMPLE, at_once)], at_once)
        return sum((recorder.total for recorder in recorders), Reuse())


def parts(problems: Sequence[Problem], at_once: int) -> list[tuple[int, Sequence[Problem]]]:
    """The problems in parts, each with its first one's number: so long that few of the runs are at an end of one."""
    count = max(1, len(problems) // max(PART, PARTS * at_once))
    edges = [len(problems) * each // count for each in range(count + 1)]
    return [(first, problems[first:end]) for first, end in pairwise(edges)]


def make_row(
    way: Way, at_once: int, laps: dict[str, list[Lap]], problems: int, draft: Draft, recomputed: float | None = None
) -> Speed:
    """The figures of a way, from the laps of all."""
    mine, alone, turns = laps[way.name], laps[BASE.name], laps.get(TURNS.name)
    faster = _ratios(alone, mine)
    proposals = sum(lap.proposals for lap in mine)
    return Speed(
        draft=draft, at_once=at_once, way=way.name, settings=way.settings, problems=problems, repeats=len(mine),
        seconds=statistics.median(lap.seconds for lap in mine),
        faster=statistics.median(faster), faster_least=min(faster), faster_most=max(faster),
        faster_than_turns=statistics.median(_ratios(turns, mine)) if turns else None,
        same=_same(turns, mine) if turns and way is not BASE else None,
        efficiency_measured=statistics.median(lap.needed / lap.running for lap in mine),
        efficiency_alone=statistics.median(lap.needed_alone / lap.running for lap in mine),
        right=statistics.mean(lap.right for lap in mine), base_right=statistics.mean(lap.right for lap in alone),
        accepted=sum(lap.accepted for lap in mine) / proposals if proposals else None, recomputed=recomputed,
    )  # fmt: skip


def _ratios(others: Sequence[Lap], mine: Sequence[Lap]) -> list[float]:
    """How many times as fast as the other way, repeat by repeat."""
    return [other.seconds / lap.seconds for other, lap in zip(others, mine, strict=True)]


def _same(others: Sequence[Lap], mine: Sequence[Lap]) -> float:
    """Share of the traces that are those of the other way."""
    pairs = [zip(other.traces, lap.traces, strict=True) for other, lap in zip(others, mine, strict=True)]
    return statistics.mean(one == another for traces in pairs for one, another in traces)


def _median(paces: Sequence[Calibration]) -> Calibration:
    """The calibrations of all repeats as one."""
    draft, base = (statistics.median(getattr(each, f"{role}_seconds") for each in paces) for role in ("draft", "base"))
    return paces[0].model_copy(update={"draft_seconds": draft, "base_seconds": base})
