"""One workload: problems that run through one graph, several at the same time."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import cast

from langchain_core.runnables import RunnableConfig

from specreason_graph.bench.efficiency import SecondsPerToken, committed_costs, seconds_measured, seconds_unloaded
from specreason_graph.config import CONFIG_KEY
from specreason_graph.engines.pair import EnginePair
from specreason_graph.graph import CompiledSpecReason
from specreason_graph.models.abacus.problems import Problem, parse_answer
from specreason_graph.record.records import Cost, Record, Step
from specreason_graph.record.state import Outcome
from specreason_graph.record.summary import Summary


@dataclass(frozen=True)
class FinishedRun:
    """The finished run of one problem."""

    problem: Problem
    """The problem."""
    seconds: float
    """Wall time in seconds, from when the run began."""
    outcome: Outcome
    """Output of the graph."""

    @cached_property
    def steps(self) -> list[Step]:
        """The committed steps."""
        return [Step.load(step) for step in self.outcome["trace"]]

    @property
    def total(self) -> Summary:
        """Totals of the run."""
        return Summary.load(self.outcome["trace_summary"])

    @property
    def costs(self) -> list[Cost]:
        """The engine work behind the committed tokens."""
        return committed_costs(self.steps, self.total)

    @property
    def is_right(self) -> bool:
        """Whether the answer is right."""
        return parse_answer(self.outcome["answer"]) == self.problem.answer

    @property
    def trace(self) -> str:
        """SHA-256 of authors, committed and rejected tokens, and the answer."""
        # Nothing that depends on the clock, as costs do: the digest is for comparing runs.
        steps = [(step.author, step.token_ids, step.discarded and step.discarded.token_ids) for step in self.steps]
        return sha256(repr((steps, self.outcome["answer"])).encode()).hexdigest()


class Workload(Record):
    """The figures of all problems together."""

    seconds: float
    """Wall time in seconds."""
    running: float
    """Sum of the runs' wall times in seconds; more than ``seconds`` when runs overlap."""
    needed: float
    """Measured seconds of the engine work behind the committed tokens."""
    needed_unloaded: float
    """Seconds of the same tokens at the speed that each engine has alone."""
    right: float
    """Fraction of the answers that are right, 0 to 1."""
    proposals: int
    """Proposals that were scored."""
    accepted: int
    """Proposals that were accepted."""
    traces: list[str]
    """Digests of the traces, one per problem; runs with the same digest have the same authors, tokens and answer."""

    def __add__(self, other: Workload) -> Workload:
        """Combine two workloads into one over the problems of both."""
        right = self.right * len(self.traces) + other.right * len(other.traces)
        sums = {name: getattr(self, name) + getattr(other, name) for name in Workload.model_fields}
        return Workload(**{**sums, "right": right / len(sums["traces"])})


async def reset_prefix_caches(pair: EnginePair) -> None:
    """Empty the prefix caches of both engines, where the engine allows it; a server keeps its cache."""
    for engine in dict.fromkeys((pair.base, pair.draft)):  # one engine may play both roles
        if reset := getattr(engine, "reset_prefix_cache", None):
            await reset()


def run_all(
    graph: CompiledSpecReason, problems: Sequence[Problem], concurrency: int, seed: int = 0
) -> tuple[float, list[FinishedRun]]:
    """Run all problems; return the wall time and the finished runs. The seeds count up from ``seed``."""
    gc.collect()  # so that garbage of earlier workloads is not collected while the clock runs
    return asyncio.run(_run_all(graph, problems, concurrency, seed))


def run_workload(
    graph: CompiledSpecReason, problems: Sequence[Problem], concurrency: int, pace: SecondsPerToken, seed: int
) -> Workload:
    """Run and time a workload, and compute its figures."""
    seconds, finished = run_all(graph, problems, concurrency, seed)
    totals = [each.total for each in finished]
    return Workload(
        seconds=seconds, running=sum(each.seconds for each in finished),
        needed=sum(seconds_measured(each.costs) for each in finished),
        needed_unloaded=sum(seconds_unloaded(each.costs, pace) for each in finished),
        right=sum(each.is_right for each in finished) / len(finished),
        proposals=sum(total.proposals for total in totals), accepted=sum(total.accepted for total in totals),
        traces=[each.trace for each in finished],
    )  # fmt: skip


async def _run_all(
    graph: CompiledSpecReason, problems: Sequence[Problem], concurrency: int, seed: int
) -> tuple[float, list[FinishedRun]]:
    limit = asyncio.Semaphore(concurrency)

    async def one(own: int, problem: Problem) -> FinishedRun:
        async with limit:
            begun = time.perf_counter()  # the wait for the semaphore does not count
            outcome = await graph.ainvoke({"question": problem.question}, _config(own))
            return FinishedRun(problem, time.perf_counter() - begun, cast("Outcome", outcome))

    begun = time.perf_counter()
    finished = await asyncio.gather(*(one(own, problem) for own, problem in enumerate(problems, seed)))
    return time.perf_counter() - begun, finished


def _config(seed: int) -> RunnableConfig:
    return {"configurable": {"thread_id": f"bench-{seed}", CONFIG_KEY: {"seed": seed}}}
