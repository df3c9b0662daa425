"""Engine work of a run that is started before a stage asks for it.

While the base model judges a step the draft already writes the next ones, each is judged as soon as it is written, and
what hangs on a step that is rejected is given up at once. A stage asks the window and gets what is there, or waits for
what is under way, or has it done now. So the trace does not depend on it, and a window that is lost costs time only.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from specreason_graph.audit.ledger import head_of
from specreason_graph.calls import Started, looked_at, usage_of
from specreason_graph.engines.turns import Urgency
from specreason_graph.policies.deadlines import answer_reserve, proposals_in_force
from specreason_graph.policies.level import Level
from specreason_graph.policies.pace import Pace
from specreason_graph.positions import Position, Written
from specreason_graph.records import Cost, Proposal, Score, Step
from specreason_graph.scout import Scout
from specreason_graph.state import Plain, State
from specreason_graph.writer import AUTHORS, Writer

T = TypeVar("T")
PATIENCE = 60.0
"""Seconds in which a step is due in a run that has no deadline."""
LATER = 10.0
"""Seconds by which work is less urgent for each step that it is ahead."""


class Overdue(Exception):  # noqa: N818 - no error: the thinking ends
    """There is no more time for what was asked; ``used``: seconds that the run has taken."""

    def __init__(self, used: float) -> None:
        super().__init__(used)
        self.used = used


class Window:
    """The work on one run, at its commit point and ahead of it; used on the engines' loop only."""

    def __init__(self, writer: Writer, state: State, pace: Pace, own: Level, runs: Callable[[], int]) -> None:
        self.writer, self.pace, self.own, self.runs = writer, pace, own, runs
        self.caller: set[Any] | None = None  # the calls of the stream that asked last
        self.alone = bool(state["progress"].get("goodput") or state["progress"]["draft_failed"])
        self.lateness = float(state["progress"].get("lateness", 0.0))
        self._seconds = float(state["progress"]["seconds"])
        self._scout = Scout(self)
        self.at = Position.start(writer.prompts, state["manifest"]["head_ids"])
        self.texts: Counter[str] = Counter()
        pending = state.get("pending") or {}
        self._lost = defaultdict(list, {len(state["trace"]): [Cost.load(cost) for cost in pending.get("lost", ())]})
        self.news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for step in map(Step.load, state["trace"]):
            self._move(writer.after(self.at, step))
        self.head = head_of(state["manifest"], state["trace"])
        self._committed = time.perf_counter() - float(pending.get("seconds", 0.0))

    def fits(self, state: State) -> bool:
        """Whether this is the window of a run that has come as far as ``state``.

        Runs of schema version 1 have no hashes: their last text is looked at.
        """
        trace = state["trace"]
        here = self.at.index == len(trace) and self.head == head_of(state["manifest"], trace)
        same = self.head is not None or self.at.text == (trace[-1]["text"].strip() if trace else "")
        return here and same and self._loop is asyncio.get_running_loop()

    async def propose(self) -> list[Proposal]:
        """The draft's next step, in as many versions as the settings want."""
        self._scout.go(self.at)
        proposals: list[Proposal] = await self._ask(self.propose_at(self.at))
        return proposals

    async def judge(self, proposal: Proposal) -> Score:
        """What the base thinks of it."""
        score: Score = await self._ask(self.judge_at(self.at, proposal))
        return score

    async def rewrite(self) -> Proposal:
        """The next step as the base writes it."""
        self.at.decided = True
        self._scout.go(self.at)
        written: Proposal = await self._ask(self.rewrite_at(self.at))
        return written

    @property
    def used(self) -> float:
        """Wall-clock seconds that the run has taken."""
        return self._seconds + time.perf_counter() - self._committed

    @property
    def left(self) -> float | None:
        """Seconds until the answer is due; None where there is no deadline."""
        deadline = self.writer.config.deadline_seconds
        return None if deadline is None else deadline - self.used

    def urgency(self, at: Position) -> Urgency:
        """When work at a place that is called for now should begin, on the monotonic clock: later while it is ahead."""
        patience = self.writer.config.step_seconds or PATIENCE
        if self.left is not None:
            patience = min(patience, self.left - answer_reserve(self.pace))
        due = time.monotonic() + patience
        return lambda: due + LATER * (at.index - self.at.index)

    def repeats(self, text: str) -> int:
        """How often a text is in the trace."""
        return self.texts[text.strip()]

    def settle(self, step: Written) -> tuple[list[Cost], float]:
        """End the work on a step that is decided: the cost of what was done in vain for it, and the seconds it took."""
        keep = self.writer.after(self.at, step)
        for other in [place for place in self.at.behind.values() if place is not keep]:
            self.give_up(other, self.at.index)
        for started in self.at.calls.values():
            self._lose(started, self.at.index)
        self.at.calls.clear()
        before, self._committed = self._committed, time.perf_counter()
        elapsed = self._committed - before
        self._seconds += elapsed
        self.pace.stepped(elapsed)
        return self._lost.pop(self.at.index, []), elapsed

    def end(self) -> list[Cost]:
        """Give up what is under way; the cost of that, and of all that is in no step."""
        for started in self.at.calls.values():
            started.asked = False  # what was asked for a step that does not come to be is lost, too
        self.give_up(self.at, self.at.index)
        return [cost for costs in self._lost.values() for cost in costs]

    def pause(self) -> Plain:
        """Give up what is ahead, as a human is asked: the seconds of the step so far, and the cost of that."""
        self.give_up(self.at, self.at.index)
        lost = [cost.dump() for cost in self._lost[self.at.index]]
        return {"seconds": time.perf_counter() - self._committed, "lost": lost}

    def commit(self, step: Step, *, alone: bool, lateness: float) -> None:
        """Move on behind a step; ``alone``: the base writes the next one, and the draft is not asked."""
        self.lateness = lateness
        self._move(self.writer.after(self.at, step))
        self.head = step.hash
        self.alone = alone
        self.tell()

    def close(self) -> list[asyncio.Task[Any]]:
        """Give up all work; the tasks, which may take a moment to end."""
        places = list(self.at.everywhere())
        tasks = [started.task for place in places for started in place.calls.values()]
        tasks += [place.scout for place in places if place.scout]
        for task in tasks:
            task.cancel()
        return [task for task in tasks if not task.done()]

    def _move(self, place: Position) -> None:
        place.settle()
        self.at = place
        self.texts[place.text] += 1

    async def _ask(self, started: Started) -> Any:
        """The outcome of a call, which from now on is evidence."""
        left = None if self.left is None else self.left - answer_reserve(self.pace)
        try:
            async with asyncio.timeout(left) as limit:
                outcome = await asyncio.shield(started.task)
        except TimeoutError:
            if not limit.expired():
                raise
            raise Overdue(self.used) from None
        started.asked = True
        return outcome

    def propose_at(self, at: Position) -> Started:
        """Start what the draft writes at a place, unless it has been."""
        count = proposals_in_force(self.writer.config, self.lateness)
        return self._start(at, ("draft",), len(at.prompts["draft"]), lambda: self.writer.propose(at, count))

    def judge_at(self, at: Position, proposal: Proposal) -> Started:
        """Start what the base thinks of it."""
        length = len(at.prompts["base"])
        return self._start(at, ("score", *proposal.token_ids), length, lambda: self.writer.judge(at, proposal))

    def rewrite_at(self, at: Position) -> Started:
        """Start what the base writes there."""
        return self._start(at, ("regenerate",), len(at.prompts["base"]), lambda: self.writer.rewrite(at))

    def _start(self, at: Position, key: Any, length: int, work: Callable[[], Coroutine[Any, Any, T]]) -> Started:
        """Start a call at a position, unless it has been; one that failed ahead of time is made again."""
        before: Started | None = at.calls.get(key)
        if before and before.is_usable:
            return before
        started = at.calls[key] = Started(key[0], length)
        started.task = asyncio.create_task(self._timed(started, work, at))
        started.task.add_done_callback(looked_at)
        return started

    async def _timed(self, started: Started, work: Callable[[], Coroutine[Any, Any, T]], at: Position) -> T:
        asked = time.perf_counter()
        async with self.writer.pair.turn(AUTHORS[started.purpose], self.urgency(at)):
            started.begun = time.time()
            outcome = await work()
        self.pace.took(started.purpose, time.perf_counter() - asked, usage_of(outcome).generated_tokens)
        return outcome

    def tell(self) -> None:
        """Wake all that wait for news."""
        self.news.set()
        self.news = asyncio.Event()

    def give_up(self, place: Position, blame: int) -> None:
        """Stop all work behind a step that will not be committed; it is charged to the step with number ``blame``."""
        for each in place.everywhere():
            if each.scout:
                each.scout.cancel()
            for started in each.calls.values():
                self._lose(started, blame)
            each.calls.clear()
        place.behind.clear()

    def drop_rewrite(self, at: Position) -> None:
        """Stop what the base writes at a place where the draft's version was accepted."""
        started = at.calls.pop(("regenerate",), None)
        if started:
            self._lose(started, at.index)

    def _lose(self, started: Started, blame: int) -> None:
        cost = started.give_up()
        self._lost[blame] += [cost] if cost else []
