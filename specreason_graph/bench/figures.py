"""Figures of a benchmark: for each strategy accuracy, time against the base alone, and what it took, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.stats import binomtest

from specreason_graph.bench.results import Results, RunRow
from specreason_graph.bench.strategies import BASE, Strategy
from specreason_graph.record.records import Cost, Engine, Purpose, Record, Usage

RESAMPLES = 4000
"""Samples of a bootstrap."""
LEVEL = 0.95
"""Probability with which an interval holds what it is about."""
FEWEST = 10
"""Parts from which on whole parts are drawn in a bootstrap; below that, questions are."""
Numbers = NDArray[np.float64]


class Interval(Record):
    """A figure, and where the true one lies with 95% confidence."""

    value: float
    """The figure."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""


class Spent(Record):
    """Work of one model for one purpose, over all runs."""

    engine: Engine
    """Which model."""
    purpose: Purpose
    """What for."""
    wasted: bool
    """Whether it was speculative work that was thrown away unseen."""
    usage: Usage
    """Calls, tokens and seconds."""


class Row(Record):
    """The figures of one strategy."""

    strategy: Strategy
    """The strategy."""
    runs: int
    """Runs that count."""
    questions: int
    """Questions that they are about."""
    right: Interval | None
    """Share of right answers, 0 to 1; of agreement with the base alone where the task has no answers."""
    faster: Interval | None
    """Seconds of the base alone over those of the strategy, on the questions that both have answered; None for itself
    and where there are none."""
    seconds: float
    """Wall-clock seconds of all runs together."""
    median: float
    """Median of the seconds that a question takes."""
    slow: float
    """95th percentile of the seconds that a question takes."""
    accepted: float | None
    """Share of the scored proposals that were accepted, 0 to 1; None where none was scored."""
    by_draft: float
    """Share of the committed steps that the draft wrote, 0 to 1."""
    efficiency: float
    """Seconds of the calls behind the committed tokens, over the seconds of the runs, 0 to 1."""
    failed: int
    """Runs that ended with an error."""
    guessed: int
    """Tokens that token-level speculation guessed in the engines."""
    guessed_right: int
    """Those of them that were right."""
    spent: list[Spent] = Field(default_factory=list)
    """Tokens and seconds by model and purpose, wasted ones in rows of their own."""

    def tokens(self, engine: Engine) -> int:
        """Tokens that a model wrote, wasted and rejected ones included."""
        return sum(each.usage.generated_tokens for each in self.spent if each.engine == engine)

    def read(self, engine: Engine) -> int:
        """Prompt tokens that a model had to compute, those in its cache left out."""
        return sum(each.usage.prompt_tokens - each.usage.cached_tokens for each in self.spent if each.engine == engine)

    def engine_seconds(self, engine: Engine) -> float:
        """Seconds that a model was at work on calls, summed over calls."""
        return sum(each.usage.seconds for each in self.spent if each.engine == engine)

    @property
    def wasted(self) -> int:
        """Tokens of speculative work that was thrown away unseen."""
        return sum(each.usage.generated_tokens for each in self.spent if each.wasted)


class Figures(Record):
    """All figures of a benchmark."""

    rows: list[Row]
    """A row a strategy, the base alone first."""
    skipped: dict[str, str]
    """Why strategies were not measured, by name."""
    resampled: str
    """What the bootstrap draws: ``parts`` or ``questions``."""
    agreement: bool
    """Whether ``right`` is agreement with the base alone."""


def compute(results: Results) -> Figures:
    """The figures of all strategies of which there are runs."""
    header = results.header
    # A machine that slows down does so for all questions of a part: where there are enough, whole parts are drawn.
    base = results.runs(BASE.name)
    by_part = len({run.part for run in base}) >= FEWEST
    return Figures(
        rows=[_row(each, results, base, by_part=by_part) for each in _ordered(results) if results.runs(each.name)],
        skipped=results.skipped, resampled="parts" if by_part else "questions",
        agreement=header is not None and header.grader.startswith("agreement"),
    )  # fmt: skip


def _ordered(results: Results) -> list[Strategy]:
    strategies = list(results.strategies.values())
    return sorted(strategies, key=lambda each: each.name != BASE.name)


