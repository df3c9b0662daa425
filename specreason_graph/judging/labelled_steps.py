"""Whether a judge can tell right steps from wrong ones: tried on steps that are labelled."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from specreason_graph.judging.asking import Asking
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.record.records import Score
from specreason_graph.strategy import Judge

SHIPPED = Path(__file__).with_name("labelled_steps.jsonl")
"""Pairs of a right and a wrong step, of arithmetic and of words, of several lengths."""
BUILT_IN = 12
"""Problems of the built-in models of which all steps are taken."""


@dataclass(frozen=True)
class LabelledPair:
    """A right and a wrong step behind the same thinking."""

    kind: str
    """What they are about: ``arithmetic`` or ``words``."""
    question: str
    """What is thought about."""
    before: tuple[str, ...]
    """The steps before, without blank lines."""
    right: str
    """The right step."""
    wrong: str
    """The wrong one."""


@dataclass(frozen=True)
class Labelled:
    """A step with its label and its score."""

    kind: str
    """What it is about."""
    is_right: bool
    """The label."""
    score: Score
    """The judge's evidence."""


def shipped_pairs() -> list[LabelledPair]:
    """The pairs that come with this package, for models that know the language."""
    lines = [json.loads(line) for line in SHIPPED.read_text(encoding="utf-8").splitlines()]
    return [LabelledPair(**{**line, "before": tuple(line["before"])}) for line in lines]


def built_in_pairs() -> list[LabelledPair]:
    """Pairs from the only problems that the built-in models know; a wrong step has a result that is off by ten."""
    pairs = []
    for problem in held_out()[:BUILT_IN]:
        results, steps = problem.results, [step.strip() for step in problem.steps]
        for index, operation in enumerate(problem.operations):
            wrong = operation.render(results[:index], results[index] + 10).strip()
            pairs.append(LabelledPair("arithmetic", problem.question, tuple(steps[:index]), steps[index], wrong))
    return pairs


async def try_judge(
    judge: Judge, views: Callable[[LabelledPair, str], Asking], pairs: Sequence[LabelledPair]
) -> list[Labelled]:
    """Let ``judge`` score the steps of all pairs, one after the other; ``views`` says how the models see one."""
    return [
        Labelled(pair.kind, is_right, await views(pair, text).collect(judge))
        for pair in pairs
        for text, is_right in ((pair.right, True), (pair.wrong, False))
    ]


def auroc(right: Sequence[float], wrong: Sequence[float]) -> float:
    """Probability that a right step outscores a wrong one, ties counting half; 0.5 is chance, NaN without both."""
    wins = sum((r > w) + 0.5 * (r == w) for r in right for w in wrong)
    return wins / (len(right) * len(wrong)) if right and wrong else float("nan")
