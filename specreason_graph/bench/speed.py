"""The loop against the base model alone: the same problems, every scenario in turn, again and again.

Ways are only compared with each other inside one repeat, where they have their turns with a few problems each, and each
with empty prefix caches; what is told are the medians of those ratios: a machine that gets slower changes nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from specreason_graph.bench.efficiency import SecondsPerToken, seconds_per_token
from specreason_graph.bench.scenarios import BASE_ONLY, SEQUENTIAL, SHORT, DraftKind, Scenario, rotated
from specreason_graph.bench.workload import Workload, reset_prefix_caches, run_all, run_workload
from specreason_graph.engines.pair import EnginePair
from specreason_graph.graph import CompiledSpecReason, create_specreason
from specreason_graph.models.abacus.problems import Problem
from specreason_graph.record.records import Record

SAMPLE = 8
"""Problems of a calibration."""
PART, PARTS = 10, 8
"""Problems of a scenario before it is the next one's turn: at least, and times as many as there are at once."""
CALIBRATING = {"lookahead": 0, "max_steps": 6, "answer_tokens": 64, **SHORT}
"""Settings of a calibration: one call at a time, and short."""


class Calibration(Record):
    """Each engine alone: one question at a time, nothing else at work; medians over the repeats."""

    kind: Literal["calibration"] = "calibration"
    """What this line is."""
    draft: DraftKind
    """Which draft it is."""
    concurrency: int
    """Runs at a time in the scenarios that were measured together with it."""
    draft_seconds: float
    """Seconds a token of the draft, the median of its calls; a call reads what is new in its prompt, too."""
    base_seconds: float
    """Seconds a token of the base, likewise."""
    calls: int
    """Calls of both in a repeat."""


class Speed(Record):
    """One scenario at one number of runs at once; ratios are medians over the repeats."""

    kind: Literal["speed"] = "speed"
    """What this line is."""
    draft: DraftKind
    """Which draft it has."""
    concurrency: int
    """Runs at a time."""
    scenario: str
    """Name of the scenario."""
    settings: dict[str, Any]
    """Its settings on top of those that all scenarios share."""
    problems: int
    """Problems of a repeat."""
    repeats: int
    """How often each scenario ran them."""
    seconds: float
    """Wall time of a repeat, median."""
    faster: float
    """Wall time of base only over this one's."""
    faster_least: float
    """The lowest of the repeats."""
    faster_most: float
    """The highest of the repeats."""
    faster_than_sequential: float | None
    """Wall time of the loop sequential over this one's; None where that did not run."""
    same: float | None
    """Share of the runs whose trace is token for token that of the run sequential with the same seed, 0 to 1; None for
    base only and where nothing ran sequential."""
    efficiency_measured: float
    """Seconds of the committed tokens over wall seconds of the runs, 0 to 1, as measured: engines that do several
    things at once stretch each, and this figure with it."""
    efficiency_alone: float
    """The same with the committed tokens at the pace that each engine has alone."""
    right: float
    """Share of the answers that are right, 0 to 1, over all repeats, each of which has seeds of its own."""
    base_right: float
    """The same of base only."""
    accepted: float | None
    """Share of the judged proposals that were accepted; None where none was judged."""


@dataclass(frozen=True)
class Figures:
    """What was found at one number of runs at once."""

    calibration: Calibration
    """The pace of the engines."""
    rows: list[Speed]
    """One a scenario."""


