"""Who writes the next step, which score is enough, when the thinking ends: small pure functions on records."""

from specreason_graph.policies.acceptance import (
    asks_human,
    best_of,
    decide,
    decide_reviewed,
    decide_unscored,
    read_score,
)
from specreason_graph.policies.seeds import call_seed
from specreason_graph.policies.stopping import Progress, seconds_of, stop_reason

__all__ = [
    "Progress",
    "asks_human",
    "best_of",
    "call_seed",
    "decide",
    "decide_reviewed",
    "decide_unscored",
    "read_score",
    "seconds_of",
    "stop_reason",
]
