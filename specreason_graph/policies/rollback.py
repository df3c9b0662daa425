"""When committed steps are taken back: a later score that collapses throws doubt on the steps that led there."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Annotated, Literal

from pydantic import Field

from specreason_graph.config import SpecReasonConfig
from specreason_graph.errors import ConfigError
from specreason_graph.policies.acceptance import asks_human
from specreason_graph.record.records import Decision
from specreason_graph.strategy import PastStep, Rollback, register


@register
class Never(Rollback):
    """What is committed stands."""

    kind: Literal["never"] = "never"
    """Names the rule."""

    def steps_back(self, trail: Sequence[PastStep], rejected: PastStep, earlier: int) -> int:  # noqa: ARG002
        """None."""
        return 0


@register
class Collapse(Rollback):
    """Takes the last steps back when scores fall far below theirs (the idea of COrAL, arXiv 2410.09675).

    A draft that was let in may have led astray: then whatever it writes behind that is unlikely to the base. The base
    writes the first of the steps anew, and the run goes on from there.
    """

    kind: Literal["collapse"] = "collapse"
    """Names the rule."""
    drop: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0
    """How far a score must lie below the mean of those of the draft's steps that would be taken back, on the judge's
    scale."""
    in_a_row: Annotated[int, Field(ge=1, le=100)] = 2
    """How many scores in a row must."""
    steps: Annotated[int, Field(ge=1, le=100)] = 3
    """How many steps are taken back, at most."""
    at_most: Annotated[int, Field(ge=1, lt=2**31)] = 2
    """How often a run goes back, at most."""

    def steps_back(self, trail: Sequence[PastStep], rejected: PastStep, earlier: int) -> int:
        """``steps``, once the last scores have collapsed."""
        doubtful = trail[-self.steps :]
        led = [past.number for past in doubtful if past.author == "draft" and past.judge == rejected.judge]
        numbers = [number for number in led if number is not None]
        last = [past for past in (*trail, rejected) if past.number is not None][-self.in_a_row :]
        if earlier >= self.at_most or not numbers or len(last) < self.in_a_row:
            return 0
        limit = fmean(numbers) - self.drop
        fell = all(past.judge == rejected.judge and past.number <= limit for past in last if past.number is not None)
        return len(doubtful) if fell else 0


def steps_back(
    config: SpecReasonConfig, trail: Sequence[PastStep], rejected: PastStep, decision: Decision, earlier: int
) -> int:
    """How many of the steps in ``trail`` are taken back on a decision.

    The base must come to write what the draft wrote before, so a run never goes back to the same place twice; and what
    a human decided stands. Raises `ConfigError` for a rule that gives no number of steps.
    """
    if decision.accepted or decision.number is None or asks_human(decision, config.review):
        return 0
    wanted = config.rollback.steps_back(trail, rejected, earlier)
    if not isinstance(wanted, int) or wanted < 0:
        raise ConfigError(
            f"the rollback {config.rollback.kind!r} gives {wanted!r}", hint="return how many steps are taken back"
        )
    for back in range(min(wanted, len(trail)), 0, -1):
        if trail[-back].author == "draft" and not any(past.reviewed for past in trail[-back:]):
            return back
    return 0
