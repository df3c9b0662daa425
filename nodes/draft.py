"""Let the draft model propose the next step."""

from __future__ import annotations

from typing import Any

from specreason_graph.errors import EngineError
from specreason_graph.events import Proposed
from specreason_graph.nodes.stage import Stage
from specreason_graph.records import Alternative
from specreason_graph.state import State


class Draft(Stage):
    """Writes a proposal."""

    async def __call__(self, state: State) -> dict[str, Any]:
        """Put a proposal into ``pending``, and whether it can be judged; the trace is not touched."""
        try:
            proposals = await self.window(state).propose()
        except EngineError as error:
            if self.pair.draft is self.pair.base or not self.config.continue_without_draft:
                raise
            return {"pending": {"judgeable": False, "error": str(error)}}
        for proposal in proposals:
            self.tell(Proposed(index=len(state["trace"]), proposal=proposal))
        at, (first, *others) = self.window(state).at, proposals
        pending = {"proposal": first.dump(), "judgeable": any(self.writer.can_judge(at, each) for each in proposals)}
        more = {"alternatives": [Alternative(proposal=each, score=None).dump() for each in others]} if others else {}
        return {"pending": {**pending, **more}}
