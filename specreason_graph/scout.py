"""Goes ahead of the commit point and has done there what the stages will ask for.

How far is a matter of how likely it is to be of use: behind each step that nobody has judged yet the next one may be
for nothing. What a scout starts hangs on the place it was started at, so nothing it guesses wrong is ever asked for.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from specreason_graph.calls import looked_at
from specreason_graph.policies import asks_human, best_of, decide
from specreason_graph.policies.deadlines import threshold_in_force
from specreason_graph.policies.stopping import Progress, stop_reason
from specreason_graph.positions import Position
from specreason_graph.records import Proposal

if TYPE_CHECKING:
    from specreason_graph.window import Window

FARTHEST = 8
"""Steps an adaptive window goes ahead of the commit point at most."""


class Scout:
    """Works ahead for one window."""

    def __init__(self, window: Window) -> None:
        self._window, self._writer = window, window.writer
        asked, pair = self._writer.config.window, self._writer.pair
        self._most = FARTHEST if asked is None else asked
        if pair.base.in_order or pair.draft.in_order:
            self._most = 0

    def go(self, at: Position) -> None:
        """Do what the stages will do from a place on, unless somebody does."""
        if self._most and at.scout is None:
            at.scout = asyncio.create_task(self._go_ahead(at))
            at.scout.add_done_callback(looked_at)

    async def _go_ahead(self, at: Position) -> None:
        while not self._may_start(at):
            await self._window.news.wait()
        if self._is_open(at) and await self._drafted(at):
            return
        at.decided = True
        written = await self._window.rewrite_at(at).task
        self._go_on(self._writer.after(at, written), written)

    async def _drafted(self, at: Position) -> bool:
        """Have a step drafted and judged, and work go on behind it; False when the base is to write it instead."""
        proposing = self._window.propose_at(at)
        self._race(at)
        proposals = [each for each in await proposing.task if self._writer.can_judge(at, each)]
        if not proposals:
            return False
        config, judging = self._writer.config, [self._window.judge_at(at, each).task for each in proposals]
        if len(proposals) == 1:
            self._hope(at, proposals[0])
        scores = await asyncio.gather(*judging)
        if not self._is_open(at):  # decided by who waits for the base's version meanwhile
            return False
        best, threshold = best_of(scores, config.reading), threshold_in_force(config, self._window.lateness)
        behind = self._hope(at, proposals[best])
        decision = decide(scores[best], threshold=threshold, reading=config.reading)
        self._window.pace.judged(accepted=decision.accepted)
        at.decided = True
        if asks_human(decision, config.review):
            return True
        behind.standing = decision.accepted
        if decision.accepted:
            self._window.drop_rewrite(at)
            for place in behind.everywhere():
                self._race(place)
        else:
            self._window.give_up(behind, at.index)
        self._window.tell()
        return decision.accepted

    def _is_open(self, at: Position) -> bool:
        """Whether the draft is asked at a place, and nobody knows yet who writes there."""
        return not (at.decided or self._window.alone or at.index < self._writer.config.first_steps_by_base)

    def _hope(self, at: Position, proposal: Proposal) -> Position:
        """Work ahead behind a step that nobody has judged yet."""
        behind = self._writer.after(at, proposal)
        if behind.scout is None:
            behind.standing = False
            self._go_on(behind, proposal)
        return behind

    def _go_on(self, place: Position, last: Proposal) -> None:
        """Work ahead behind a step, unless the thinking ends with it."""
        repeats = 1 + self._window.texts[place.text]
        progress = Progress(steps=place.index, thinking_tokens=place.tokens, repeats=repeats, room=place.room)
        if not stop_reason(last, progress, self._writer.config):
            self.go(place)

    def _race(self, at: Position) -> None:
        """Have the base start on its own version of the next step before it has judged the draft's, where that pays."""
        if at.doubtful or at.scout is None or self._is_far(at) or not self._is_open(at):
            return
        if self._has_room() and self._window.pace.races(self._window.runs()):
            self._window.rewrite_at(at)

    def _has_room(self) -> bool:
        """Whether the base has places left when each run has one: else what is ahead takes them from other runs."""
        room = self._writer.pair.base.at_once
        return room is None or self._window.runs() < room

    def _may_start(self, at: Position) -> bool:
        """Whether the work at a position is near enough to the commit point, and likely enough to be of use."""
        return not self._is_far(at) and at.doubtful <= self._depth()

    def _is_far(self, at: Position) -> bool:
        """Whether a place is farther from the commit point than the window goes."""
        return at.index - self._window.at.index > self._most

    def _depth(self) -> int:
        """Steps that nobody has judged yet and that may have another one drafted behind them."""
        if self._writer.config.window is not None:
            return self._most
        return self._window.pace.depth(self._most, self._window.runs()) if self._has_room() else 0
