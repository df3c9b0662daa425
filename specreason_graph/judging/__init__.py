"""What a proposal is worth: one file a judge, and how its evidence is got from the engines."""

from specreason_graph.judging.calibrated import CalibratedJudge
from specreason_graph.judging.check import CheckJudge
from specreason_graph.judging.combined import AllOf, AnyOf, Cascade, Sample
from specreason_graph.judging.compare import CompareJudge
from specreason_graph.judging.confidence import ConfidenceJudge, EntropyJudge
from specreason_graph.judging.digit import DigitJudge
from specreason_graph.judging.likelihood import LikelihoodJudge
from specreason_graph.judging.reward import RewardJudge

__all__ = [
    "AllOf",
    "AnyOf",
    "CalibratedJudge",
    "Cascade",
    "CheckJudge",
    "CompareJudge",
    "ConfidenceJudge",
    "DigitJudge",
    "EntropyJudge",
    "LikelihoodJudge",
    "RewardJudge",
    "Sample",
]