def _row(strategy: Strategy, results: Results, base: Sequence[RunRow], *, by_part: bool) -> Row:
    runs = results.runs(strategy.name)
    own = np.array([run.seconds for run in runs])
    proposals, steps = sum(run.proposals for run in runs), sum(run.steps for run in runs)
    spent = add_up(cost for run in runs for cost in run.costs)
    work = sum((each.usage for each in spent), Usage())
    return Row(
        strategy=strategy, runs=len(runs), questions=len({run.question for run in runs}),
        right=share_right(runs), seconds=sum(results.shares[run.key] for run in runs),
        faster=None if strategy.name == BASE.name else times_faster(results, base, runs, by_part=by_part),
        median=float(np.median(own)), slow=float(np.quantile(own, 0.95)),
        accepted=sum(run.accepted for run in runs) / proposals if proposals else None,
        by_draft=sum(run.by_draft for run in runs) / steps if steps else 0.0,
        efficiency=sum(run.needed for run in runs) / float(own.sum() or 1.0),
        failed=sum(run.error is not None for run in runs),
        guessed=work.speculated_tokens, guessed_right=work.speculated_accepted, spent=spent,
    )  # fmt: skip


def add_up(costs: Iterable[Cost]) -> list[Spent]:
    """Costs by model, purpose and whether they were wasted."""
    totals: dict[tuple[Engine, Purpose, bool], Usage] = {}
    for cost in costs:
        key = (cost.engine, cost.purpose, cost.wasted)
        totals[key] = totals.get(key, Usage()) + cost.usage
    return [Spent(engine=key[0], purpose=key[1], wasted=key[2], usage=usage) for key, usage in sorted(totals.items())]


def share_right(runs: Sequence[RunRow]) -> Interval | None:
    """The share of right runs, by a bootstrap over questions; None where no run is graded.

    Where all or none are right a bootstrap has nothing to draw from, and the interval is Clopper and Pearson's.
    """
    graded = [run for run in runs if run.right is not None]
    if not graded:
        return None
    totals = _sums(graded, [float(bool(run.right)) for run in graded], [run.question for run in graded])
    share = float(totals[0].sum() / totals[1].sum())
    if share in (0.0, 1.0):
        found = binomtest(round(share * len(totals[0])), len(totals[0])).proportion_ci(LEVEL, method="exact")
        return Interval(value=share, low=float(found.low), high=float(found.high))
    return interval(share, drawn_ratios(*totals))


def times_faster(results: Results, base: Sequence[RunRow], runs: Sequence[RunRow], *, by_part: bool) -> Interval | None:
    """How many times as fast as the base alone, by a bootstrap over parts or questions that both have answered."""
    others = {(run.question, run.sample): run for run in base}
    pairs = [(others[key], run) for run in runs if (key := (run.question, run.sample)) in others]
    if not pairs:
        return None
    clusters = [str(mine.part) if by_part else mine.question for _, mine in pairs]
    mine = [run for _, run in pairs]
    above = _sums(mine, [results.shares[other.key] for other, _ in pairs], clusters)[0]
    below = _sums(mine, [results.shares[run.key] for run in mine], clusters)[0]
    return interval(float(above.sum() / below.sum()), drawn_ratios(above, below))


def _sums(runs: Sequence[RunRow], values: Sequence[float], clusters: Sequence[str]) -> tuple[Numbers, Numbers]:
    """Sums of values and counts of runs by cluster."""
    names, places = np.unique(np.array(clusters), return_inverse=True)
    size = len(names)
    return (
        np.bincount(places, weights=np.array(values), minlength=size).astype(float),
        np.bincount(places, weights=np.ones(len(runs)), minlength=size).astype(float),
    )


def drawn_ratios(above: Numbers, below: Numbers) -> Numbers:
    """Ratios of two sums over clusters that are drawn with replacement, both from the same clusters."""
    chance = np.random.default_rng(0)
    drawn = chance.integers(0, len(above), size=(RESAMPLES, len(above)))
    return np.asarray(above[drawn].sum(axis=1) / below[drawn].sum(axis=1), dtype=float)


def interval(value: float, drawn: Numbers) -> Interval:
    """The interval that holds the middle of what was drawn."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value=value, low=float(low), high=float(high))
