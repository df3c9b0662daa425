"""Ask the base model for a one-token opinion on the proposal, and decide."""

from __future__ import annotations

from typing import Any

from specreason_graph.events import Scored
from specreason_graph.nodes.stage import Stage
from specreason_graph.policies import asks_human, decide
from specreason_graph.records import Proposal
from specreason_graph.state import State


class ScoreProposal(Stage):
    """Scores what is pending."""

    async def __call__(self, state: State) -> dict[str, Any]:
        """Add score and decision to ``pending``."""
        score = await self.window(state).judge(Proposal.load(state["pending"]["proposal"]))
        decision = decide(score, threshold=self.config.threshold, reading=self.config.reading)
        self.tell(Scored(index=len(state["trace"]), score=score, decision=decision))
        found_out = {
            "score": score.dump(), "decision": decision.dump(), "uncertain": asks_human(decision, self.config.review)
        }  # fmt: skip
        return {"pending": {**state["pending"], **found_out}}
