"""Strategies side by side on held-out problems: right answers, acceptance, tokens and time against the base alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from specreason_graph import EnginePair, create_specreason
from specreason_graph.bench.scenarios import BASE_ONLY, rotated
from specreason_graph.bench.scenarios import Scenario as Strategy
from specreason_graph.bench.speed import parts
from specreason_graph.bench.workload import FinishedRun, reset_prefix_caches, run_all
from specreason_graph.models.abacus.problems import Problem
from specreason_graph.record.records import Engine

CONFIDENT = {"kind": "confidence", "threshold": -0.3}
LIKELY = {"kind": "likelihood", "threshold": -1.0}
STRATEGIES = (
    BASE_ONLY,
    Strategy(name="digit"),
    Strategy(name="paper", settings={"strategy": "paper"}),
    Strategy(name="likelihood", settings={"judge": LIKELY}),
    Strategy(name="confidence", settings={"judge": CONFIDENT}),
    Strategy(
        name="cascade",
        settings={"judge": {"kind": "cascade", "first": "confidence", "low": -2.0, "high": -0.1, "then": LIKELY}},
    ),
    Strategy(name="both", settings={"judge": {"kind": "all_of", "judges": [CONFIDENT, LIKELY]}}),
    Strategy(name="digit, early exit", settings={"stopping": "settled"}),
    Strategy(name="likelihood, early exit", settings={"judge": LIKELY, "stopping": "settled"}),
)
"""What is compared; thresholds are those that separate right steps from wrong ones on other problems."""


@dataclass
class Total:
    """What one strategy did with all problems."""

    seconds: float = 0.0
    """Wall-clock seconds."""
    runs: list[FinishedRun] = field(default_factory=list)
    """The runs."""

    def tokens(self, engine: Engine) -> int:
        """Tokens that a model wrote, rejected and wasted work included."""
        costs = (cost for run in self.runs for cost in run.total.costs if cost.engine == engine)
        return sum(cost.usage.generated_tokens for cost in costs)

    def read(self, engine: Engine) -> int:
        """Prompt tokens that a model had to read, those in its cache left out."""
        costs = (cost for run in self.runs for cost in run.total.costs if cost.engine == engine)
        return sum(cost.usage.prompt_tokens - cost.usage.cached_tokens for cost in costs)


def measure(
    pair: EnginePair, problems: Sequence[Problem], concurrency: int, strategies: Sequence[Strategy] = STRATEGIES
) -> dict[str, Total]:
    """Solve the problems under each strategy at temperature 0, in parts by turns and with empty prefix caches."""
    graphs = {
        each.name: create_specreason(pair, **{"temperature": 0.0, **each.settings}).compile() for each in strategies
    }
    totals = {each.name: Total() for each in strategies}
    done = 0
    for number, (first, part) in enumerate(parts(problems, concurrency)):
        for strategy in rotated(strategies, number):
            pair.run(lambda: reset_prefix_caches(pair))
            seconds, runs = run_all(graphs[strategy.name], part, concurrency, first)
            totals[strategy.name].seconds += seconds
            totals[strategy.name].runs += runs
        done += len(part)
        took = ", ".join(f"{name} {total.seconds:.0f} s" for name, total in totals.items())
        print(f"{done} of {len(problems)} problems: {took}", file=sys.stderr, flush=True)
    return totals


def table(totals: dict[str, Total]) -> Iterator[str]:
    """The lines of the table, in Markdown."""
    yield "| strategy | right | accepted | tokens of the base | of the draft | read by the base | times base alone |"
    yield "|---|---|---|---|---|---|---|"
    alone = totals[BASE_ONLY.name].seconds
    for name, total in totals.items():
        proposals = sum(run.total.proposals for run in total.runs)
        accepted = f"{sum(run.total.accepted for run in total.runs) / proposals:.0%}" if proposals else ""
        yield (
            f"| {name} | {sum(run.is_right for run in total.runs)} of {len(total.runs)} | {accepted} | "
            f"{total.tokens('base'):,} | {total.tokens('draft'):,} | {total.read('base'):,} | "
            f"{alone / total.seconds:.2f} |"
        )


def bytes_of_steps(
    pair: EnginePair, problems: Sequence[Problem], strategies: Sequence[Strategy] = STRATEGIES
) -> Iterator[str]:
    """How many bytes of JSON a committed step takes under each strategy."""
    for strategy in strategies:
        graph, sizes = create_specreason(pair, **{"temperature": 0.0, **strategy.settings}).compile(), list[int]()
        for problem in problems:
            sizes += [len(json.dumps(step)) for step in graph.invoke({"question": problem.question})["trace"]]
        yield f"| {strategy.name} | {sum(sizes) / len(sizes):,.0f} |"
