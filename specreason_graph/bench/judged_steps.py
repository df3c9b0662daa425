"""Which judge tells draft steps that harm from others, by labelled steps that hold all judges' evidence."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from specreason_graph.judging import (
    CheckJudge,
    CompareJudge,
    ConfidenceJudge,
    DigitJudge,
    EntropyJudge,
    LikelihoodJudge,
)
from specreason_graph.judging.check import checked
from specreason_graph.judging.fitting import fit
from specreason_graph.judging.labelled_steps import auroc
from specreason_graph.record.records import Record, Score, Usage
from specreason_graph.strategy import Judge

SINGLE: dict[str, Judge] = {
    "digit, mean": DigitJudge(),
    "digit, greedy": DigitJudge(reduction="greedy"),
    "likelihood, sum": LikelihoodJudge(),
    "likelihood, mean": LikelihoodJudge(reduction="mean"),
    "likelihood, lowest": LikelihoodJudge(reduction="lowest"),
    "likelihood, difference to the draft's": LikelihoodJudge(reduction="difference"),
    "confidence, sum": ConfidenceJudge(),
    "confidence, mean": ConfidenceJudge(reduction="mean"),
    "confidence, lowest": ConfidenceJudge(reduction="lowest"),
    "entropy, first token": EntropyJudge(),
    "entropy, first five": EntropyJudge(tokens=5),
    "compare": CompareJudge(),
}
"""Judges that are compared, by what they are called in tables."""
RESAMPLES = 1000
"""Samples of a bootstrap."""


class JudgedStep(Record):
    """A step of the draft with its label and all evidence."""

    question: str
    """Which question it is about."""
    index: int
    """Its place in the base's solution, from 0."""
    text: str
    """The step."""
    harmful: bool
    """Whether the base no longer reaches the right answer behind it."""
    score: Score
    """The evidence of all judges."""


@dataclass(frozen=True)
class Discernment:
    """How well a judge tells harmful steps from others."""

    judge: str
    """What it is called."""
    auroc: float
    """Probability that a harmless step gets the higher number; 0.5 is chance."""
    interval: tuple[float, float]
    """95% interval of it, by a bootstrap over questions."""
    median: float
    """Median of its numbers."""


def compare(
    steps: Sequence[JudgedStep], judges: Mapping[str, Judge] = SINGLE, *, folds: int = 5, calibrated: bool = True
) -> Iterator[Discernment]:
    """How well each judge discerns steps of the same fold of questions; the calibrated one is fitted on the others.

    ``calibrated``: whether there is one, which takes a fit for each fold.
    """
    fold = _folds(steps, folds)
    for name, judge in judges.items():
        yield _discernment(name, steps, [judge.number(step.score) for step in steps], fold)
    found = [Score(found={"check": checked(step.text)}, usage=Usage()) for step in steps]
    yield _discernment("check", steps, list(map(CheckJudge().number, found)), fold)
    if not calibrated:
        return
    fitted = [_fitted_without(number, steps, fold) for number in range(folds)]
    numbers = [fitted[fold[step.question]].number(step.score) for step in steps]
    yield _discernment("calibrated, on other questions", steps, numbers, fold)


def _folds(steps: Sequence[JudgedStep], count: int) -> dict[str, int]:
    order = sorted({step.question for step in steps})
    random.Random(0).shuffle(order)
    return {question: place % count for place, question in enumerate(order)}


def _fitted_without(number: int, steps: Sequence[JudgedStep], fold: Mapping[str, int]) -> Judge:
    others = [step for step in steps if fold[step.question] != number]
    return fit([step.score for step in others], [not step.harmful for step in others])


def _discernment(
    name: str, steps: Sequence[JudgedStep], numbers: Sequence[float], fold: Mapping[str, int]
) -> Discernment:
    by_question: dict[str, list[tuple[int, float, bool]]] = {}
    for step, number in zip(steps, numbers, strict=True):
        by_question.setdefault(step.question, []).append((fold[step.question], number, step.harmful))
    groups, chance = list(by_question.values()), random.Random(0)
    drawn = sorted(_auroc(chance.choices(groups, k=len(groups))) for _ in range(RESAMPLES))
    low, high = drawn[int(0.025 * len(drawn))], drawn[int(0.975 * len(drawn)) - 1]
    return Discernment(name, _auroc(groups), (low, high), sorted(numbers)[len(numbers) // 2])


def _auroc(groups: Iterable[Sequence[tuple[int, float, bool]]]) -> float:
    """Over pairs of one fold: judges that were fitted on different questions have no common scale."""
    flat = [each for group in groups for each in group]
    wins = pairs = 0.0
    for fold in {each[0] for each in flat}:
        good = [number for of, number, harmful in flat if of == fold and not harmful]
        bad = [number for of, number, harmful in flat if of == fold and harmful]
        if good and bad:
            wins, pairs = wins + auroc(good, bad) * len(good) * len(bad), pairs + len(good) * len(bad)
    return wins / pairs if pairs else 0.5
