"""Let the base model write the step that the draft did not get in, or was not asked for."""

from __future__ import annotations

from typing import Any

from specreason_graph.errors import ModelError
from specreason_graph.lookahead.lookahead import Lookahead
from specreason_graph.nodes.commit import commit, emit_reply
from specreason_graph.nodes.stage import Stage, emit
from specreason_graph.policies.acceptance import decide_unscored
from specreason_graph.record.events import Regenerated, Rejected, RolledBack
from specreason_graph.record.progress import Pending, Progress
from specreason_graph.record.records import Decision, Proposal
from specreason_graph.record.state import State


class Regenerate(Stage):
    """Writes a step with the base model and appends it to the trace."""

    async def __call__(self, state: State, lookahead: Lookahead, /) -> dict[str, Any]:
        """Write and commit; a rejected proposal stays in the step's evidence."""
        pending = Pending.load(state.get("pending") or {})
        decision = pending.decision or self._unscored(pending, Progress.load(state["progress"]))
        if pending.proposal:
            emit(Rejected(index=lookahead.node.index, decision=decision))
        if decision.taken_back:
            lookahead.go_back(state, decision.taken_back)
            emit(RolledBack(index=lookahead.node.index, steps=decision.taken_back))
        written = await lookahead.regenerate(self.step_stream(lookahead, "base"))
        if self.sampler.prompts.is_plain and lookahead.node.index == 0 and written.ending == "special_token":
            self._check_speaks(written)
        step, changes = commit(self, state, lookahead, written, decision, await lookahead.probe())
        emit(Regenerated(step=step))
        emit_reply(self, state, changes["trace"])
        return changes

    def _check_speaks(self, written: Proposal) -> None:
        """`ModelError` where the reply begins with a control token: it would be empty, and nobody would know why."""
        if written.is_blank:
            raise ModelError(
                f"the base model {self.pair.base.name!r} begins its reply with a control token that is not known here",
                hint="if it thinks by itself set thinking=tags, and its tags as think_open and think_close",
            )

    def _unscored(self, pending: Pending, progress: Progress) -> Decision:
        """Why the base writes although nothing was scored."""
        error = pending.error or ("" if progress.draft_failed else None)
        drafted = pending.proposal is not None or error is not None
        if drafted:
            return decide_unscored(pending.proposal, self.config, error)
        return decide_unscored(None, self.config, None, progress.goodput, progress.handover)
