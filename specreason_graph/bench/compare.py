"""Whether two ways of answering the same questions really differ, in right answers and in time, by paired tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import binomtest, permutation_test

from specreason_graph.bench.figures import FEWEST, Interval, Numbers, drawn_ratios, interval
from specreason_graph.bench.results import Results, RunRow
from specreason_graph.errors import UsageError
from specreason_graph.record.records import Record

REAL = 0.05
"""Below this p-value a difference counts as real."""
PERMUTATIONS = 9999
"""Exchanges of the two sides that are drawn for a test."""


class Comparison(Record):
    """Two sides on the questions that both have answered."""

    one: str
    """Name of the first side."""
    other: str
    """Name of the second side."""
    pairs: int
    """Runs on each side, by question and sample."""
    same: int
    """Pairs that are the same token for token, authors and answer included."""
    right: float | None
    """Share of right answers of the first side, 0 to 1; None where they are not graded."""
    other_right: float | None
    """Share of right answers of the second side."""
    difference: Interval | None
    """How much larger the second share is."""
    only_one: int
    """Pairs of which only the first side is right."""
    only_other: int
    """Pairs of which only the second side is right."""
    right_p: float | None
    """Probability of such a difference in right answers where there is none: McNemar's exact test, or for several
    samples of a question a permutation of the sides by question."""
    faster: Interval
    """Seconds of the first side over those of the second: above 1 the second is faster."""
    time_p: float | None
    """Probability of such a ratio of times where there is none, by a permutation of the sides; None for fewer than two
    questions."""
    apart: bool
    """Whether the sides were measured in different files, so that a change of the machine counts as a difference."""

    def words(self) -> Iterator[str]:
        """What it comes to, in sentences."""
        same = f"; {self.same} pairs are the same token for token" if self.same else ""
        yield f"{self.one} and {self.other}, {self.pairs} runs each on the same questions{same}."
        if self.difference is None or self.right is None or self.other_right is None:
            yield "Answers: not graded."
        else:
            points = [100 * each for each in (self.difference.value, self.difference.low, self.difference.high)]
            yield (
                f"Answers: {self.right:.1%} right against {self.other_right:.1%}, {points[0]:+.1f} points "
                f"({points[1]:+.1f} to {points[2]:+.1f}); only the first right {self.only_one} times, only the second "
                f"{self.only_other} times; p = {_p(self.right_p)}. {self._answers()}"
            )
        yield (
            f"Time: the second is {self.faster.value:.2f} times as fast ({self.faster.low:.2f} to "
            f"{self.faster.high:.2f}), p = {_p(self.time_p)}. {self._time()}"
        )
        if self.apart:
            yield "They were measured apart: a machine that was slower for one of them counts as a difference, too."

    def _answers(self) -> str:
        if not _is_real(self.right_p):
            return "This is no more than chance gives: no real difference is shown."
        better = self.other if self.only_other > self.only_one else self.one
        return f"The difference is real: {better} answers better."

    def _time(self) -> str:
        if not _is_real(self.time_p) or self.faster.low <= 1 <= self.faster.high:
            return "This is no more than chance gives: no real difference is shown."
        return f"The difference is real: {self.other if self.faster.value > 1 else self.one} is faster."

    @property
    def answers(self) -> str:
        """What is known of the second side's answers, in words."""
        if self.difference is None:
            return "nothing says whether its answers are as good"
        low, high = 100 * self.difference.low, 100 * self.difference.high
        return f"its answers are not shown to be worse ({low:+.1f} to {high:+.1f} points)"

    @property
    def is_worse(self) -> bool:
        """Whether the second side really answers worse."""
        return _is_real(self.right_p) and self.only_one > self.only_other

    @property
    def is_faster(self) -> bool:
        """Whether the second side is really faster."""
        return _is_real(self.time_p) and self.faster.low > 1


