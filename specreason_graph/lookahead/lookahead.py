"""Engine work of a run, done ahead of the stages that ask for it.

While the base model scores a step the draft already writes the next ones, each is scored as soon as it is written, and
what hangs on a step that is rejected is given up at once. A stage asks the lookahead and gets what is there, or waits
for what is under way, or has it done now. So the trace does not depend on it, and losing it costs time only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from specreason_graph.engines.base import TokenCallback
from specreason_graph.engines.pair import StreamCalls
from specreason_graph.lookahead.call_table import CallTable
from specreason_graph.lookahead.calls import InFlightCall
from specreason_graph.lookahead.commit_point import CommitPoint
from specreason_graph.lookahead.estimates import CostEstimates
from specreason_graph.lookahead.prefetch import Prefetcher
from specreason_graph.lookahead.resumed import check_resumed
from specreason_graph.lookahead.step_sampler import StepSampler
from specreason_graph.lookahead.tree import SpeculationNode
from specreason_graph.policies.handover import past_step
from specreason_graph.record.progress import Pending, Progress
from specreason_graph.record.records import Cost, Plain, ProbedAnswer, Proposal, Score, Step, StepLike
from specreason_graph.record.seal import head_of
from specreason_graph.record.setup import Setup
from specreason_graph.record.standing import standing_in
from specreason_graph.record.state import State


class DeadlinePassed(Exception):  # noqa: N818 - no error: the thinking ends
    """There is no more time for what was asked; ``seconds_used``: seconds that the run has taken."""

    def __init__(self, seconds_used: float) -> None:
        super().__init__(seconds_used)
        self.seconds_used = seconds_used


class Lookahead:
    """The work on one run, at its commit point and ahead of it; used on the engines' loop only."""

    def __init__(
        self, sampler: StepSampler, state: State, estimates: CostEstimates, runs: Callable[[], int],
        *, accept_changes: bool = False,
    ) -> None:  # fmt: skip
        manifest, trace = state["manifest"], state["trace"]
        self._change = check_resumed(manifest, trace, sampler, accept_changes=accept_changes)
        progress, pending = Progress.load(state["progress"]), Pending.load(state.get("pending") or {})
        self.sampler, self.estimates = sampler, estimates
        here = self._place(state, standing_in(trace))
        self.commit_point = CommitPoint(here, sampler.config, estimates, progress, pending, trace)
        self.caller: StreamCalls | None = None  # the calls of the stream that asked last
        self._calls = CallTable(sampler, self.commit_point)
        self._prefetcher = Prefetcher(sampler, self._calls, self.commit_point, runs)
        self._loop = asyncio.get_running_loop()  # a pair that is opened again has another one, and the tasks are lost
        self._head = head_of(manifest, trace)
        self._left: SpeculationNode | None = None  # where the steps that are taken back end, until that is committed
        last = trace[-1].get("probe") if trace else None
        self.last_probe = last and ProbedAnswer.load(last)

    @property
    def node(self) -> SpeculationNode:
        """The place behind the last committed step."""
        return self.commit_point.node

    def fits(self, state: State) -> bool:
        """Whether this is the lookahead of a run that has come as far as ``state``.

        Runs of schema version 1 have no hashes: their last text is compared.
        """
        trace = state["trace"]
        here = self.node.index == len(trace) and self._head == head_of(state["manifest"], trace)
        here = here and (self._left is None or bool(_decision(state).get("taken_back")))
        same = self._head is not None or self.node.text == (trace[-1]["text"].strip() if trace else "")
        return here and same and self._loop is asyncio.get_running_loop()

    @property
    def streams(self) -> bool:
        """Whether the text of steps is told while it is written."""
        return self._calls.streams

    @streams.setter
    def streams(self, wanted: bool) -> None:
        self._calls.streams = wanted

    async def draft(self, listener: TokenCallback | None = None) -> list[Proposal]:
        """The draft's next step, in as many versions as the settings want; ``listener`` gets the first one's tokens."""
        self._prefetcher.start(self.node)
        proposals: list[Proposal] = await self._outcome(self._calls.draft_at(self.node), listener)
        return proposals

    async def score(self, proposal: Proposal) -> Score:
        """What the base thinks of it."""
        score: Score = await self._outcome(self._calls.score_at(self.node, proposal))
        return score

    async def regenerate(self, listener: TokenCallback | None = None) -> Proposal:
        """The next step as the base writes it."""
        self.node.decided = True  # the prefetcher may still wait for a score, which no longer matters
        self._prefetcher.start(self.node)
        written: Proposal = await self._outcome(self._calls.regenerate_at(self.node), listener)
        return written

    async def probe(self) -> ProbedAnswer | None:
        """What the base would answer here, where the stopping rule asks."""
        if self.sampler.config.stopping.probe is None:
            return None
        probed: ProbedAnswer = await self._outcome(self._calls.probe_at(self.node))
        return probed

    def take_change(self) -> Setup | None:
        """The set-up that the run was resumed with where it is another one, for the next record; None from then on."""
        change, self._change = self._change, None
        return change

    def repeats(self, text: str) -> int:
        """How often a text is in the trace."""
        return self.commit_point.texts[text.strip()]

    def settle(self, step: StepLike) -> tuple[list[Cost], float]:
        """End the work on a step that is decided: the cost of what was wasted for it, and the seconds it took."""
        node = self.node
        kept = self.sampler.after(node, step)
        for other in [child for child in node.children.values() if child is not kept]:
            self._calls.give_up(other, node.index)
        self._calls.give_up_calls(node, node.index)
        elapsed = self.commit_point.end_step()
        self.estimates.committed(elapsed)
        return self.commit_point.wasted.pop(node.index, []), elapsed

    def commit(self, step: Step, progress: Progress) -> None:
        """Move on behind a committed step."""
        self.last_probe = step.probe
        self.commit_point.slo_ratio, self.commit_point.base_only = progress.slo_ratio, progress.base_only
        self.commit_point.move(self._behind(self.node, step), step)
        self._head, self._left = step.hash, None
        self.commit_point.announce()

    def go_back(self, state: State, taken_back: Sequence[int]) -> None:
        """Stand where the base writes on once these steps are taken back; what is under way is wasted for its step."""
        if self._left is None:  # a stage that is done again is there already
            self._left = self.node
            self._calls.give_up(self.node, self.node.index)
            stay = [each for each in standing_in(state["trace"]) if each not in taken_back]
            self.commit_point.stand(self._place(state, stay))

    def stay(self) -> None:
        """Stand behind the last committed step again, where no step has come of going back."""
        if self._left:
            self._calls.give_up(self.node, self.node.index)
            self.commit_point.stand(self._left)
            self._left = None

    def _place(self, state: State, positions: Sequence[int]) -> SpeculationNode:
        """The place behind some of a run's steps, at which the next one is written."""
        manifest, trace = state["manifest"], state["trace"]
        node = SpeculationNode.root(self.sampler.prompts, manifest["head_ids"], manifest["question"])
        for position in positions:
            node = self._behind(node, Step.load(trace[position]))
            node.commit()
        node.index = len(trace)
        return node

    def _behind(self, node: SpeculationNode, step: Step) -> SpeculationNode:
        """The place behind a committed step."""
        behind = self.sampler.after(node, step)
        behind.trail = (*node.trail, past_step(step))  # the record knows what was only expected ahead of it
        return behind

    def pause(self) -> tuple[float, list[Cost]]:
        """Give up what is ahead, as a human is asked: the seconds of the step so far, and the cost of that."""
        self._calls.give_up(self.node, self.node.index)
        return self.commit_point.step_seconds, self.commit_point.wasted[self.node.index]

    def end(self, pending: Pending) -> list[Cost]:
        """Give up what is under way; the cost of that, and of all that is in no step.

        ``pending``: the step that does not come to be; what it cost is counted by the caller.
        """
        kept = {"draft": pending.proposal is not None, "score": pending.score is not None}
        for call in self.node.calls.values():
            call.used = call.used and kept.get(call.purpose, False)
        self._calls.give_up(self.node, self.node.index)
        return [cost for costs in self.commit_point.wasted.values() for cost in costs]

    def close(self) -> list[asyncio.Task[Any]]:
        """Give up all work; the tasks, which may take a moment to end."""
        nodes = list(self.node.subtree())
        tasks: list[asyncio.Task[Any]] = [call.task for node in nodes for call in node.calls.values()]
        tasks += [node.prefetch for node in nodes if node.prefetch]
        for task in tasks:
            task.cancel()
        return [task for task in tasks if not task.done()]

    async def _outcome(self, call: InFlightCall, listener: TokenCallback | None = None) -> Any:
        """The outcome of a call, which from now on is evidence."""
        try:
            async with asyncio.timeout(self.commit_point.thinking_seconds_left) as limit:
                with call.heard_by(listener):
                    # who stops waiting does not stop the call: others may need it
                    outcome = await asyncio.shield(call.task)
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlinePassed(self.commit_point.seconds_used) from None
        call.used = True
        return outcome


def _decision(state: State) -> Plain:
    """The decision on the step in flight; empty where there is none."""
    return (state.get("pending") or {}).get("decision") or {}
