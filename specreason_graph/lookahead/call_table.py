"""Starts the calls of a run, each once at each node, and gives them up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from specreason_graph.engines.base import TokenCallback
from specreason_graph.lookahead.calls import InFlightCall, consume_exception, usage_of
from specreason_graph.lookahead.commit_point import CommitPoint
from specreason_graph.lookahead.step_sampler import ENGINES, StepSampler
from specreason_graph.lookahead.tree import SpeculationNode
from specreason_graph.policies.deadlines import proposals_in_force
from specreason_graph.record.records import Proposal, Purpose

T = TypeVar("T")


class CallTable:
    """The calls of one run; used on the engines' loop only."""

    def __init__(self, sampler: StepSampler, commit_point: CommitPoint) -> None:
        self._sampler, self._commit_point = sampler, commit_point
        self.streams = False
        """Whether engines are to tell of each token of a step; asked for only where somebody shows it."""

    def draft_at(self, node: SpeculationNode) -> InFlightCall:
        """Start what the draft writes at a node, unless it has been."""
        count = proposals_in_force(self._sampler.config, self._commit_point.slo_ratio)
        return self._start(node, "draft", (), lambda call: self._sampler.draft(node, count, self._told(call)))

    def score_at(self, node: SpeculationNode, proposal: Proposal) -> InFlightCall:
        """Start what the base thinks of a proposal; a judge may ask for the base's own version of it."""

        async def regenerated() -> Proposal:
            # with the slot of the score held, the last slot would wait for itself
            async with self._sampler.pair.lent("base", self._commit_point.priority(node)):
                written: Proposal = await asyncio.shield(self.regenerate_at(node).task)
                return written

        return self._start(
            node, "score", tuple(proposal.token_ids), lambda _: self._sampler.score(node, proposal, regenerated)
        )

    def regenerate_at(self, node: SpeculationNode) -> InFlightCall:
        """Start what the base writes there."""
        return self._start(node, "regenerate", (), lambda call: self._sampler.regenerate(node, self._told(call)))

    def probe_at(self, node: SpeculationNode) -> InFlightCall:
        """Start what the base would answer there."""
        return self._start(node, "probe", (), lambda _: self._sampler.probe(node))

    def give_up(self, node: SpeculationNode, blame: int) -> None:
        """Stop all work at a node and behind it; it is charged to the step with number ``blame``."""
        for each in node.subtree():
            if each.prefetch:
                each.prefetch.cancel()
            self.give_up_calls(each, blame)
        node.prune()

    def give_up_calls(self, node: SpeculationNode, blame: int) -> None:
        """Stop the calls at one node."""
        for call in node.calls.values():
            self._waste(call, blame)
        node.calls.clear()

    def drop_regeneration(self, node: SpeculationNode) -> None:
        """Stop what the base writes at a node where the draft's version was accepted."""
        call = node.calls.pop(("regenerate",), None)
        if call:
            self._waste(call, node.index)

    def _start(
        self, node: SpeculationNode, purpose: Purpose, about: tuple[int, ...],
        work: Callable[[InFlightCall], Coroutine[Any, Any, T]],
    ) -> InFlightCall:  # fmt: skip
        """Start a call at a node, unless it has been; one that failed ahead of time is made again."""
        key = (purpose, *about)
        before = node.calls.get(key)
        if before and before.is_usable:
            return before
        engine = ENGINES[purpose]
        call = node.calls[key] = InFlightCall(engine, purpose, len(node.prompts[engine]))
        call.task = asyncio.create_task(self._timed(call, work, node))
        call.task.add_done_callback(consume_exception)  # asyncio would log an exception that nobody fetched
        return call

    def _told(self, call: InFlightCall) -> TokenCallback | None:
        return call.token if self.streams else None

    async def _timed(
        self, call: InFlightCall, work: Callable[[InFlightCall], Coroutine[Any, Any, T]], node: SpeculationNode
    ) -> T:
        asked = time.perf_counter()
        async with self._sampler.pair.slot(call.engine, self._commit_point.priority(node)):
            call.begun = time.perf_counter()
            outcome = await work(call)
        seconds, tokens = time.perf_counter() - asked, usage_of(outcome).generated_tokens
        self._commit_point.estimates.took(call.purpose, seconds, tokens)
        return outcome

    def _waste(self, call: InFlightCall, blame: int) -> None:
        cost = call.give_up()
        self._commit_point.wasted[blame] += [cost] if cost else []
