"""A workload in simulated time: the loop as its stages and its lookahead go, over engines that only cost seconds.

How far the lookahead goes is decided by the package's own rules. Its tree is told here in short.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from specreason_graph.lookahead.estimates import CostEstimates
from specreason_graph.lookahead.reach import Reach
from specreason_graph.planning.costs import PassCosts, Row
from specreason_graph.planning.descriptions import Described
from specreason_graph.planning.profile import SCORED, QuestionProfile, StepProfile
from specreason_graph.planning.simulated_engine import Call, Machine, SimulatedEngine, Slots, host_call, host_seconds
from specreason_graph.planning.strategies import Planned
from specreason_graph.planning.virtual_time import simulated
from specreason_graph.record.records import Engine as Role
from specreason_graph.record.records import Record

LATER, PATIENCE = 10.0, 60.0
"""Seconds of priority for each step ahead, and in which a step is due, as in `specreason_graph.lookahead`."""
PREPARING = 2
"""Stages of a run besides its steps: prepare and finalize."""


class Simulated(Record):
    """A workload in simulated time."""

    seconds: float
    """Wall seconds of all questions."""
    run_seconds: float
    """Sum of the questions' own wall seconds."""
    steps: int
    """Committed steps."""
    waited: dict[str, float]
    """Seconds that runs waited for, by purpose: draft, score, regenerate, answer, and overhead for this package."""
    busy: dict[str, float]
    """Share of the wall seconds in which base, draft and this package's own process worked, 0 to 1."""
    accepted: int
    """Proposals that were let in."""
    scored: int
    """Proposals that were scored."""


def simulate(
    described: Described, questions: Sequence[QuestionProfile], strategy: Planned, concurrency: int = 1
) -> Simulated:
    """Let a strategy answer the questions, so many at a time."""
    return simulated(_World(described, strategy, concurrency).solve(questions, concurrency))


class _World:
    """The engines, and what all runs share."""

    def __init__(self, described: Described, strategy: Planned, concurrency: int) -> None:
        hardware = described.hardware
        self.hardware, self.strategy, self.concurrency = hardware, strategy, concurrency
        self.machine = Machine(hardware.slowdown, hardware.cores)
        self.estimates = CostEstimates(weight=0.02)
        self.runs = 0
        self.waited: defaultdict[str, float] = defaultdict(float)
        speculation = described.speculation if strategy.token_speculation else None
        self.likelihood = 0.0 if strategy.judge == "digit" else described.base.measured.likelihood
        tells = strategy.judge in ("confidence", "cascade")
        self.costs = {
            "base": PassCosts(hardware, described.base, speculation),
            "draft": PassCosts(hardware, described.draft, tells_logprobs=tells),
        }
        self.host = SimulatedEngine(self.machine, host_seconds, batching=False, is_model=False)
        self.engines = {role: self._engine(costs) for role, costs in self.costs.items()}

    def _engine(self, costs: PassCosts) -> Slots:
        def pass_seconds(calls: Sequence[Call]) -> float:
            rows = [Row(1 + max(0, each.prefill - 1), each.context) for each in calls]
            return costs.seconds(rows) + sum(each.more for each in calls if each.is_new)

        engine = SimulatedEngine(self.machine, pass_seconds, self.hardware.batching)
        return Slots(engine, self.host, self.hardware.slots, costs.model.measured, costs.call_seconds)

    async def solve(self, questions: Sequence[QuestionProfile], concurrency: int) -> Simulated:
        """Answer all questions, at most so many at once."""
        free, loop = asyncio.Semaphore(concurrency), asyncio.get_running_loop()
        runs = [_Run(self, each) for each in questions]

        async def one(run: _Run) -> float:
            async with free:
                self.runs += 1
                begun = loop.time()
                await run.solve()
                self.runs -= 1
                return loop.time() - begun

        took = await asyncio.gather(*map(one, runs))
        busy = {role: slots.engine.busy_seconds for role, slots in self.engines.items()}
        busy["overhead"] = self.host.busy_seconds
        seconds = loop.time()
        return Simulated(
            seconds=seconds, run_seconds=sum(took), steps=sum(len(each.steps) for each in questions),
            waited=dict(self.waited), busy={name: each / seconds for name, each in busy.items()},
            accepted=sum(run.accepted for run in runs), scored=sum(run.scored for run in runs),
        )  # fmt: skip


