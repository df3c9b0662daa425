"""Goes ahead of the commit point and has done there what the stages will ask for.

How far is a matter of how likely it is to be of use: behind each step that nobody has scored yet the next one may be
wasted. What a prefetcher starts hangs on the node it was started at, so nothing it guesses wrong is ever asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from specreason_graph.lookahead.call_table import CallTable
from specreason_graph.lookahead.calls import consume_exception
from specreason_graph.lookahead.commit_point import CommitPoint
from specreason_graph.lookahead.reach import Reach
from specreason_graph.lookahead.step_sampler import StepSampler
from specreason_graph.lookahead.tree import SpeculationNode
from specreason_graph.policies.acceptance import asks_human, best_of, decide
from specreason_graph.policies.deadlines import judge_in_force
from specreason_graph.policies.end_of_thinking import stop_reason
from specreason_graph.policies.handover import rejected_step
from specreason_graph.policies.rollback import steps_back
from specreason_graph.record.progress import Progress
from specreason_graph.record.records import Proposal


class Prefetcher:
    """Works ahead for one run; ``runs`` says how many runs are under way over the same engines."""

    def __init__(
        self, sampler: StepSampler, calls: CallTable, commit_point: CommitPoint, runs: Callable[[], int]
    ) -> None:
        self._sampler, self._calls, self._commit_point = sampler, calls, commit_point
        self._estimates, self._config = commit_point.estimates, sampler.config
        base, draft = sampler.pair.base, sampler.pair.draft
        # Work ahead changes the order of calls; where the answers go by that, there is none.
        lookahead = 0 if base.order_dependent or draft.order_dependent else self._config.lookahead
        self._reach = Reach(lookahead, self._estimates, base.max_concurrency, runs, lambda: commit_point.node.index)

    def start(self, node: SpeculationNode) -> None:
        """Do what the stages will do from a node on, unless that is under way."""
        if self._reach.farthest and node.prefetch is None:
            node.prefetch = asyncio.create_task(self._go_ahead(node))
            node.prefetch.add_done_callback(consume_exception)

    async def _go_ahead(self, node: SpeculationNode) -> None:
        while not self._reach.may_start(node):
            await self._commit_point.changed.wait()
        self._probe(node)
        if self._is_open(node) and await self._accepts_draft(node):
            return
        node.decided = True
        written = await self._calls.regenerate_at(node).task
        self._go_on(self._sampler.after(node, written), written)

    async def _accepts_draft(self, node: SpeculationNode) -> bool:
        """Have a step drafted and scored, and work go on behind it; False when the base is to write it here instead."""
        drafting = self._calls.draft_at(node)
        self._hedge(node)
        proposals = [each for each in await drafting.task if self._sampler.can_score(node, each)]
        if not proposals:
            return False
        scoring = [self._calls.score_at(node, each).task for each in proposals]
        if len(proposals) == 1:  # of several nobody knows yet which one is the best
            self._speculate_behind(node, proposals[0])
        scores = await asyncio.gather(*scoring)
        if not self._is_open(node):  # decided by who waits for the base's version meanwhile
            return False
        judge = judge_in_force(self._config, self._commit_point.slo_ratio)
        best = best_of(scores, judge)
        behind = self._speculate_behind(node, proposals[best])
        decision = decide(scores[best], judge)
        self._estimates.scored(accepted=decision.accepted, after_rejection=node.follows_rejection)
        node.decided = True
        if asks_human(decision, self._config.review):
            return True  # nobody knows how the human will decide: what is ahead stays, and nothing more is begun
        behind.verified = decision.accepted
        self._probe(behind)
        if decision.accepted:
            self._calls.drop_regeneration(node)
            for each in behind.subtree():
                self._hedge(each)
        else:
            self._calls.give_up(behind, node.index)
        self._commit_point.announce()
        rejected = rejected_step(proposals[best], scores[best], decision)
        earlier = self._commit_point.rollbacks
        return decision.accepted or steps_back(self._config, node.trail, rejected, decision, earlier) > 0

    def _is_open(self, node: SpeculationNode) -> bool:
        """Whether the draft is asked at a node, and nobody knows yet who writes there."""
        return not (node.decided or self._commit_point.base_only) and self._sampler.asks_draft(node)

    def _speculate_behind(self, node: SpeculationNode, proposal: Proposal) -> SpeculationNode:
        """Work ahead behind a step that nobody has scored yet."""
        behind = self._sampler.after(node, proposal)
        if behind.prefetch is None:
            behind.verified = False
            self._go_on(behind, proposal)
        return behind

    def _go_on(self, node: SpeculationNode, last: Proposal) -> None:
        """Work ahead behind a step, unless the thinking ends with it."""
        progress = Progress(
            steps=node.index, thinking_tokens=node.tokens, tokens_left=node.tokens_left,
            repeats=1 + self._commit_point.texts[node.text],
        )  # fmt: skip
        if not stop_reason(last, progress, self._config):
            self.start(node)

    def _probe(self, node: SpeculationNode) -> None:
        """Have the answer probed where it will be asked for."""
        if self._config.stopping.probe and node.prefetch and not node.unverified_depth:
            self._calls.probe_at(node)

    def _hedge(self, node: SpeculationNode) -> None:
        """Have the base start on its own version before it has scored the draft's, where a rejection is likely."""
        if node.prefetch and self._is_open(node) and self._reach.may_hedge(node):
            self._calls.regenerate_at(node)
