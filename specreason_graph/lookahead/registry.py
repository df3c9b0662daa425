"""The lookaheads of all runs that are worked on over one pair, and what is known of the pair from them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from specreason_graph.engines.pair import CALLS, EnginePair, StreamCalls
from specreason_graph.lookahead.estimates import CostEstimates
from specreason_graph.lookahead.lookahead import Lookahead
from specreason_graph.lookahead.step_sampler import StepSampler
from specreason_graph.policies.speculation import SpeculationController
from specreason_graph.record.state import State

LAST_RUN = 0.05
"""How much the last run counts in the average of the steps that runs take."""


@dataclass(frozen=True, eq=False)
class Caller:
    """Who works on a run: a stream over its graph. Another one may take the run over before this one has left."""

    registry: LookaheadRegistry
    """Where the run's lookahead is."""
    run: str
    """Which run."""
    calls: StreamCalls
    """What the stream cancels when it is left."""
    loop: asyncio.AbstractEventLoop
    """The engines' loop."""

    def cancel(self) -> None:
        """It has left; from any thread."""
        try:
            self.loop.call_soon_threadsafe(self.registry.leave, self.run, self.calls)
        except RuntimeError:  # the loop is closed, and with it all that was under way
            self.registry.leave(self.run, self.calls)


class LookaheadRegistry:
    """The lookaheads of the runs that are worked on over one pair, and what they show of its speed."""

    def __init__(self) -> None:
        self.lookaheads: dict[str, Lookahead] = {}
        """Those of the runs under way, by the run's name."""
        self.controller = SpeculationController()
        """Whether drafting pays."""
        self.average_steps: float | None = None
        """Steps that runs take on average, the last ones counting most; None before one has ended."""
        self._starting = 0
        self._estimates = CostEstimates(weight=0.02)

    @classmethod
    def of(cls, pair: EnginePair) -> LookaheadRegistry:
        """The registry of a pair."""
        return pair.companion(cls)

    @property
    def runs(self) -> int:
        """How many runs are under way."""
        return len(self.lookaheads) + self._starting

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Count a run that has no lookahead yet, so that the first of many knows that others come."""
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1

    def find(self, state: State, sampler: StepSampler, *, accept_changes: bool = False) -> Lookahead:
        """The lookahead of a run, a new one where there is none that fits.

        ``accept_changes``: whether a run may go on with another set-up; else `ThreadError`, as `check_resumed` says.
        """
        run = state["progress"]["run"]
        lookahead = self.lookaheads.get(run)
        if lookahead is None or not lookahead.fits(state):  # resumed, forked, or left by a caller that was cancelled
            self.close(run)
            estimates = CostEstimates(self._estimates)
            lookahead = Lookahead(sampler, state, estimates, lambda: self.runs, accept_changes=accept_changes)
            self.lookaheads[run] = lookahead
        calls = CALLS.get()
        before, lookahead.caller = lookahead.caller, calls
        if calls is not None and calls is not before:
            calls.add(Caller(self, run, calls, asyncio.get_running_loop()))
        return lookahead

    def finished(self, steps: int) -> None:
        """Take note of a run that has come to its end."""
        before = self.average_steps
        self.average_steps = steps if before is None else before + LAST_RUN * (steps - before)

    def leave(self, run: str, calls: StreamCalls | None) -> list[asyncio.Task[Any]]:
        """Give up what is under way for a run, unless it is another caller's by now; the tasks that still end."""
        lookahead = self.lookaheads.get(run)
        return self.close(run) if lookahead and lookahead.caller is calls else []

    def close(self, run: str) -> list[asyncio.Task[Any]]:
        """Give up what is under way for a run; the tasks that still end."""
        lookahead = self.lookaheads.pop(run, None)
        return lookahead.close() if lookahead else []
