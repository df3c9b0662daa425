"""One workload: all problems through one graph, so many of them at once."""

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

from specreason_graph.bench.efficiency import SecondsPerToken, committed_costs, seconds_alone, seconds_measured
from specreason_graph.config import CONFIG_KEY
from specreason_graph.engines.pair import EnginePair
from specreason_graph.graph import CompiledSpecReason
from specreason_graph.models.abacus.problems import Problem, parse_answer
from specreason_graph.record.records import Cost, Record, Step
from specreason_graph.record.state import Outcome
from specreason_graph.record.summary import Summary


@dataclass(frozen=True)
class FinishedRun:
    """One problem's run."""

    problem: Problem
    """What was asked."""
    seconds: float
    """Wall time, that in which it waited for its turn left out."""
    outcome: Outcome
    """What the graph returned."""

    @cached_property
    def steps(self) -> list[Step]:
        """The committed steps."""
        return [Step.load(step) for step in self.outcome["trace"]]

    @property
    def total(self) -> Summary:
        """What it took."""
        return Summary.load(self.outcome["trace_summary"])

    @property
    def costs(self) -> list[Cost]:
        """The engine work behind the committed tokens."""
        return committed_costs(self.steps, self.total)

    @property
    def is_right(self) -> bool:
        """Whether the answer is the problem's."""
        return parse_answer(self.outcome["answer"]) == self.problem.answer

    @property
    def trace(self) -> str:
        """A digest of who wrote which tokens, of those rejected and of the answer; of nothing that a clock tells."""
        said = [(step.author, step.token_ids, step.discarded and step.discarded.token_ids) for step in self.steps]
        return sha256(repr((said, self.outcome["answer"])).encode()).hexdigest()


class Workload(Record):
    """Figures of all problems together."""

    seconds: float
    """Wall time."""
    running: float
    """Wall time of the runs, added up; more than ``seconds`` when several run at once."""
    needed: float
    """Seconds of the engine work behind the committed tokens, as measured."""
    needed_alone: float
    """The same tokens at the pace each engine has alone."""
    right: float
    """Share of the answers that are right, 0 to 1."""
    proposals: int
    """Proposals judged."""
    accepted: int
    """Proposals committed."""
    traces: list[str]
    """Digests of the traces, one a problem: two runs with the same one differ in seconds at most."""

    def __add__(self, other: Workload) -> Workload:
        """Both as one workload over all their problems."""
        right = self.right * len(self.traces) + other.right * len(other.traces)
        sums = {name: getattr(self, name) + getattr(other, name) for name in Workload.model_fields}
        return Workload(**{**sums, "right": right / len(sums["traces"])})


async def reset_prefix_caches(pair: EnginePair) -> None:
    """Empty the prefix caches, so that no scenario finds what another one has shown; a server keeps what it has."""
    for engine in dict.fromkeys((pair.base, pair.draft)):
        if reset := getattr(engine, "reset_prefix_cache", None):
            await reset()


def run_all(
    graph: CompiledSpecReason, problems: Sequence[Problem], concurrency: int, seed: int = 0
) -> tuple[float, list[FinishedRun]]:
    """Wall time and the runs; the first problem has this seed, and each other one the next."""
    gc.collect()
    return asyncio.run(_run_all(graph, problems, concurrency, seed))


def run_workload(
    graph: CompiledSpecReason, problems: Sequence[Problem], concurrency: int, pace: SecondsPerToken, seed: int
) -> Workload:
    """Time a workload; records are read after the clock has stopped."""
    seconds, finished = run_all(graph, problems, concurrency, seed)
    totals = [each.total for each in finished]
    return Workload(
        seconds=seconds, running=sum(each.seconds for each in finished),
        needed=sum(seconds_measured(each.costs) for each in finished),
        needed_alone=sum(seconds_alone(each.costs, pace) for each in finished),
        right=sum(each.is_right for each in finished) / len(finished),
        proposals=sum(total.proposals for total in totals), accepted=sum(total.accepted for total in totals),
        traces=[each.trace for each in finished],
    )  # fmt: skip


async def _run_all(
    graph: CompiledSpecReason, problems: Sequence[Problem], concurrency: int, seed: int
) -> tuple[float, list[FinishedRun]]:
    gate = asyncio.Semaphore(concurrency)

    async def one(own: int, problem: Problem) -> FinishedRun:
        async with gate:
            begun = time.perf_counter()
            outcome = await graph.ainvoke({"question": problem.question}, _config(own))
            return FinishedRun(problem, time.perf_counter() - begun, cast("Outcome", outcome))

    begun = time.perf_counter()
    finished = await asyncio.gather(*(one(own, problem) for own, problem in enumerate(problems, seed)))
    return time.perf_counter() - begun, finished


def _config(seed: int) -> RunnableConfig:
    return {"configurable": {"thread_id": f"bench-{seed}", CONFIG_KEY: {"seed": seed}}}
