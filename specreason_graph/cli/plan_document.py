"""What ``specreason plan --json`` prints."""

from __future__ import annotations

from typing import Any

from specreason_graph.planning.descriptions import Described
from specreason_graph.planning.plan import Plan


class PlanDocument(Plan):
    """Predictions for a machine and a pair, and what they were made of: `plan`."""

    described: Described
    """The machine and the models."""
    published: list[dict[str, Any]]
    """Published figures that the plan may be held against, with their sources."""
