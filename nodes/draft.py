"""Let the draft model propose the next step."""

from __future__ import annotations

from typing import Any

from specreason_graph.nodes.stage import Stage
from specreason_graph.state import State


class Draft(Stage):
    """Writes a proposal."""

    async def __call__(self, state: State) -> dict[str, Any]:
        """Put a proposal into ``pending``, and whether it can be judged; the trace is not touched."""
        proposal = await self.write("draft", "draft", state)
        plain = proposal.dump()
        fits = self.room("base", state, plain) >= 0
        return {"pending": {"proposal": plain, "judgeable": fits and not proposal.is_blank}}
