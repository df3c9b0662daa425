"""Let the draft model propose the next step."""

from __future__ import annotations

from typing import Any

from specreason_graph.errors import EngineError
from specreason_graph.events import Proposed
from specreason_graph.nodes.stage import Stage
from specreason_graph.state import State


class Draft(Stage):
    """Writes a proposal."""

    async def __call__(self, state: State) -> dict[str, Any]:
        """Put a proposal into ``pending``, and whether it can be judged; the trace is not touched."""
        try:
            proposal = await self.window(state).propose()
        except EngineError as error:
            if self.pair.draft is self.pair.base or not self.config.continue_without_draft:
                raise
            return {"pending": {"judgeable": False, "error": str(error)}}
        self.tell(Proposed(index=len(state["trace"]), proposal=proposal))
        judgeable = self.writer.can_judge(self.window(state).at, proposal)
        return {"pending": {"proposal": proposal.dump(), "judgeable": judgeable}}
