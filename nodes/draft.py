"""Let the draft model write the next step."""

from __future__ import annotations

from typing import Any

from specreason_graph.errors import EngineError
from specreason_graph.lookahead.lookahead import Lookahead
from specreason_graph.nodes.stage import Stage, emit
from specreason_graph.record.events import Drafted
from specreason_graph.record.progress import Pending
from specreason_graph.record.records import Alternative
from specreason_graph.record.state import State


class Draft(Stage):
    """Writes a proposal."""

    async def __call__(self, _: State, lookahead: Lookahead, /) -> dict[str, Any]:
        """Put a proposal into ``pending``, and whether it can be scored; the trace is not touched."""
        try:
            proposals = await lookahead.draft(self.step_stream(lookahead, "draft"))
        except EngineError as error:
            # one engine in both roles: it would fail as the base, too
            if self.pair.draft is self.pair.base or not self.config.continue_without_draft:
                raise
            return {"pending": Pending(error=str(error)).dump()}
        for proposal in proposals:
            emit(Drafted(index=lookahead.node.index, proposal=proposal))
        first, *others = proposals
        pending = Pending(
            proposal=first, alternatives=[Alternative(proposal=each, score=None) for each in others],
            scorable=any(self.sampler.can_score(lookahead.node, each) for each in proposals),
        )  # fmt: skip
        return {"pending": pending.dump()}
