"""Fits the head of a calibrated judge on labelled steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from specreason_graph.errors import ConfigError
from specreason_graph.judging.calibrated import FEATURES, CalibratedJudge, features
from specreason_graph.record.records import Score

FOLDS = 5
"""Parts of a cross-validation."""
REGULARISATION = 0.1
"""Inverse strength of the L2 penalty on standardised features: labelled steps are few."""
GAIN = 0.01
"""By how much a feature has to raise the AUROC to be weighed, 0 to 1."""


def fit(scores: Sequence[Score], good: Sequence[bool], names: Iterable[str] = FEATURES) -> CalibratedJudge:
    """A judge that weighs some of the features ``names``, fitted on ``scores`` and whether each step was ``good``.

    A logistic regression with an L2 penalty on standardised features (scikit-learn). Of those that all scores tell, the
    one that discerns best is taken, and more as long as each raises the AUROC in a cross-validation by `GAIN`. Raises
    `ConfigError` unless there are five steps of each label, and where scikit-learn is not installed.
    """
    try:
        from sklearn.feature_selection import SequentialFeatureSelector
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise ConfigError("scikit-learn is not installed", hint="pip install 'specreason-graph[tune]'") from None
    if (fewest := min(list(good).count(label) for label in (True, False))) < FOLDS:
        raise ConfigError(f"there are {fewest} labelled steps of one label", hint=f"label {FOLDS} of each or more")
    told = [features(score) for score in scores]
    used = [name for name in names if all(name in each for each in told)]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION))
    if len(used) > 1:
        choosing = SequentialFeatureSelector(model, tol=GAIN, scoring="roc_auc", cv=FOLDS)
        choosing.fit([[each[name] for name in used] for each in told], good)
        used = [name for name, chosen in zip(used, choosing.get_support(), strict=True) if chosen]
    model.fit([[each[name] for name in used] for each in told], good)
    scaler, head = model[0], model[1]
    weights = head.coef_[0] / scaler.scale_
    bias = float(head.intercept_[0] - (weights * scaler.mean_).sum())
    return CalibratedJudge(weights={n: float(w) for n, w in zip(used, weights, strict=True)}, bias=bias)
