"""How many runs meet their deadlines, when runs with different deadlines share one pair.

Runs arrive at random, at a fraction of the rate that the pair can serve. A run is in time if its model ended the
thinking by itself and the answer came before the deadline. A run whose thinking was ended by the deadline is not in
time, although it has an answer.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from specreason_graph.bench.run import reset_prefix_caches
from specreason_graph.engines.pair import EnginePair
from specreason_graph.graph import CompiledSpecReason, create_specreason
from specreason_graph.models.abacus.problems import Problem
from specreason_graph.record.records import Record

DEFAULT_CONCURRENCY = 16
"""Runs at the same time while the capacity is measured."""
OBJECTIVES = (1.5, 4.0, 20.0)
"""Deadlines, as multiples of the time that a single run takes."""


class Punctuality(Record):
    """How many runs met their deadlines."""

    runs: int
    """Number of runs."""
    share: float
    """Load: fraction of the pair's capacity, 0 to 1."""
    in_time: float
    """Fraction of the runs that were in time, 0 to 1."""
    by_objective: list[float]
    """Fraction of the runs in time for each of `OBJECTIVES`, 0 to 1."""
    answered: float
    """Fraction of the runs with an answer before the deadline, including those that the deadline ended, 0 to 1."""
    slowest: float
    """Time of the slowest run, in seconds."""


@dataclass(frozen=True)
class Arrival:
    """One run that will arrive."""

    at: float
    """When the run arrives, in seconds after the start."""
    problem: Problem
    """Problem of the run."""
    seed: int
    """Seed of the run."""
    kind: int
    """Index of the run's deadline in `OBJECTIVES`."""


def measure_punctuality(pair: EnginePair, problems: Sequence[Problem], load: float) -> Punctuality:
    """Measure the pair's capacity, then let runs arrive at random, and count those that are in time."""
    graph = create_specreason(pair).compile()
    single, rate = asyncio.run(_capacity(graph, problems[: 2 * DEFAULT_CONCURRENCY]))
    rng, at, arrivals = random.Random(0), 0.0, []  # always the same arrivals, so that two measurements compare
    for seed, problem in enumerate(problems):
        at += rng.expovariate(load * rate)
        arrivals.append(Arrival(at, problem, seed, rng.randrange(len(OBJECTIVES))))
    pair.run(lambda: reset_prefix_caches(pair))  # the capacity was measured on some of the same problems
    return asyncio.run(_play(graph, arrivals, single, load))


async def _capacity(graph: CompiledSpecReason, problems: Sequence[Problem]) -> tuple[float, float]:
    """Return the seconds of a run that has the pair to itself, and the runs per second at full load."""
    times = []
    for problem in problems[:8]:
        begun = time.perf_counter()
        await graph.ainvoke({"question": problem.question})
        times.append(time.perf_counter() - begun)
    begun, config = time.perf_counter(), {"max_concurrency": DEFAULT_CONCURRENCY}
    await graph.abatch([{"question": problem.question} for problem in problems], config)  # type: ignore[arg-type]
    return statistics.median(times), len(problems) / (time.perf_counter() - begun)


async def _play(graph: CompiledSpecReason, arrivals: Sequence[Arrival], single: float, load: float) -> Punctuality:
    async def work(arrival: Arrival) -> tuple[int, float, bool]:
        await asyncio.sleep(arrival.at)
        begun = time.perf_counter()
        settings = {"deadline_seconds": OBJECTIVES[arrival.kind] * single, "seed": arrival.seed}
        config: Any = {"configurable": {"specreason": settings}}
        outcome = await graph.ainvoke({"question": arrival.problem.question}, config)
        return arrival.kind, time.perf_counter() - begun, outcome["stop_reason"] == "answered"

    ended = await asyncio.gather(*map(work, arrivals))
    due = [OBJECTIVES[kind] * single for kind, _, _ in ended]
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
