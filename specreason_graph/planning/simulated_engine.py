"""Engines of a simulation: calls share passes as in vLLM, or take turns as in the embedded engine."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from specreason_graph.engines.slots import CallSlots, Priority
from specreason_graph.planning.descriptions import Measured

JUST = 1e-9
"""Passes and seconds below which nothing is left to do."""


@dataclass(eq=False)
class Call:
    """One call of an engine, as far as its time goes."""

    prefill: int
    """Prompt tokens that are not in the engine's cache."""
    passes: int
    """Passes that it takes, the one that reads the prompt included."""
    context: float = 0.0
    """Tokens that are read from the cache in a pass."""
    more: float = 0.0
    """Seconds that its first pass takes longer because of it."""
    is_short: bool = False
    """Whether it goes between the passes of others, where an engine works on one call at a time."""
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Set when it has ended."""

    @property
    def is_new(self) -> bool:
        """Whether its prompt is still to be read."""
        return self.prefill > 0


class Machine:
    """What engines share: how fast each goes while others work as well."""

    def __init__(self, slowdown: float = 1.0, cores: int | None = None) -> None:
        self._slowdown, self._cores = slowdown, cores
        self._working: set[SimulatedEngine] = set()

    def speed(self, engine: SimulatedEngine) -> float:
        """Passes that an engine gets done in the time of one alone, 0 to 1."""
        models = sum(each.is_model for each in self._working)
        speed = 1 / self._slowdown if engine.is_model and models > 1 else 1.0
        busy = len(self._working)
        return min(speed, self._cores / busy) if self._cores and busy > self._cores else speed

    def note(self, engine: SimulatedEngine, *, works: bool) -> None:
        """Take note of an engine that begins or ends to work; the others go on at another speed."""
        if works == (engine in self._working):
            return
        for each in self._working:
            each.settle()
        (self._working.add if works else self._working.discard)(engine)
        for each in self._working - {engine}:
            each.set_timer()


@dataclass(eq=False)
class SimulatedEngine:
    """Works on calls pass by pass; a stint is a number of passes over the same calls."""

    machine: Machine
    """Whom it shares devices with."""
    pass_seconds: Callable[[Sequence[Call]], float]
    """Seconds of one pass over some calls, while nobody else works."""
    batching: bool
    """Whether all calls are in each pass."""
    is_model: bool = True
    """Whether it is one of the models, and not the host."""

    def __post_init__(self) -> None:
        self._calls: list[Call] = []
        self._batch: list[Call] = []
        self._is_beginning = False
        self._planned = self._passed = self._cost = 0.0
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.busy_seconds = 0.0
        """Seconds in which it worked."""

    async def work(self, call: Call) -> None:
        """Do a call; one that is cancelled leaves at the end of the pass."""
        self._calls.append(call)
        if self._batch:
            self._cut_short()
        elif not self._is_beginning:
            self._is_beginning = True  # a moment later, so that calls of the same moment share the pass
            asyncio.get_running_loop().call_soon(self._begin)
        try:
            await call.done
        except asyncio.CancelledError:
            if call in self._calls:
                self._calls.remove(call)
                self._cut_short()
            raise

    def settle(self) -> None:
        """Count what was done since the speed changed last."""
        now = asyncio.get_running_loop().time()
        if self._batch:
            self._passed += (now - self._since) * self.machine.speed(self) / self._cost
            self.busy_seconds += now - self._since
        self._since = now

    def set_timer(self) -> None:
        """Wake at the end of the stint, as the speed now is."""
        if self._timer:
            self._timer.cancel()
        left = max(0.0, self._planned - self._passed) * self._cost / self.machine.speed(self)
        self._timer = asyncio.get_running_loop().call_later(left, self._end)

    def _cut_short(self) -> None:
        """End the stint with the pass that is under way: calls have come or gone."""
        if not self._batch:
            return
        self.settle()
        self._planned = min(self._planned, max(1.0, math.ceil(self._passed - JUST)))
        self.set_timer()

    def _begin(self) -> None:
        """Begin a stint over the calls that are there; without one the engine is idle."""
        self.settle()
        self._is_beginning = False
        self._batch = self._chosen()
        self.machine.note(self, works=bool(self._batch))
        if not self._batch:
            return
        self._passed = 0.0
        self._planned = 1.0 if any(each.is_new for each in self._batch) else min(each.passes for each in self._batch)
        self._cost = max(JUST, self.pass_seconds(self._batch))
        self.set_timer()

    def _chosen(self) -> list[Call]:
        if self.batching:
            return list(self._calls)
        return [next((each for each in self._calls if each.is_short), self._calls[0])] if self._calls else []

    def _end(self) -> None:
        """End a stint: calls that are through get their answers."""
        self.settle()
        done = round(self._planned)
        for call in self._batch:
            call.prefill = 0
            call.passes -= done
            call.context += done
            if call.passes <= 0 and call in self._calls:
                self._calls.remove(call)
                if not call.done.done():
                    call.done.set_result(None)
        self._batch = []
        self._begin()


class Slots:
    """Lets calls into an engine, the one that is needed first before others, and adds what a call takes on its way."""

    def __init__(
        self, engine: SimulatedEngine, host: SimulatedEngine, slots: int | None, measured: Measured, call_seconds: float
    ) -> None:
        self.engine, self._host, self._slots, self._measured = engine, host, CallSlots(slots), measured
        self._latency = max(0.0, call_seconds - measured.host_call)
        self._beside = set[asyncio.Task[None]]()

    async def work(self, call: Call, tokens: int, priority: Priority) -> None:
        """Wait for a slot, and do a call that writes so many tokens."""
        async with self._slots.slot(priority):
            if self._measured.host_call:
                await self._host.work(host_call(self._measured.host_call))
            if self._latency:
                await asyncio.sleep(self._latency)
            if self._measured.host_token:  # it keeps the host busy, and the engine does not wait for it
                task = asyncio.create_task(self._host.work(host_call(tokens * self._measured.host_token)))
                self._beside.add(task)
                task.add_done_callback(self._beside.discard)
            await self.engine.work(call)


def host_call(seconds: float) -> Call:
    """Work of this package's process."""
    return Call(prefill=0, passes=1, context=seconds)


def host_seconds(calls: Sequence[Call]) -> float:
    """Seconds of the work that `host_call` made."""
    return calls[0].context