@dataclass(eq=False)
class _Place:
    """The place behind some steps, as `specreason_graph.lookahead.tree.SpeculationNode`, in lengths."""

    index: int
    prompt: int
    cached: dict[Role, int]
    parent: _Place | None = None
    verified: bool = True
    follows_rejection: bool = False
    decided: bool = False
    children: dict[Role, _Place] = field(default_factory=dict)
    calls: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    prefetch: asyncio.Task[None] | None = None

    @property
    def unverified_depth(self) -> int:
        return (not self.verified) + (self.parent.unverified_depth if self.parent else 0)

    def stop(self) -> None:
        """Cancel all work here and behind."""
        for task in filter(None, (self.prefetch, *self.calls.values())):
            task.cancel()
        for child in self.children.values():
            child.stop()


class _Run:
    """One question on its way."""

    def __init__(self, world: _World, question: QuestionProfile) -> None:
        self._world, self._question, self._strategy = world, question, world.strategy
        self._estimates = CostEstimates(world.estimates)
        self._at = _Place(0, question.prompt_tokens, {"base": 0, "draft": 0})
        self._changed = asyncio.Event()
        self._reach = Reach(
            self._strategy.lookahead, self._estimates, world.hardware.slots, lambda: world.runs, lambda: self._at.index
        )
        self.accepted = self.scored = 0

    async def solve(self) -> None:
        """Go through all stages of all steps, and answer."""
        if not (self._strategy.drafts or self._strategy.stepwise):
            tokens = sum(step.base_tokens for step in self._question.steps)
            await self._waiting("regenerate", self._call("regenerate", "base", self._at, self._at.prompt, 0, tokens))
            self._at.prompt += tokens
        else:
            hardware = self._world.hardware
            more = hardware.start_seconds / hardware.stage_seconds if hardware.stage_seconds else 0.0
            await self._stage(PREPARING + more)
            for step in self._question.steps:
                await self._step(step)
        self._world.estimates.took("answer", 0.0)
        tokens = self._question.answer_tokens
        if tokens:
            await self._waiting("answer", self._call("answer", "base", self._at, self._at.prompt, 0, tokens))
        self._at.stop()

    async def _step(self, step: StepProfile) -> None:
        """Commit one step, as the stages of the graph do."""
        here, drafted = self._at, self._asks(step)
        accepted = False
        self._start(here)
        if drafted:
            await self._waiting("draft", self._task(here, "draft"))
            await self._stage()
            if step.outcome in SCORED:
                await self._waiting("score", self._task(here, "score"))
                await self._stage()
                accepted = step.outcome == "accepted"
                self.scored, self.accepted = self.scored + 1, self.accepted + int(accepted)
        if not accepted:
            here.decided = True
            await self._waiting("regenerate", self._task(here, "regenerate"))
        await self._stage()
        self._commit(here, "draft" if accepted else "base")

    def _commit(self, here: _Place, author: Role) -> None:
        kept = self._behind(here, author)
        for role, child in here.children.items():
            if role != author:
                child.stop()
        for task in here.calls.values():
            task.cancel()
        kept.parent, kept.verified = None, True
        self._at = kept
        self._announce()

    async def _stage(self, stages: float = 1.0) -> None:
        """Have this package's process do a stage."""
        seconds = stages * self._world.hardware.stage_seconds
        await self._waiting("overhead", self._world.host.work(host_call(seconds)))

    async def _waiting(self, purpose: str, what: Awaitable[None]) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await (asyncio.shield(what) if isinstance(what, asyncio.Task) else what)
        self._world.waited[purpose] += loop.time() - begun

    def _asks(self, step: StepProfile) -> bool:
        return self._strategy.drafts and step.outcome != "unasked"

    def _step_at(self, place: _Place) -> StepProfile | None:
        steps = self._question.steps
        return steps[place.index] if place.index < len(steps) else None

    # What the engines are asked.

    def _task(self, place: _Place, purpose: str) -> asyncio.Task[None]:
        """Start a call at a place, unless it has been."""
        if purpose not in place.calls or place.calls[purpose].cancelled():
            work = {"draft": self._draft, "score": self._score, "regenerate": self._regenerate}[purpose]
            place.calls[purpose] = asyncio.create_task(self._timed(purpose, work, place))
        return place.calls[purpose]

    async def _timed(self, purpose: Any, work: Callable[[_Place, StepProfile], Awaitable[int]], place: _Place) -> None:
        loop, step = asyncio.get_running_loop(), self._step_at(place)
        assert step is not None  # noqa: S101 - nothing is started behind the last step
        begun = loop.time()
        tokens = await work(place, step)
        self._estimates.took(purpose, loop.time() - begun, tokens)

    async def _draft(self, place: _Place, step: StepProfile) -> int:
        behind = self._behind(place, "draft")
        await self._call("draft", "draft", place, place.prompt, 0, step.draft_tokens)
        behind.cached["draft"] = behind.prompt - 1
        return step.draft_tokens

    async def _regenerate(self, place: _Place, step: StepProfile) -> int:
        behind = self._behind(place, "base")
        await self._call("regenerate", "base", place, place.prompt, 0, step.base_tokens)
        behind.cached["base"] = behind.prompt - 1
        return step.base_tokens

    async def _score(self, place: _Place, step: StepProfile) -> int:
        """Ask the judge; the base has read the step then, unless only the draft's confidence is asked."""
        judge, behind = self._strategy.judge, self._behind(place, "draft")
        if judge == "confidence" or (judge == "cascade" and not step.escalated):
            return 0
        suffix = self._strategy.judge_tokens if judge == "digit" else 0
        call = self._call("score", "base", place, behind.prompt, suffix, 1)
        behind.cached["base"] = behind.prompt
        await call
        return 1

    async def _call(self, purpose: str, role: Role, place: _Place, prompt: int, suffix: int, tokens: int) -> None:
        """Have an engine read what it has not cached of a prompt and a suffix, and write so many tokens."""
        block = self._world.hardware.block
        cached = min(place.cached[role], prompt - 1) // block * block
        place.cached[role] = max(place.cached[role], min(prompt, place.prompt))
        passes = 1 if purpose == "score" else self._world.costs[role].rounds(tokens)
        call = Call(
            prefill=max(1, prompt + suffix - cached), passes=passes, context=float(cached),
            more=self._world.likelihood if purpose == "score" and not suffix else 0.0, is_short=purpose == "score",
        )  # fmt: skip
        due = asyncio.get_running_loop().time() + PATIENCE
        await self._world.engines[role].work(call, tokens, lambda: due + LATER * (place.index - self._at.index))

    def _behind(self, place: _Place, author: Role) -> _Place:
        """The place behind one more step."""
        if author not in place.children:
            step = self._step_at(place)
            assert step is not None  # noqa: S101 - as above
            length = step.draft_tokens if author == "draft" else step.base_tokens
            place.children[author] = _Place(
                place.index + 1, place.prompt + length, dict(place.cached), place,
                follows_rejection=author == "base" if self._asks(step) else place.follows_rejection,
            )  # fmt: skip
        return place.children[author]

    # Work ahead, as in `specreason_graph.lookahead.prefetch`.

    def _start(self, place: _Place) -> None:
        if self._reach.farthest and place.prefetch is None and self._step_at(place):
            place.prefetch = asyncio.create_task(self._go_ahead(place))

    async def _go_ahead(self, place: _Place) -> None:
        while not self._reach.may_start(place):
            await self._changed.wait()
        step = self._step_at(place)
        assert step is not None  # noqa: S101 - checked where it was started
        if self._asks(step) and not place.decided and await self._accepts_draft(place, step):
            return
        place.decided = True
        await self._task(place, "regenerate")
        self._start(self._behind(place, "base"))

    async def _accepts_draft(self, place: _Place, step: StepProfile) -> bool:
        drafting = self._task(place, "draft")
        self._hedge(place)
        await drafting
        if step.outcome not in SCORED:
            return False
        scoring, behind = self._task(place, "score"), self._behind(place, "draft")
        behind.verified = False
        self._start(behind)
        await scoring
        accepted = step.outcome == "accepted"
        self._estimates.scored(accepted=accepted, after_rejection=place.follows_rejection)
        place.decided, behind.verified = True, accepted
        if accepted:
            if regenerating := place.calls.pop("regenerate", None):
                regenerating.cancel()
        else:
            behind.stop()
        self._announce()
        return accepted

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _hedge(self, place: _Place) -> None:
        if self._reach.may_hedge(place):
            self._task(place, "regenerate")
