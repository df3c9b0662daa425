"""Which seed a call is sampled with."""

from __future__ import annotations

import hashlib
from typing import Literal

from specreason_graph.record.records import Purpose


def call_seed(seed: int, purpose: Purpose | Literal["sample"], index: int) -> int:
    """The seed of one call: depends on the run's seed, what the call is for and the step, and on nothing else."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 2


def uniform(seed: int, index: int) -> float:
    """A number from 0 to below 1 that is drawn for a step of a run; it depends on the run's seed and the step alone."""
    return call_seed(seed, "sample", index) / 2**30
