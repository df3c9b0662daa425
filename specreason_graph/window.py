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
from specreason_graph.policies import asks_human, best_of, decide
from specreason_graph.policies.goodput import Rates
from specreason_graph.policies.pace import Pace
from specreason_graph.policies.stopping import Progress, stop_reason
from specreason_graph.positions import Position, Written
from specreason_graph.records import Cost, Proposal, Score, Step
from specreason_graph.state import State
from specreason_graph.writer import Writer

T = TypeVar("T")
FARTHEST = 8
"""Steps an adaptive window goes ahead of the commit point at most."""
OWN_MEMORY = 0.9
"""How much of a run's own seconds a token a further step leaves, see `Rate`."""


class Window:
    """The work on one run, at its commit point and ahead of it; used on the engines' loop only."""

    def __init__(self, writer: Writer, state: State, pace: Pace, runs: Callable[[], int]) -> None:
        self.writer, self.pace, self._runs = writer, pace, runs
        self.rates = Rates(OWN_MEMORY)
        self.alone = bool(state["progress"].get("goodput"))
        self._most = FARTHEST if writer.config.window is None else writer.config.window
        if writer.pair.base.in_order or writer.pair.draft.in_order or state["progress"]["draft_failed"]:
            self._most = 0
        self.at = Position.start(writer.prompts, state["manifest"]["head_ids"])
        self._texts: Counter[str] = Counter()
        self._lost: defaultdict[int, list[Cost]] = defaultdict(list)
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for step in map(Step.load, state["trace"]):
            self.rates.add(step)
            self._move(writer.after(self.at, step))
        self.head = head_of(state["manifest"], state["trace"])
        self._committed = time.perf_counter()

    def fits(self, state: State) -> bool:
        """Whether this is the window of a run that has come as far as ``state``."""
        here = self.at.index == len(state["trace"]) and self.head == head_of(state["manifest"], state["trace"])
        return here and self.head is not None and self._loop is asyncio.get_running_loop()

    async def propose(self) -> list[Proposal]:
        """The draft's next step, in as many versions as the settings want."""
        if self._most:
            self._scout(self.at)
        proposals: list[Proposal] = await self._ask(self._propose(self.at))
        return proposals

    async def judge(self, proposal: Proposal) -> Score:
        """What the base thinks of it."""
        score: Score = await self._ask(self._judge(self.at, proposal))
        return score

    async def rewrite(self) -> Proposal:
        """The next step as the base writes it."""
        if self._most:
            self._scout(self.at)
        written: Proposal = await self._ask(self._rewrite(self.at))
        return written

    def repeats(self, text: str) -> int:
        """How often a text is in the trace."""
        return self._texts[text.strip()]

    def settle(self, step: Written) -> tuple[list[Cost], float]:
        """End the work on a step that is decided: the cost of what was done in vain for it, and the seconds it took."""
        keep = self.writer.after(self.at, step)
        for other in [place for place in self.at.behind.values() if place is not keep]:
            self._give_up(other, self.at.index)
        for started in self.at.calls.values():
            self._lose(started, self.at.index)
        self.at.calls.clear()
        before, self._committed = self._committed, time.perf_counter()
        return self._lost.pop(self.at.index, []), self._committed - before

    def commit(self, step: Step, *, alone: bool) -> None:
        """Move on behind a step; ``alone``: the base writes the next one, and the draft is not asked."""
        self._move(self.writer.after(self.at, step))
        self.head = step.hash
        if self.alone and not alone and not self.writer.pair.base.batches:  # the judge would have to wait for it
            self._give_up(self.at, self.at.index)
            self.at.scout = None
        self.alone = alone
        self._tell()

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
        self._texts[place.text] += 1

    async def _ask(self, started: Started) -> Any:
        """The outcome of a call, which from now on is evidence."""
        started.asked = True
        return await asyncio.shield(started.task)

    def _propose(self, at: Position) -> Started:
        return self._start(at, ("draft",), len(at.prompts["draft"]), lambda: self.writer.propose(at))

    def _judge(self, at: Position, proposal: Proposal) -> Started:
        length = len(at.prompts["base"])
        return self._start(at, ("score", *proposal.token_ids), length, lambda: self.writer.judge(at, proposal))

    def _rewrite(self, at: Position) -> Started:
        return self._start(at, ("regenerate",), len(at.prompts["base"]), lambda: self.writer.rewrite(at))

    def _start(self, at: Position, key: Any, length: int, work: Callable[[], Coroutine[Any, Any, T]]) -> Started:
        """Start a call at a position, unless it has been; one that failed ahead of time is made again."""
        before: Started | None = at.calls.get(key)
        if before and before.is_usable:
            return before
        started = at.calls[key] = Started(key[0], length)
        started.task = asyncio.create_task(self._timed(started, work))
        started.task.add_done_callback(looked_at)
        return started

    async def _timed(self, started: Started, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        begun, started.begun = time.perf_counter(), time.time()
        outcome = await work()
        self.pace.took(started.purpose, time.perf_counter() - begun, usage_of(outcome).generated_tokens)
        return outcome

    def _scout(self, at: Position) -> None:
        """Do ahead what the stages will do from here on."""
        if at.scout is None:
            at.scout = asyncio.create_task(self._go_ahead(at))
            at.scout.add_done_callback(looked_at)

    async def _go_ahead(self, at: Position) -> None:
        while not self._may_start(at):
            await self._news.wait()
        if not self.alone and at.index >= self.writer.config.first_steps_by_base and await self._drafted(at):
            return
        written = await self._rewrite(at).task
        self._go_on(self.writer.after(at, written), written)

    async def _drafted(self, at: Position) -> bool:
        """Have a step drafted and judged, and work go on behind it; False when the base is to write it instead."""
        proposing = self._propose(at)
        if self._races(at):
            self._rewrite(at)
        proposals = [each for each in await proposing.task if self.writer.can_judge(at, each)]
        if not proposals:
            return False
        config, judging = self.writer.config, [self._judge(at, each).task for each in proposals]
        if len(proposals) == 1:
            self._hope(at, proposals[0])
        scores = await asyncio.gather(*judging)
        best = best_of(scores, config.reading)
        behind, decision = (
            self._hope(at, proposals[best]),
            decide(scores[best], threshold=config.threshold, reading=config.reading),
        )
        self.pace.judged(accepted=decision.accepted)
        if asks_human(decision, config.review):
            return True
        behind.standing = decision.accepted
        if not decision.accepted:
            self._give_up(behind, at.index)
        self._tell()
        return decision.accepted

    def _hope(self, at: Position, proposal: Proposal) -> Position:
        """Work ahead behind a step that nobody has judged yet."""
        behind = self.writer.after(at, proposal)
        if behind.scout is None:
            behind.standing = False
            self._go_on(behind, proposal)
        return behind

    def _go_on(self, place: Position, last: Proposal) -> None:
        """Work ahead behind a step, unless the thinking ends with it."""
        repeats = 1 + self._texts[place.text]
        progress = Progress(steps=place.index, thinking_tokens=place.tokens, repeats=repeats, room=place.room)
        if not stop_reason(last, progress, self.writer.config):
            self._scout(place)

    def _races(self, at: Position) -> bool:
        """Whether the base starts on its own version before it has judged the draft's."""
        return at is self.at and self.writer.pair.base.batches and self.pace.races(self._runs())

    def _may_start(self, at: Position) -> bool:
        """Whether the work at a position is near enough to the commit point, and likely enough to be of use."""
        doubtful, place = 0, at
        while place.before:
            doubtful += not place.standing
            place = place.before
        limit = self._most if self.writer.config.window is not None else self.pace.depth(self._most)
        return at.index - self.at.index <= self._most and doubtful <= limit

    def _tell(self) -> None:
        """Wake all that wait for news."""
        self._news.set()
        self._news = asyncio.Event()

    def _give_up(self, place: Position, blame: int) -> None:
        """Stop all work behind a step that will not be committed; it is charged to the step with number ``blame``."""
        for each in place.everywhere():
            if each.scout:
                each.scout.cancel()
            for started in each.calls.values():
                self._lose(started, blame)
            each.calls.clear()
        place.behind.clear()

    def _lose(self, started: Started, blame: int) -> None:
        cost = started.give_up()
        self._lost[blame] += [cost] if cost else []