def compare(results: Results, strategy: str, others: Results | None = None, other: str | None = None) -> Comparison:
    """Compare a strategy with another one of the same results, or with one of others.

    Raises `UsageError` where no question was asked on both sides, or one name stands for two questions.
    """
    theirs = results if others is None else others
    second = strategy if other is None else other
    for question in results.questions.values():
        same = theirs.questions.get(question.id, question)
        if same.text != question.text:
            raise UsageError(
                f"question {question.id!r} is another one in the second file", hint="name results of one task"
            )
    found = {(run.question, run.sample): run for run in theirs.runs(second)}
    pairs = [(run, found[key]) for run in results.runs(strategy) if (key := (run.question, run.sample)) in found]
    if not pairs:
        raise UsageError(
            f"no question was answered by both {strategy!r} and {second!r}",
            hint=f"strategies: {', '.join(dict.fromkeys([*results.strategies, *theirs.strategies]))}",
        )
    graded = [(one, two) for one, two in pairs if one.right is not None and two.right is not None]
    faster, time_p = _times(results, theirs, pairs)
    apart = others is not None
    return Comparison(
        one=f"{strategy} (first file)" if apart else strategy, other=f"{second} (second file)" if apart else second,
        pairs=len(pairs), same=sum(bool(one.trace) and one.trace == two.trace for one, two in pairs),
        right=_share(one for one, _ in graded) if graded else None,
        other_right=_share(two for _, two in graded) if graded else None,
        difference=_difference(graded) if graded else None,
        only_one=sum(bool(one.right) and not two.right for one, two in graded),
        only_other=sum(bool(two.right) and not one.right for one, two in graded),
        right_p=_right_p(graded) if graded else None, faster=faster, time_p=time_p, apart=apart,
    )  # fmt: skip


def verdict(results: Results, base: str = "base") -> str:
    """Which strategy to use: the fastest one that answers no worse than the base alone, as far as is shown."""
    found = [
        compare(results, base, other=name)
        for name, strategy in results.strategies.items()
        if not strategy.alone and results.runs(name) and results.runs(base)
    ]
    good = sorted((each for each in found if each.is_faster and not each.is_worse), key=lambda each: -each.faster.value)
    if good:
        best = good[0]
        return (
            f"Use {best.other}: {best.faster.value:.2f} times as fast as the base alone ({best.faster.low:.2f} to "
            f"{best.faster.high:.2f}), and {best.answers}."
        )
    if not found:
        return "Nothing was measured beside the base alone."
    return "Use the base alone: no strategy is really faster with answers that are as good."


def _share(runs: Iterator[RunRow]) -> float:
    return float(np.mean([bool(run.right) for run in runs]))


def _difference(graded: Sequence[tuple[RunRow, RunRow]]) -> Interval:
    gained = [float(bool(two.right)) - float(bool(one.right)) for one, two in graded]
    sums, counts = _by_cluster([one.question for one, _ in graded], gained)
    return interval(float(np.mean(gained)), drawn_ratios(sums, counts))


def _right_p(graded: Sequence[tuple[RunRow, RunRow]]) -> float:
    gained = [float(bool(two.right)) - float(bool(one.right)) for one, two in graded]
    sums, _ = _by_cluster([one.question for one, _ in graded], gained)
    if len(sums) == len(graded):
        changed = int(np.count_nonzero(sums))
        return float(binomtest(int((sums > 0).sum()), changed).pvalue) if changed else 1.0
    return _exchanged(sums)


def _times(results: Results, theirs: Results, pairs: Sequence[tuple[RunRow, RunRow]]) -> tuple[Interval, float | None]:
    """The ratio of times, and how likely chance gives such a one."""
    by_part = results is theirs and len({one.part for one, _ in pairs}) >= FEWEST
    clusters = [str(one.part) if by_part else one.question for one, _ in pairs]
    above = _by_cluster(clusters, [results.shares[one.key] for one, _ in pairs])[0]
    below = _by_cluster(clusters, [theirs.shares[two.key] for _, two in pairs])[0]
    found = interval(float(above.sum() / below.sum()), drawn_ratios(above, below))
    return found, _exchanged(np.log(above / below)) if len(above) > 1 else None


def _by_cluster(clusters: Sequence[str], values: Sequence[float]) -> tuple[Numbers, Numbers]:
    names, places = np.unique(np.array(clusters), return_inverse=True)
    sums = np.bincount(places, weights=np.array(values), minlength=len(names))
    return sums.astype(float), np.bincount(places, minlength=len(names)).astype(float)


def _exchanged(differences: Numbers) -> float:
    """How likely a mean is as far from 0 where the sides of each pair could as well be exchanged."""
    if not differences.any():
        return 1.0
    found = permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=PERMUTATIONS, rng=np.random.default_rng(0)
    )
    return float(found.pvalue)


def _is_real(p: float | None) -> bool:
    return p is not None and p < REAL


def _p(value: float | None) -> str:
    return "unknown" if value is None else "less than 0.001" if value < 0.001 else f"{value:.3f}"
