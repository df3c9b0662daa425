"""Let the judge score the proposal; of several proposals the best is decided on."""

from __future__ import annotations

import asyncio
from typing import Any

from specreason_graph.lookahead.lookahead import Lookahead
from specreason_graph.nodes.stage import Stage, emit
from specreason_graph.policies.acceptance import asks_human, best_of, decide
from specreason_graph.policies.deadlines import judge_in_force
from specreason_graph.policies.handover import rejected_step
from specreason_graph.policies.rollback import steps_back
from specreason_graph.record.events import Scored
from specreason_graph.record.progress import Pending, Progress
from specreason_graph.record.records import Alternative, Decision, Proposal, Score
from specreason_graph.record.standing import standing_in
from specreason_graph.record.state import State


class ScoreProposal(Stage):
    """Scores the pending proposals and decides on the best one."""

    async def __call__(self, state: State, lookahead: Lookahead, /) -> dict[str, Any]:
        """Add score and decision to ``pending``, and put the best proposal in the first place."""
        pending = Pending.load(state["pending"])
        first = [pending.proposal] if pending.proposal else []
        proposals = [*first, *(each.proposal for each in pending.alternatives)]
        scores = await asyncio.gather(*(self._score(lookahead, each) for each in proposals))
        scored = [(number, score) for number, score in enumerate(scores) if score]
        judge = judge_in_force(self.config, Progress.load(state["progress"]).slo_ratio)
        best, score = scored[best_of([score for _, score in scored], judge)]
        decision = self._doubted(state, lookahead, proposals[best], score, decide(score, judge))
        emit(Scored(index=lookahead.node.index, score=score, decision=decision))
        needs_review = asks_human(decision, self.config.review)
        seconds, wasted = lookahead.pause() if needs_review else (0.0, [])
        versions = [_version(p, s) for p, s in zip(proposals, scores, strict=True)]
        found = Pending(
            proposal=versions[best].proposal, alternatives=versions[:best] + versions[best + 1 :], scorable=True,
            score=score, decision=decision, needs_review=needs_review, seconds=seconds, wasted=wasted,
        )  # fmt: skip
        return {"pending": found.dump()}

    def _doubted(
        self, state: State, lookahead: Lookahead, proposal: Proposal, score: Score, decision: Decision
    ) -> Decision:
        """The decision, with the steps before it that are taken back on such a score."""
        rejected, earlier = rejected_step(proposal, score, decision), lookahead.commit_point.rollbacks
        back = steps_back(self.config, lookahead.node.trail, rejected, decision, earlier)
        if not back:
            return decision
        taken_back = standing_in(state["trace"])[-back:]
        return decision.model_copy(update={"rollback": self.config.rollback.kind, "taken_back": taken_back})

    async def _score(self, lookahead: Lookahead, proposal: Proposal) -> Score | None:
        """The score, or None for what cannot be scored."""
        return await lookahead.score(proposal) if self.sampler.can_score(lookahead.node, proposal) else None


def _version(proposal: Proposal, score: Score | None) -> Alternative:
    """A version with its score; the draft's own probabilities are kept once, in the score."""
    if score is None:
        return Alternative(proposal=proposal, score=None)
    return Alternative(proposal=proposal.model_copy(update={"logprobs": None, "entropies": None}), score=score)
