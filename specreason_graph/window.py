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
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from specreason_graph.audit.ledger import head_of
from specreason_graph.engines.pair import CALLS, EnginePair
from specreason_graph.policies import asks_human, decide
from specreason_graph.policies.pace import Pace
from specreason_graph.policies.stopping import Progress, stop_reason
from specreason_graph.positions import Position, Written
from specreason_graph.records import Cost, Proposal, Purpose, Score, Step, Usage
from specreason_graph.state import State
from specreason_graph.writer import AUTHORS, Writer

T = TypeVar("T")
FARTHEST = 8
"""Steps an adaptive window goes ahead of the commit point at most."""


@dataclass
class Started:
    """An engine call that was started."""

    purpose: Purpose
    """What for."""
    task: asyncio.Task[Any]
    """The call."""
    prompt_tokens: int
    """Length of its prompt."""
    asked: bool = False
    """Whether a stage asked for it, so that it is in the evidence."""
    begun: float = field(default_factory=time.time)
    """When it began, seconds since 1970."""

    @property
    def is_usable(self) -> bool:
        """Whether it is under way, or came to something."""
        return not self.task.done() or not (self.task.cancelled() or self.task.exception())

    def give_up(self) -> Cost | None:
        """Stop it; what it cost, unless that is in the evidence."""
        cut = self.task.cancel()
        if self.asked or not (cut or self.is_usable):
            return None
        usage = Usage(calls=1, prompt_tokens=self.prompt_tokens, seconds=time.time() - self.begun, started=self.begun)
        return Cost(
            engine=AUTHORS[self.purpose], purpose=self.purpose, usage=usage if cut else self.task.result().usage,
            lost=True,
        )  # fmt: skip


class Window:
    """The work on one run, at its commit point and ahead of it; used on the engines' loop only."""

    def __init__(self, writer: Writer, state: State, pace: Pace) -> None:
        self.writer, self.pace = writer, pace
        self._most = FARTHEST if writer.config.window is None else writer.config.window
        if writer.pair.base.in_order or writer.pair.draft.in_order or state["progress"]["draft_failed"]:
            self._most = 0
        self.at = Position.start(writer.prompts, state["manifest"]["head_ids"])
        self._texts: Counter[str] = Counter()
        self._lost: defaultdict[int, list[Cost]] = defaultdict(list)
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for step in state["trace"]:
            self._move(writer.after(self.at, Step.load(step)))
        self.head = head_of(state["manifest"], state["trace"])
        self._committed = time.perf_counter()

    def fits(self, state: State) -> bool:
        """Whether this is the window of a run that has come as far as ``state``."""
        here = self.at.index == len(state["trace"]) and self.head == head_of(state["manifest"], state["trace"])
        return here and self.head is not None and self._loop is asyncio.get_running_loop()

    async def propose(self) -> Proposal:
        """The draft's next step."""
        if self._most:
            self._scout(self.at)
        proposal: Proposal = await self._ask(self._propose(self.at))
        return proposal

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

    def commit(self, step: Step) -> None:
        """Move on behind a step."""
        self._move(self.writer.after(self.at, step))
        self.head = step.hash
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
        return self._start(at, ("draft",), len(at.prompts["draft"]), lambda: self.writer.write("draft", at))

    def _judge(self, at: Position, proposal: Proposal) -> Started:
        length = len(at.prompts["base"])
        return self._start(at, ("score", *proposal.token_ids), length, lambda: self.writer.judge(at, proposal))

    def _rewrite(self, at: Position) -> Started:
        return self._start(at, ("regenerate",), len(at.prompts["base"]), lambda: self.writer.write("regenerate", at))

    def _start(self, at: Position, key: Any, length: int, work: Callable[[], Coroutine[Any, Any, T]]) -> Started:
        """Start a call at a position, unless it has been; one that failed ahead of time is made again."""
        before: Started | None = at.calls.get(key)
        if before and before.is_usable:
            return before
        task = asyncio.create_task(self._timed(key[0], work))
        task.add_done_callback(_looked_at)
        started = at.calls[key] = Started(purpose=key[0], task=task, prompt_tokens=length)
        return started

    async def _timed(self, purpose: Purpose, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        begun = time.perf_counter()
        outcome = await work()
        self.pace.took(purpose, time.perf_counter() - begun)
        return outcome

    def _scout(self, at: Position) -> None:
        """Do ahead what the stages will do from here on."""
        if at.scout is None:
            at.scout = asyncio.create_task(self._go_ahead(at))
            at.scout.add_done_callback(_looked_at)

    async def _go_ahead(self, at: Position) -> None:
        while not self._may_start(at):
            await self._news.wait()
        if at.index >= self.writer.config.first_steps_by_base and await self._drafted(at):
            return
        written = await self._rewrite(at).task
        self._go_on(self.writer.after(at, written), written)

    async def _drafted(self, at: Position) -> bool:
        """Have a step drafted and judged, and work go on behind it; False when the base is to write it instead."""
        proposal: Proposal = await self._propose(at).task
        if not self.writer.can_judge(at, proposal):
            return False
        behind, config = self.writer.after(at, proposal), self.writer.config
        behind.standing = False
        judging = self._judge(at, proposal)
        self._go_on(behind, proposal)
        decision = decide(await judging.task, threshold=config.threshold, reading=config.reading)
        self.pace.judged(accepted=decision.accepted)
        if asks_human(decision, config.review):
            return True
        behind.standing = decision.accepted
        if not decision.accepted:
            self._give_up(behind, at.index)
        self._tell()
        return decision.accepted

    def _go_on(self, place: Position, last: Proposal) -> None:
        """Work ahead behind a step, unless the thinking ends with it."""
        repeats = 1 + self._texts[place.text]
        progress = Progress(steps=place.index, thinking_tokens=place.tokens, repeats=repeats, room=place.room)
        if not stop_reason(last, progress, self.writer.config):
            self._scout(place)

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


@dataclass(frozen=True)
class Leave:
    """Ends the work on a run whose caller has left."""

    windows: Windows
    """Where its window is."""
    run: str
    """Which run."""
    loop: asyncio.AbstractEventLoop
    """The engines' loop."""

    def cancel(self) -> None:
        """End it, from any thread."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.windows.close, self.run)


class Windows:
    """The windows of the runs that are worked on over one pair, and the pair's pace."""

    def __init__(self) -> None:
        self._open: dict[str, Window] = {}
        self._pace = Pace(weight=0.02)

    def find(self, state: State, writer: Writer) -> Window:
        """The window of a run, a new one where there is none that fits."""
        run = state["progress"]["run"]
        window = self._open.get(run)
        if window is None or not window.fits(state):
            self.close(run)
            window = self._open[run] = Window(writer, state, Pace(self._pace))
            if (calls := CALLS.get()) is not None:
                calls.add(Leave(self, run, asyncio.get_running_loop()))
        return window

    def close(self, run: str) -> list[asyncio.Task[Any]]:
        """Give up what is under way for a run; the tasks that still end."""
        window = self._open.pop(run, None)
        return window.close() if window else []


_WINDOWS: WeakKeyDictionary[EnginePair, Windows] = WeakKeyDictionary()


def windows_of(pair: EnginePair) -> Windows:
    """The windows over a pair."""
    return _WINDOWS.setdefault(pair, Windows())


def _looked_at(task: asyncio.Task[Any]) -> None:
    """Nobody may have waited for a task that failed; whoever needs its outcome starts it again."""
    _ = task.cancelled() or task.exception()
