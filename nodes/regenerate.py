"""Let the base model write the step that the draft did not get in, or was not asked for."""

from __future__ import annotations

from typing import Any

from specreason_graph.events import Regenerated, Rejected
from specreason_graph.nodes.stage import Stage
from specreason_graph.policies import decide_unscored
from specreason_graph.records import Decision, Goodput, Proposal, Score
from specreason_graph.state import State


class Regenerate(Stage):
    """Writes a step with the base model and appends it to the trace."""

    async def __call__(self, state: State) -> dict[str, Any]:
        """Write and commit; a rejected proposal stays in the step's evidence."""
        pending = state.get("pending") or {}
        decision = self._decision(state, pending)
        if pending.get("proposal"):
            self.tell(Rejected(index=len(state["trace"]), decision=decision))
        written = await self.window(state).rewrite()
        score = Score.load(pending["score"]) if pending.get("score") else None
        step, changes = self.commit(state, written, score, decision)
        self.tell(Regenerated(step=step))
        return changes

    def _decision(self, state: State, pending: dict[str, Any]) -> Decision:
        if pending.get("decision"):
            return Decision.load(pending["decision"])
        proposal = Proposal.load(pending["proposal"]) if pending.get("proposal") else None
        failed = "" if state["progress"]["draft_failed"] else None
        goodput = None if failed is not None or pending else state["progress"].get("goodput")
        figures = Goodput.load(goodput) if goodput else None
        return decide_unscored(proposal, self.config, pending.get("error", failed), figures)
