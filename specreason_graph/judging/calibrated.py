"""A small head over the evidence of other judges: a probability that the step is good.

The idea is Decoder Tuning's (arXiv 2212.08408): what a frozen model tells is made a classifier by a few labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from specreason_graph.record.records import Score
from specreason_graph.strategy import Judge, register

FEATURES = {
    "digit_mean": "digit", "digit_greedy": "digit", "other_mass": "digit",
    "base_sum": "likelihood", "base_mean": "likelihood", "base_lowest": "likelihood",
    "draft_sum": "confidence", "draft_mean": "confidence", "draft_lowest": "confidence", "tokens": "confidence",
    "first_entropy": "entropy",
}  # fmt: skip
"""What a head may weigh, and the evidence it is made of."""


def features(score: Score) -> dict[str, float]:
    """Every one of `FEATURES` that the evidence tells."""
    return dict(_features(score))


def _features(score: Score) -> Iterator[tuple[str, float]]:
    if score.mean is not None and score.greedy is not None:
        yield from (("digit_mean", score.mean), ("digit_greedy", float(score.greedy)))
        yield "other_mass", score.other_mass or 0.0
    for name, logprobs in (("base", score.base_logprobs), ("draft", score.draft_logprobs)):
        if logprobs:
            yield from ((f"{name}_sum", sum(logprobs)), (f"{name}_mean", fmean(logprobs)))
            yield f"{name}_lowest", min(logprobs)
    if score.draft_logprobs:
        yield "tokens", float(len(score.draft_logprobs))
    if score.draft_entropies:
        yield "first_entropy", score.draft_entropies[0]


@register
class CalibratedJudge(Judge):
    """A logistic regression on evidence, fitted on labelled steps; its number is a probability."""

    scale: ClassVar = (0.0, 1.0)
    trials: ClassVar = tuple(twentieth / 20 for twentieth in range(21))
    kind: Literal["calibrated"] = "calibrated"
    """Names the judge."""
    threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5
    """Probability from which a proposal is accepted."""
    weights: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    """Weight of each feature, by name."""
    bias: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """What is added to the weighted sum."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if not self.weights or not set(self.weights) <= set(FEATURES):
            raise ValueError(f"weights are of some of {', '.join(FEATURES)}; got {', '.join(self.weights) or 'none'}")
        return self

    def number(self, score: Score) -> float:
        """The probability that the step is good."""
        found = features(score)
        logit = self.bias + sum(weight * found.get(name, 0.0) for name, weight in self.weights.items())
        return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0

    def wants(self, score: Score) -> str | None:
        """The first evidence that a feature lacks, what costs nothing first."""
        return next((name for name in sorted(self.may_need, key=_COSTS.index) if not score.has(name)), None)

    @property
    def may_need(self) -> frozenset[str]:
        """The evidence of all features."""
        return frozenset(FEATURES[name] for name in self.weights)


_COSTS = ("confidence", "entropy", "likelihood", "digit")
