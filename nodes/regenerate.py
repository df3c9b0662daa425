"""Let the base model write the step that the draft did not get in, or was not asked for."""

from __future__ import annotations

from typing import Any

from specreason_graph.lookahead.lookahead import Lookahead
from specreason_graph.nodes.commit import commit, emit_reply
from specreason_graph.nodes.stage import Stage, emit
from specreason_graph.policies.acceptance import decide_unscored
from specreason_graph.record.events import Regenerated, Rejected
from specreason_graph.record.progress import Pending, Progress
from specreason_graph.record.records import Decision
from specreason_graph.record.state import State


class Regenerate(Stage):
    """Writes a step with the base model and appends it to the trace."""

    async def __call__(self, state: State, lookahead: Lookahead, /) -> dict[str, Any]:
        """Write and commit; a rejected proposal stays in the step's evidence."""
        pending = Pending.load(state.get("pending") or {})
        decision = pending.decision or self._unscored(pending, Progress.load(state["progress"]))
        if pending.proposal:
            emit(Rejected(index=lookahead.node.index, decision=decision))
        written = await lookahead.regenerate()
        step, changes = commit(self, state, lookahead, written, decision)
        emit(Regenerated(step=step))
        emit_reply(self, state, step)
        return changes

    def _unscored(self, pending: Pending, progress: Progress) -> Decision:
        """Why the base writes although nothing was scored."""
        error = pending.error or ("" if progress.draft_failed else None)
        drafted = pending.proposal is not None or error is not None
        return decide_unscored(pending.proposal, self.config, error, None if drafted else progress.goodput)