@dataclass(frozen=True)
class SpeedBenchmark:
    """What is measured on one pair."""

    pair: EnginePair
    """The engines."""
    draft: DraftKind
    """Which draft the pair has."""
    scenarios: Sequence[Scenario]
    """What is compared, base only among it."""
    problems: Sequence[Problem]
    """What is asked."""
    repeats: int = 5
    """How often each scenario runs them."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings that all scenarios share."""
    report: Callable[[str], None] = lambda _line: None
    """Is told the seconds of each repeat when it ends."""

    def measure(self, concurrency: int) -> Figures:
        """Every scenario in each repeat, in an order that changes, behind a calibration of the engines."""
        graphs = {scenario.name: self._graph(scenario.settings) for scenario in self.scenarios}
        workloads: dict[str, list[Workload]] = {scenario.name: [] for scenario in self.scenarios}
        paces = []
        for turn in range(self.repeats):
            paces.append(self._calibrate(concurrency))
            pace: SecondsPerToken = {"draft": paces[-1].draft_seconds, "base": paces[-1].base_seconds}
            for name, workload in self._repeat(graphs, concurrency, pace, turn).items():
                workloads[name].append(workload)
            took = ", ".join(f"{name} {of[-1].seconds:.2f} s" for name, of in workloads.items())
            self.report(f"{concurrency} at once, repeat {turn + 1} of {self.repeats}: {took}")
        rows = [make_row(each, concurrency, workloads, len(self.problems), self.draft) for each in self.scenarios]
        return Figures(_median(paces), rows)

    def _repeat(
        self, graphs: dict[str, CompiledSpecReason], concurrency: int, pace: SecondsPerToken, turn: int
    ) -> dict[str, Workload]:
        """Each scenario over all problems, some of them at a time: when the machine slows down, all scenarios do."""
        workloads: dict[str, Workload] = {}
        for number, (first, part) in enumerate(parts(self.problems, concurrency)):
            for scenario in rotated(self.scenarios, turn + number):
                self.pair.run(lambda: reset_prefix_caches(self.pair))
                seed = turn * len(self.problems) + first  # those right are counted over as many different runs
                workload = run_workload(graphs[scenario.name], part, concurrency, pace, seed)
                workloads[scenario.name] = (
                    workloads[scenario.name] + workload if scenario.name in workloads else workload
                )
        return workloads

    def _calibrate(self, concurrency: int) -> Calibration:
        """Time the engines alone: the draft with all it writes accepted, and the base writing everything."""
        costs = []
        for settings in ({"threshold": 0.0}, BASE_ONLY.settings):
            _, finished = run_all(self._graph(CALIBRATING | settings), self.problems[:SAMPLE], 1)
            costs += [cost for each in finished for cost in each.costs]
        return Calibration(
            draft=self.draft, concurrency=concurrency, draft_seconds=seconds_per_token(costs, "draft"),
            base_seconds=seconds_per_token(costs, "base"), calls=sum(cost.usage.calls for cost in costs),
        )  # fmt: skip

    def _graph(self, settings: dict[str, Any]) -> CompiledSpecReason:
        return create_specreason(self.pair, **{**self.settings, **settings}).compile()


def parts(problems: Sequence[Problem], concurrency: int) -> list[tuple[int, Sequence[Problem]]]:
    """The problems in parts, each with its first one's number: so long that few of the runs are at an end of one."""
    count = max(1, len(problems) // max(PART, PARTS * concurrency))
    edges = [len(problems) * each // count for each in range(count + 1)]
    return [(first, problems[first:end]) for first, end in pairwise(edges)]


def make_row(
    scenario: Scenario,
    concurrency: int,
    workloads: dict[str, list[Workload]],
    problems: int,
    draft: DraftKind,
) -> Speed:
    """The figures of a scenario, from the workloads of all."""
    mine, alone, turns = workloads[scenario.name], workloads[BASE_ONLY.name], workloads.get(SEQUENTIAL.name)
    faster = _ratios(alone, mine)
    proposals = sum(workload.proposals for workload in mine)
    return Speed(
        draft=draft, concurrency=concurrency, scenario=scenario.name, settings=scenario.settings, problems=problems,
        repeats=len(mine),
        seconds=statistics.median(workload.seconds for workload in mine),
        faster=statistics.median(faster), faster_least=min(faster), faster_most=max(faster),
        faster_than_sequential=statistics.median(_ratios(turns, mine)) if turns else None,
        same=_same(turns, mine) if turns and scenario is not BASE_ONLY else None,
        efficiency_measured=statistics.median(workload.needed / workload.running for workload in mine),
        efficiency_alone=statistics.median(workload.needed_alone / workload.running for workload in mine),
        right=statistics.mean(workload.right for workload in mine),
        base_right=statistics.mean(workload.right for workload in alone),
        accepted=sum(workload.accepted for workload in mine) / proposals if proposals else None,
    )  # fmt: skip


def _ratios(others: Sequence[Workload], mine: Sequence[Workload]) -> list[float]:
    """How many times as fast as the other scenario, repeat by repeat."""
    return [other.seconds / workload.seconds for other, workload in zip(others, mine, strict=True)]


def _same(others: Sequence[Workload], mine: Sequence[Workload]) -> float:
    """Share of the traces that are those of the other scenario."""
    pairs = [zip(other.traces, workload.traces, strict=True) for other, workload in zip(others, mine, strict=True)]
    return statistics.mean(one == another for traces in pairs for one, another in traces)


def _median(paces: Sequence[Calibration]) -> Calibration:
    """The calibrations of all repeats as one."""
    draft, base = (statistics.median(getattr(each, f"{role}_seconds") for each in paces) for role in ("draft", "base"))
    return paces[0].model_copy(update={"draft_seconds": draft, "base_seconds": base})
