"""Commit the proposal that the judge or a human let in, or the step a human wrote instead."""

from __future__ import annotations

from typing import Any

from specreason_graph.events import Accepted
from specreason_graph.nodes.stage import Stage
from specreason_graph.prompting import BLANK_LINE
from specreason_graph.records import Decision, Proposal, Score, Usage
from specreason_graph.state import State


class Accept(Stage):
    """Appends the pending proposal, or its edited version, to the trace."""

    async def __call__(self, state: State) -> dict[str, Any]:
        """Commit; no engine is asked."""
        pending = state["pending"]
        proposal, score = Proposal.load(pending["proposal"]), Score.load(pending["score"])
        decision = Decision.load(pending["decision"])
        if decision.review and decision.review.text is not None:
            proposal = self._edited(proposal, decision.review.text)
        step, changes = self.commit(state, proposal, score, decision)
        self.tell(Accepted(step=step))
        return changes

    def _edited(self, proposal: Proposal, text: str) -> Proposal:
        """The human's version; a step goes on where the proposal went on, and ends the thinking where that did."""
        ending = proposal.ending if proposal.closes_thinking else "blank_line"
        whole = text.strip() + BLANK_LINE
        ids = self.prompts.base.vocabulary.encode(whole)
        return Proposal(author="human", token_ids=ids, text=whole, ending=ending, seed=proposal.seed, usage=Usage())
