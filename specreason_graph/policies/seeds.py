"""Which seed a call is sampled with."""

from __future__ import annotations

import hashlib

from specreason_graph.record.records import Purpose


def call_seed(seed: int, purpose: Purpose, index: int) -> int:
    """The seed of one call: depends on the run's seed, what the call is for and the step, and on nothing else."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 2
