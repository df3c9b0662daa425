"""The speed benchmark: the loop and the base model alone, on the same problems, in several repeats.

Scenarios are compared within one repeat only. There they take turns, with a few problems each and with empty prefix
caches. The results are medians of the ratios, so that a machine that becomes slower over time does not change them.
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
"""Number of problems in a calibration."""
PART, PARTS = 10, 8
"""Problems that a scenario gets in one turn: at least `PART`, and at least `PARTS` times the concurrency."""
CALIBRATING = {"lookahead": 0, "max_steps": 6, "answer_tokens": 64, **SHORT}
"""Settings of a calibration: short runs with one call at a time."""


class Calibration(Record):
    """The speed of each engine alone: one question at a time, and nothing else running; medians over the repeats."""

    kind: Literal["calibration"] = "calibration"
    """Kind of this JSON line."""
    draft: DraftKind
    """The draft that was measured."""
    concurrency: int
    """Runs at the same time in the scenarios that were measured together with it."""
    draft_seconds: float
    """Seconds per token of the draft: the median of its calls, with the prefill of new prompt tokens included."""
    base_seconds: float
    """Seconds per token of the base: the median of its calls, with the prefill of new prompt tokens included."""
    calls: int
    """Calls of both engines in a repeat."""


class Speed(Record):
    """The figures of one scenario at one concurrency; ratios are medians over the repeats."""

    kind: Literal["speed"] = "speed"
    """Kind of this JSON line."""
    draft: DraftKind
    """The draft of the scenario."""
    concurrency: int
    """Runs at the same time."""
    scenario: str
    """Name of the scenario."""
    settings: dict[str, Any]
    """Settings of the scenario, in addition to those that all scenarios share."""
    problems: int
    """Number of problems in a repeat."""
    repeats: int
    """Number of repeats."""
    seconds: float
    """Wall time of a repeat in seconds; median."""
    faster: float
    """Wall time of base only divided by that of this scenario; above 1 the scenario is faster."""
    faster_least: float
    """The lowest such ratio of a repeat."""
    faster_most: float
    """The highest such ratio of a repeat."""
    faster_than_sequential: float | None
    """Wall time of the scenario ``sequential`` divided by that of this one; None where that one was not measured."""
    same: float | None
    """Fraction of the runs whose trace is the same as in ``sequential``, token for token, with the same seed, 0 to 1.

    None for base only, and where ``sequential`` was not measured.
    """
    efficiency_measured: float
    """Measured seconds of the calls behind the committed tokens, divided by the wall time of the runs, 0 to 1.

    A call takes longer while its engine also works on others, and that makes this figure higher.
    """
    efficiency_unloaded: float
    """The same ratio, with the committed tokens at the speed that each engine has alone."""
    right: float
    """Fraction of right answers, 0 to 1, over all repeats, which have different seeds."""
    base_right: float
    """Fraction of right answers of base only, 0 to 1."""
    accepted: float | None
    """Fraction of the scored proposals that were accepted, 0 to 1; None where none was scored."""


@dataclass(frozen=True)
class Figures:
    """The results at one concurrency."""

    calibration: Calibration
    """The speed of the engines alone."""
    rows: list[Speed]
    """One row per scenario."""


@dataclass(frozen=True)
class SpeedBenchmark:
    """The speed benchmark of one pair."""

    pair: EnginePair
    """The engines."""
    draft: DraftKind
    """The draft of the pair."""
    scenarios: Sequence[Scenario]
    """The scenarios to compare, base only among them."""
    problems: Sequence[Problem]
    """The problems to solve."""
    repeats: int = 5
    """How often each scenario solves the problems."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings that all scenarios share."""
    report: Callable[[str], None] = lambda _line: None
    """Called with a line of text when a repeat ends."""

    def measure(self, concurrency: int) -> Figures:
        """Measure all scenarios at one concurrency; each repeat begins with a calibration of the engines."""
        graphs = {scenario.name: self._graph(scenario.settings) for scenario in self.scenarios}
        workloads: dict[str, list[Workload]] = {scenario.name: [] for scenario in self.scenarios}
        calibrations = []
        for repeat in range(self.repeats):
            # In each repeat anew, because the machine may become slower over time.
            calibrations.append(self._calibrate(concurrency))
            pace: SecondsPerToken = {"draft": calibrations[-1].draft_seconds, "base": calibrations[-1].base_seconds}
            for name, workload in self._repeat(graphs, concurrency, pace, repeat).items():
                workloads[name].append(workload)
            took = ", ".join(f"{name} {of[-1].seconds:.2f} s" for name, of in workloads.items())
            self.report(f"{concurrency} at once, repeat {repeat + 1} of {self.repeats}: {took}")
        rows = [make_row(each, concurrency, workloads, len(self.problems), self.draft) for each in self.scenarios]
        return Figures(_median(calibrations), rows)

    def _repeat(
        self, graphs: dict[str, CompiledSpecReason], concurrency: int, pace: SecondsPerToken, repeat: int
    ) -> dict[str, Workload]:
        """Run each scenario over all problems, in parts by turns, so that a slower machine slows all of them."""
        workloads: dict[str, Workload] = {}
        for number, (first, part) in enumerate(parts(self.problems, concurrency)):
            for scenario in rotated(self.scenarios, repeat + number):
                # All scenarios ask the same questions: each would find the prompts of the one before in the cache.
                self.pair.run(lambda: reset_prefix_caches(self.pair))
                # Other seeds in each repeat, so that right answers are counted over different runs; the same seeds for
                # all scenarios, so that their traces can be compared.
                seed = repeat * len(self.problems) + first
                workload = run_workload(graphs[scenario.name], part, concurrency, pace, seed)
                workloads[scenario.name] = (
                    workloads[scenario.name] + workload if scenario.name in workloads else workload
                )
        return workloads

    def _calibrate(self, concurrency: int) -> Calibration:
        """Time each engine alone: the draft with every proposal accepted, and the base with every step its own."""
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
    """Split the problems into parts; return the index of the first problem and the problems of each part."""
    # At the end of a part fewer runs than the concurrency are left: parts are long, so that this weighs little.
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
    """Compute the figures of a scenario from the workloads of all scenarios."""
    mine, base_only, sequential = workloads[scenario.name], workloads[BASE_ONLY.name], workloads.get(SEQUENTIAL.name)
    faster = _ratios(base_only, mine)
    proposals = sum(workload.proposals for workload in mine)
    return Speed(
        draft=draft, concurrency=concurrency, scenario=scenario.name, settings=scenario.settings, problems=problems,
        repeats=len(mine),
        seconds=statistics.median(workload.seconds for workload in mine),
        faster=statistics.median(faster), faster_least=min(faster), faster_most=max(faster),
        faster_than_sequential=statistics.median(_ratios(sequential, mine)) if sequential else None,
        same=_same(sequential, mine) if sequential and scenario is not BASE_ONLY else None,
        efficiency_measured=statistics.median(workload.needed / workload.running for workload in mine),
        efficiency_unloaded=statistics.median(workload.needed_unloaded / workload.running for workload in mine),
        right=statistics.mean(workload.right for workload in mine),
        base_right=statistics.mean(workload.right for workload in base_only),
        accepted=sum(workload.accepted for workload in mine) / proposals if proposals else None,
    )  # fmt: skip


def _ratios(others: Sequence[Workload], mine: Sequence[Workload]) -> list[float]:
    """Return how many times as fast as the other scenario, for each repeat."""
    return [other.seconds / workload.seconds for other, workload in zip(others, mine, strict=True)]


def _same(others: Sequence[Workload], mine: Sequence[Workload]) -> float:
    """Return the fraction of the traces that are the same in both scenarios."""
    pairs = [zip(other.traces, workload.traces, strict=True) for other, workload in zip(others, mine, strict=True)]
    return statistics.mean(one == another for traces in pairs for one, another in traces)


def _median(calibrations: Sequence[Calibration]) -> Calibration:
    """Combine the calibrations of all repeats into one, by medians."""
    draft, base = (
        statistics.median(getattr(each, f"{role}_seconds") for each in calibrations) for role in ("draft", "base")
    )
    return calibrations[0].model_copy(update={"draft_seconds": draft, "base_seconds": base})
