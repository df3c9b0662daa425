"""How sure the draft model is of what it writes: the base model is not asked."""

from __future__ import annotations

from statistics import fmean
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from specreason_graph.judging.likelihood import LOG_TRIALS, REDUCTIONS, Reduction
from specreason_graph.record.records import Score
from specreason_graph.strategy import Judge, register


@register
class ConfidenceJudge(Judge):
    """The log-probability of the step under the draft model that wrote it; it costs no call."""

    needs: ClassVar = ("confidence",)
    scale: ClassVar = (-float("inf"), 0.0)
    trials: ClassVar = LOG_TRIALS
    kind: Literal["confidence"] = "confidence"
    """Names the judge."""
    threshold: Annotated[float, Field(le=0, allow_inf_nan=False)] = -8.0
    """Log-probability, in nats, from which a proposal is accepted."""
    reduction: Reduction = "sum"
    """``sum`` of the tokens' log-probabilities, their ``mean``, or the ``lowest``."""

    def number(self, score: Score) -> float:
        """The log-probabilities as one number."""
        return float(REDUCTIONS[self.reduction](score.draft_logprobs or [0.0]))


@register
class EntropyJudge(Judge):
    """How undecided the draft model was at the start of the step (GlimpRouter, arXiv 2601.05110); it costs no call."""

    needs: ClassVar = ("entropy",)
    scale: ClassVar = (-float("inf"), 0.0)
    trials: ClassVar = tuple(-tenth / 10 for tenth in range(30, -1, -1))
    kind: Literal["entropy"] = "entropy"
    """Names the judge."""
    threshold: Annotated[float, Field(le=0, allow_inf_nan=False)] = -1.0
    """Entropy with a minus sign, in nats, from which a proposal is accepted."""
    tokens: Annotated[int, Field(ge=1)] = 1
    """How many of the first tokens count; their entropies are averaged."""

    def number(self, score: Score) -> float:
        """The mean entropy of the first tokens, with a minus sign: more is better."""
        return -fmean((score.draft_entropies or [0.0])[: self.tokens])
