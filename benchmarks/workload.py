"""Problems that are run through one graph in memory, several at the same time."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

from langchain_core.runnables import RunnableConfig

from specreason_graph.config import CONFIG_KEY
from specreason_graph.graph import CompiledSpecReason
from specreason_graph.models.abacus.problems import Problem
from specreason_graph.record.records import Step
from specreason_graph.record.state import Outcome
from specreason_graph.record.summary import Summary

PART, PARTS = 10, 8
"""Problems of a part: at least `PART`, and at least `PARTS` times the concurrency."""


class FinishedRun:
    """The finished run of one problem."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    @cached_property
    def steps(self) -> list[Step]:
        """The committed steps."""
        return [Step.load(step) for step in self.outcome["trace"]]

    @property
    def total(self) -> Summary:
        """Totals of the run."""
        return Summary.load(self.outcome["trace_summary"])


def parts(problems: Sequence[Problem], concurrency: int) -> list[tuple[int, Sequence[Problem]]]:
    """Split the problems into parts; return the index of the first problem and the problems of each part."""
    # At the end of a part fewer runs than the concurrency are left: parts are long, so that this weighs little.
    count = max(1, len(problems) // max(PART, PARTS * concurrency))
    edges = [len(problems) * each // count for each in range(count + 1)]
    return [(first, problems[first:end]) for first, end in pairwise(edges)]


def run_all(
    graph: CompiledSpecReason, problems: Sequence[Problem], concurrency: int, seed: int
) -> tuple[float, list[FinishedRun]]:
    """Run all problems; return the wall time and the finished runs. The seeds count up from ``seed``."""
    gc.collect()  # so that garbage of earlier runs is not collected while the clock runs
    return asyncio.run(_run_all(graph, problems, concurrency, seed))


async def _run_all(
    graph: CompiledSpecReason, problems: Sequence[Problem], concurrency: int, seed: int
) -> tuple[float, list[FinishedRun]]:
    limit = asyncio.Semaphore(concurrency)

    async def one(own: int, problem: Problem) -> FinishedRun:
        config: RunnableConfig = {"configurable": {"thread_id": f"bench-{own}", CONFIG_KEY: {"seed": own}}}
        async with limit:
            outcome: Outcome = await graph.ainvoke({"question": problem.question}, config)  # type: ignore[assignment]
            return FinishedRun(outcome)

    begun = time.perf_counter()
    finished = await asyncio.gather(*(one(own, problem) for own, problem in enumerate(problems, seed)))
    return time.perf_counter() - begun, finished
