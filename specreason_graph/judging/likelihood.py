"""How likely the base model finds a step: no question is asked, and the base has read the step for its next call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from specreason_graph.record.records import Score
from specreason_graph.strategy import Judge, register

LOG_TRIALS: tuple[float, ...] = (*(-(2 ** (half / 2)) for half in range(16, -7, -1)), 0.0)
"""Thresholds on log-probabilities, -256 to 0."""
REDUCTIONS: Mapping[str, Callable[[Sequence[float]], float]] = {"sum": sum, "mean": fmean, "lowest": min}
"""How log-probabilities of tokens become one number."""
Reduction = Literal["sum", "mean", "lowest"]


@register
class LikelihoodJudge(Judge):
    """The log-probability of the step under the base model.

    On small real pairs it tells harmful steps from others where the digit tells nothing. A score costs the reading of
    the step, which the base's next call then finds in its cache.
    """

    needs: ClassVar = ("likelihood",)
    scale: ClassVar = (-float("inf"), float("inf"))
    trials: ClassVar = LOG_TRIALS
    kind: Literal["likelihood"] = "likelihood"
    """Names the judge."""
    threshold: Annotated[float, Field(allow_inf_nan=False)] = -8.0
    """Number from which a proposal is accepted: a log-probability in nats, or a difference of two."""
    reduction: Reduction | Literal["difference"] = "sum"
    """``sum`` of the tokens' log-probabilities, their ``mean``, the ``lowest``, or the ``difference`` of the sum to the
    draft's own."""

    def number(self, score: Score) -> float:
        """The log-probabilities as one number."""
        base = score.base_logprobs or [0.0]
        if self.reduction == "difference":
            return sum(base) - sum(score.draft_logprobs or [0.0])
        return float(REDUCTIONS[self.reduction](base))

    def wants(self, score: Score) -> str | None:
        """The likelihood under the base, and for the difference that under the draft."""
        return next((name for name in self._asked if not score.has(name)), None)

    @property
    def may_need(self) -> frozenset[str]:
        """All evidence that it may ask for."""
        return frozenset(self._asked)

    @property
    def _asked(self) -> tuple[str, ...]:
        return ("confidence", *self.needs) if self.reduction == "difference" else self.needs
