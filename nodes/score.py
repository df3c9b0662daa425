"""Ask the base model for its opinion on the proposal, as one token; of several proposals the best is decided on."""

from __future__ import annotations

import asyncio
from typing import Any

from specreason_graph.events import Scored
from specreason_graph.nodes.stage import Stage
from specreason_graph.policies import asks_human, best_of, decide
from specreason_graph.policies.deadlines import threshold_in_force
from specreason_graph.records import Alternative, Proposal, Score
from specreason_graph.state import State


class ScoreProposal(Stage):
    """Scores the pending proposals and decides on the best one."""

    async def __call__(self, state: State) -> dict[str, Any]:
        """Add score and decision to ``pending``, and put the best proposal in the first place."""
        pending = state["pending"]
        others = [Alternative.load(each) for each in pending.get("alternatives", ())]
        proposals = [Proposal.load(pending["proposal"]), *(each.proposal for each in others)]
        scores = await self._judge(state, proposals)
        judged = [number for number, score in enumerate(scores) if score]
        best = judged[best_of([score for score in scores if score], self.config.reading)]
        score = scores[best]
        assert score is not None  # noqa: S101 - only what was judged can be the best
        threshold = threshold_in_force(self.config, state["progress"].get("lateness", 0.0))
        decision = decide(score, threshold=threshold, reading=self.config.reading)
        self.tell(Scored(index=len(state["trace"]), score=score, decision=decision))
        uncertain = asks_human(decision, self.config.review)
        found_out = {
            "proposal": proposals[best].dump(), "score": score.dump(), "decision": decision.dump(),
            "uncertain": uncertain, **(self.window(state).pause() if uncertain else {}),
        }  # fmt: skip
        rest = [Alternative(proposal=p, score=s).dump() for p, s in zip(proposals, scores, strict=True)]
        more = {"alternatives": rest[:best] + rest[best + 1 :]} if others else {}
        return {"pending": {**pending, **found_out, **more}}

    async def _judge(self, state: State, proposals: list[Proposal]) -> list[Score | None]:
        """Scores, asked for together; None for what cannot be judged."""
        window = self.window(state)

        async def judge(proposal: Proposal) -> Score | None:
            return await window.judge(proposal) if self.writer.can_judge(window.at, proposal) else None

        return list(await asyncio.gather(*map(judge, proposals)))
