"""Commit the proposal that the judge or a human let in, or the step a human wrote instead."""

from __future__ import annotations

from typing import Any

from specreason_graph.lookahead.lookahead import Lookahead
from specreason_graph.nodes.commit import commit, emit_reply
from specreason_graph.nodes.stage import Stage, emit
from specreason_graph.prompting.engine_prompts import as_step
from specreason_graph.record.events import Accepted
from specreason_graph.record.progress import Pending
from specreason_graph.record.records import Proposal, Usage
from specreason_graph.record.state import State


class Accept(Stage):
    """Appends the pending proposal, or its edited version, to the trace."""

    async def __call__(self, state: State, lookahead: Lookahead, /) -> dict[str, Any]:
        """Commit; no engine is asked, but for an answer on probation where the stopping rule wants one."""
        pending = Pending.load(state["pending"])
        proposal, decision = pending.proposal, pending.decision
        assert proposal is not None  # noqa: S101 - the route here is behind score and review
        assert decision is not None  # noqa: S101
        if decision.review and decision.review.text is not None:
            proposal = self._edited(proposal, decision.review.text)
        step, changes = commit(self, state, lookahead, proposal, decision, await lookahead.probe())
        emit(Accepted(step=step))
        emit_reply(self, state, changes["trace"])
        return changes

    def _edited(self, proposal: Proposal, text: str) -> Proposal:
        """The human's version; a step goes on where the proposal went on, and ends the thinking where that did."""
        ending = proposal.ending if proposal.closes_thinking else "blank_line"
        whole = as_step(text)
        ids = self.sampler.prompts.base.vocabulary.encode(whole)
        return Proposal(author="human", token_ids=ids, text=whole, ending=ending, seed=proposal.seed, usage=Usage())
