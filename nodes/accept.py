"""Commit the proposal that the judge let in."""

from __future__ import annotations

from typing import Any

from specreason_graph.nodes.stage import Stage
from specreason_graph.records import Decision, Proposal, Score
from specreason_graph.state import State


class Accept(Stage):
    """Appends the pending proposal to the trace."""

    async def __call__(self, state: State) -> dict[str, Any]:
        """Commit; no engine is asked."""
        pending = state["pending"]
        proposal, score = Proposal.load(pending["proposal"]), Score.load(pending["score"])
        return self.commit(state, proposal, score, Decision.load(pending["decision"]))
