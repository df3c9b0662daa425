"""A threshold with a bound on its risk: of the answers that the base gets right, at most a share alpha is lost.

Method: learn then test (Angelopoulos et al., arXiv 2110.01052). Each threshold is a hypothesis "more than alpha is
lost". Thresholds are tested from the strictest on, each at the whole error probability delta (fixed-sequence testing),
and the last one before the first that cannot be refuted is chosen. With probability 1 - delta over the draw of the
questions, the threshold that is chosen loses at most alpha.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from specreason_graph.errors import ConfigError
from specreason_graph.record.records import Record

MOST = 100_000
"""Questions that `questions_needed` thinks of at most."""


class TestedThreshold(Record):
    """One threshold of the sequence."""

    threshold: float
    """The threshold, on the judge's scale."""
    lost: float
    """Share of the right answers that are lost in the sample, 0 to 1."""
    p_value: float
    """Probability of losing so few in the sample, were more than alpha lost in truth; at most 1."""
    holds: bool
    """Whether the bound is shown for this threshold."""


class RiskBound(Record):
    """What a sample shows about the answers that are lost."""

    alpha: float
    """Share of the right answers that may be lost, 0 to 1."""
    delta: float
    """Probability, over draws of the sample, that the bound is wrong, 0 to 1."""
    questions: int
    """Questions of the sample that the base gets right alone."""
    threshold: float | None
    """The loosest threshold for which the bound is shown; None where the sample shows it for none."""
    lost: float | None
    """Share of the right answers that this threshold loses in the sample, 0 to 1."""
    needed: int | None
    """Questions that the base gets right which would show the bound for the strictest threshold, if as large a share
    were lost as in the sample; None where no number would, because more than alpha is lost."""
    tested: list[TestedThreshold]
    """The thresholds, the strictest first, up to the first one that is not shown."""


def control_risk(
    losses: Sequence[tuple[float, Sequence[float]]], *, alpha: float = 0.1, delta: float = 0.1
) -> RiskBound:
    """Choose the loosest threshold that is shown to lose at most ``alpha``, with confidence 1 - ``delta``.

    ``losses``: thresholds in the order in which they are tested, the strictest first, each with one loss from 0 to 1
    for each question that the base gets right. The order must not depend on the losses. To test several judges, call
    this for each with a part of ``delta``: the bounds then hold together. Assumes that the questions are independent
    draws of those to come. Raises `ConfigError` for shares that are not between 0 and 1, and where scipy is not
    installed.
    """
    for name, share in (("alpha", alpha), ("delta", delta)):
        if not 0 < share < 1:
            raise ConfigError(f"{name} = {share:g} is not allowed", hint="write a share between 0 and 1")
    tested = list[TestedThreshold]()
    for threshold, lost in losses:
        p = p_value(lost, alpha)
        tested.append(TestedThreshold(threshold=threshold, lost=_mean(lost), p_value=p, holds=p <= delta))
        if p > delta:
            break
    shown = [each for each in tested if each.holds]
    return RiskBound(
        alpha=alpha, delta=delta, questions=len(losses[0][1]) if losses else 0, tested=tested,
        threshold=shown[-1].threshold if shown else None, lost=shown[-1].lost if shown else None,
        needed=questions_needed(alpha, delta, lost=tested[0].lost if tested else 0.0),
    )  # fmt: skip


def p_value(losses: Sequence[float], alpha: float) -> float:
    """Probability, at most, of losses this low in a sample, were more than ``alpha`` lost in truth.

    Where each question is lost or not it is the exact binomial tail, else Hoeffding's and Bentkus's bound, the lower of
    the two (Bates et al., arXiv 2101.02703, theorem 2).
    """
    count = len(losses)
    if not count:
        return 1.0
    if all(loss in (0, 1) for loss in losses):
        return float(_binomial().cdf(sum(losses), count, alpha))
    mean = fmean(losses)
    below = min(mean, alpha)
    divergence = _term(below, alpha) + _term(1 - below, 1 - alpha)
    bentkus = math.e * float(_binomial().cdf(math.ceil(count * mean), count, alpha))
    return min(1.0, math.exp(-count * divergence), bentkus)


def questions_needed(alpha: float, delta: float, *, lost: float = 0.0) -> int | None:
    """The least number of questions of which a share ``lost`` may be lost while the bound is shown.

    None where that is not fewer than ``alpha``, or where it would be more than 100,000 questions.
    """
    if lost >= alpha:
        return None
    count = math.ceil(math.log(delta) / math.log(1 - alpha))
    while count <= MOST and _binomial().cdf(math.floor(lost * count + 1e-9), count, alpha) > delta:
        count += 1 + count // 100  # to one in a hundred: it is advice
    return count if count <= MOST else None


def _term(p: float, q: float) -> float:
    return p * math.log(p / q) if p else 0.0


def _mean(losses: Sequence[float]) -> float:
    return fmean(losses) if losses else 0.0


def _binomial() -> Any:
    try:
        from scipy.stats import binom
    except ImportError:
        raise ConfigError("scipy is not installed", hint="pip install 'specreason-graph[tune]'") from None
    return binom
