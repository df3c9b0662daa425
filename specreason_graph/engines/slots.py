"""KV caches of the embedded engine: each sequence has a slot, and a prompt continues the slot it shares most with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

FEWEST, MOST = 8, 64
"""Slots that are kept however long they are, and the most there are."""
TOKENS = 16_384
"""Tokens in all slots together from which on there are no more than the fewest."""
KEEP_AT_LEAST = 0.5
"""A slot is cut back for a prompt when they share this much of the shorter one; else the prompt gets another slot."""


@dataclass
class Slot:
    """The KV cache of one sequence."""

    cache: Any
    """A transformers ``DynamicCache`` that holds exactly ``ids``."""
    ids: list[int] = field(default_factory=list)
    """Tokens whose keys and values are in the cache."""
    used: int = 0
    """When the slot was last used, counted in calls."""

    def shared(self, prompt: Sequence[int]) -> int:
        """How many tokens of the prompt are in the cache; the last one is always computed again for its logits."""
        low, high = 0, min(len(self.ids), len(prompt) - 1)
        while low < high:  # halves are compared at once: a loop over the tokens would cost more than the model
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.ids[low:middle] == prompt[low:middle] else (low, middle - 1)
        return low

    def cut(self, length: int) -> None:
        """Forget everything behind the first ``length`` tokens."""
        if length < len(self.ids):
            self.cache.crop(length - len(self.ids))
            del self.ids[length:]


class Slots:
    """Caches of several sequences; a prompt continues the one it shares most with."""

    def __init__(self, make: Callable[[], Any], fewest: int = FEWEST, most: int = MOST, tokens: int = TOKENS) -> None:
        self._make, self._fewest, self._most, self._tokens = make, fewest, most, tokens
        self._slots: list[Slot] = []
        self._clock = 0

    def take(self, prompt: Sequence[int]) -> Slot:
        """The slot for this prompt, cut back to what they share."""
        self._clock += 1
        slot = max(self._slots, key=lambda slot: slot.shared(prompt), default=None)
        if slot is None or slot.shared(prompt) < KEEP_AT_LEAST * min(len(slot.ids), len(prompt)):
            slot = self._fresh()
        slot = self._cut(slot, slot.shared(prompt))
        slot.used = self._clock
        return slot

    def drop(self, slot: Slot) -> None:
        """Forget a slot whose cache may be torn."""
        self._slots.remove(slot)

    def _cut(self, slot: Slot, length: int) -> Slot:
        """Cut a slot, or replace it where its cache cannot go back (a full sliding window)."""
        try:
            slot.cut(length)
        except RuntimeError:
            self.drop(slot)
            return self._fresh()
        return slot

    def _fresh(self) -> Slot:
        while not self._has_room():
            self._slots.remove(min(self._slots, key=lambda slot: slot.used))
        self._slots.append(Slot(self._make()))
        return self._slots[-1]

    def _has_room(self) -> bool:
        """Whether there may be another slot."""
        held = sum(len(slot.ids) for slot in self._slots)
        return len(self._slots) < (self._most if held < self._tokens else self._fewest)
