"""Fits the head of a calibrated judge on labelled steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from specreason_graph.errors import ConfigError
from specreason_graph.judging.calibrated import CalibratedJudge, features
from specreason_graph.record.records import Score

SUMS = ("base_sum", "draft_sum")
"""Features that are weighed by default: few, because labelled steps are few."""
REGULARISATION = 0.1
"""Inverse strength of the L2 penalty on standardised features: labelled steps are few."""


def fit(scores: Sequence[Score], good: Sequence[bool], names: Iterable[str] = SUMS) -> CalibratedJudge:
    """A judge that weighs the features ``names``, fitted on ``scores`` and whether each step was ``good``.

    A logistic regression with an L2 penalty on standardised features (scikit-learn); of ``names`` those count that all
    scores tell. Raises `ConfigError` unless there are steps of both labels, and where scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise ConfigError("scikit-learn is not installed", hint="pip install 'specreason-graph[tune]'") from None
    if len(set(good)) < 2:
        raise ConfigError("all labelled steps have one label", hint="label good steps and bad ones")
    told = [features(score) for score in scores]
    used = [name for name in names if all(name in each for each in told)]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION))
    model.fit([[each[name] for name in used] for each in told], good)
    scaler, head = model[0], model[1]
    weights = head.coef_[0] / scaler.scale_
    bias = float(head.intercept_[0] - (weights * scaler.mean_).sum())
    return CalibratedJudge(weights={n: float(w) for n, w in zip(used, weights, strict=True)}, bias=bias)
