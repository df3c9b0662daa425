"""Let the draft model propose the next step."""

from __future__ import annotations

from typing import Any

from specreason_graph.nodes.stage import Stage
from specreason_graph.prompting import write_step
from specreason_graph.state import State


class Draft(Stage):
    """Writes a proposal."""

    async def __call__(self, state: State) -> dict[str, Any]:
        """Put a proposal into ``pending``; the trace is not touched."""
        prompt = self.thinking_ids("draft", state)
        seed = self.seed("draft", state["progress"]["steps"])
        limit = self.step_limit("draft", prompt)
        proposal = await write_step(self.pair.draft, self.prompts.draft, "draft", prompt, limit, seed)
        return {"pending": {"proposal": proposal.dump()}}
