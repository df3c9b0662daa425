"""Runs with deadlines of their own over one pair: how many are in time.

Runs arrive at random at a share of what the pair can take. In time is a run whose model ended its thinking and whose
answer came before the deadline; one whose thinking the deadline cut short is not, although it has an answer.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from specreason_graph.bench.workload import reset_prefix_caches
from specreason_graph.engines.pair import EnginePair
from specreason_graph.graph import CompiledSpecReason, create_specreason
from specreason_graph.models.abacus.problems import Problem
from specreason_graph.record.records import Record

DEFAULT_CONCURRENCY = 16
"""Runs at once while capacity is measured."""
OBJECTIVES = (1.5, 4.0, 20.0)
"""Deadlines, as multiples of what a run takes alone."""


class Punctuality(Record):
    """What came of the runs."""

    runs: int
    """How many there were."""
    share: float
    """Share of the pair's capacity that they were to take."""
    in_time: float
    """Share of them that were, 0 to 1."""
    by_objective: list[float]
    """The same for each kind of deadline, the tightest first."""
    answered: float
    """Share that had an answer before the deadline, cut short or not."""
    slowest: float
    """Longest that a run took, in seconds."""


@dataclass(frozen=True)
class Arrival:
    """One run to come."""

    at: float
    """Seconds after the start."""
    problem: Problem
    """What is asked."""
    seed: int
    """Its seed."""
    kind: int
    """Which of the objectives it has."""


def measure_punctuality(pair: EnginePair, problems: Sequence[Problem], load: float) -> Punctuality:
    """Measure the pair's capacity, then let runs arrive."""
    graph = create_specreason(pair).compile()
    alone, rate = asyncio.run(_capacity(graph, problems[: 2 * DEFAULT_CONCURRENCY]))
    rng, at, arrivals = random.Random(0), 0.0, []
    for seed, problem in enumerate(problems):
        at += rng.expovariate(load * rate)
        arrivals.append(Arrival(at, problem, seed, rng.randrange(len(OBJECTIVES))))
    pair.run(lambda: reset_prefix_caches(pair))
    return asyncio.run(_play(graph, arrivals, alone, load))


async def _capacity(graph: CompiledSpecReason, problems: Sequence[Problem]) -> tuple[float, float]:
    """Seconds of a run that is alone, and runs a second when there are always more."""
    times = []
    for problem in problems[:8]:
        begun = time.perf_counter()
        await graph.ainvoke({"question": problem.question})
        times.append(time.perf_counter() - begun)
    begun, config = time.perf_counter(), {"max_concurrency": DEFAULT_CONCURRENCY}
    await graph.abatch([{"question": problem.question} for problem in problems], config)  # type: ignore[arg-type]
    return statistics.median(times), len(problems) / (time.perf_counter() - begun)


async def _play(graph: CompiledSpecReason, arrivals: Sequence[Arrival], alone: float, load: float) -> Punctuality:
    async def work(arrival: Arrival) -> tuple[int, float, bool]:
        await asyncio.sleep(arrival.at)
        begun = time.perf_counter()
        knobs = {"deadline_seconds": OBJECTIVES[arrival.kind] * alone, "seed": arrival.seed}
        config: Any = {"configurable": {"specreason": knobs}}
        outcome = await graph.ainvoke({"question": arrival.problem.question}, config)
        return arrival.kind, time.perf_counter() - begun, outcome["stop_reason"] == "answered"

    ended = await asyncio.gather(*map(work, arrivals))
    due = [OBJECTIVES[kind] * alone for kind, _, _ in ended]
    met = [whole and took <= limit for (_, took, whole), limit in zip(ended, due, strict=True)]
    kinds = range(len(OBJECTIVES))
    return Punctuality(
        runs=len(ended), share=load, in_time=statistics.mean(met),
        by_objective=[
            statistics.mean([m for m, (k, _, _) in zip(met, ended, strict=True) if k == kind] or [0]) for kind in kinds
        ],
        answered=statistics.mean(took <= limit for (_, took, _), limit in zip(ended, due, strict=True)),
        slowest=max(took for _, took, _ in ended),
    )  # fmt: skip
