"""KV caches of the embedded engine: each sequence has a slot, and a prompt continues the slot it shares most with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

FEWEST, MOST = 8, 64
"""Slots that are kept however long they are, and the most there are."""
TOKENS = 16_384
"""Tokens in all slots together from which on there are no more than the fewest."""
KEEP_AT_LEAST = 0.5
"""A slot is cut back for a prompt when they share this much of the shorter one; else the prompt gets another slot."""


@dataclass(eq=False)
class Slot:
    """The KV cache of one sequence."""

    cache: Any
    """A transformers ``DynamicCache`` that holds exactly ``ids``."""
    ids: list[int] = field(default_factory=list)
    """Tokens whose keys and values are in the cache."""
    used: int = 0
    """When the slot was last used, counted in calls."""
    busy: bool = False
    """Whether a call works with it; others may branch off it, and leave it as it is."""

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
    """Caches of several sequences; a prompt continues the one it shares most with.

    ``make`` gives an empty cache; ``branch`` one that begins with what is in another, or None where there is no such.
    """

    def __init__(
        self, make: Callable[[], Any], branch: Callable[[Any], Any | None], *, fewest: int = FEWEST, most: int = MOST,
        tokens: int = TOKENS,
    ) -> None:  # fmt: skip
        self._make, self._branch = make, branch
        self._fewest, self._most, self._tokens = fewest, most, tokens
        self._slots: list[Slot] = []
        self._clock = 0

    @contextmanager
    def take(self, prompt: Sequence[int]) -> Iterator[Slot]:
        """The slot for this prompt, cut back to what they share, for one call."""
        self._clock += 1
        slot = max(self._slots, key=lambda slot: (slot.shared(prompt), not slot.busy), default=None)
        if slot is None or slot.shared(prompt) < KEEP_AT_LEAST * min(len(slot.ids), len(prompt)):
            slot = self._fresh()
        slot = self._cut(self._branched(slot) if slot.busy else slot, slot.shared(prompt))
        slot.used, slot.busy = self._clock, True
        try:
            yield slot
        finally:
            slot.busy = False

    def forget(self) -> None:
        """Forget all slots that no call works with."""
        self._slots = [slot for slot in self._slots if slot.busy]

    def drop(self, slot: Slot) -> None:
        """Forget a slot whose cache may be torn."""
        self._slots.remove(slot)

    def _branched(self, slot: Slot) -> Slot:
        """A slot that begins with what is in another."""
        cache = self._branch(slot.cache)
        return self._fresh() if cache is None else self._add(Slot(cache, list(slot.ids)))

    def _cut(self, slot: Slot, length: int) -> Slot:
        """Cut a slot, or replace it where its cache cannot go back (a full sliding window)."""
        try:
            slot.cut(length)
        except (RuntimeError, ValueError):  # by the version of transformers
            self.drop(slot)
            return self._fresh()
        return slot

    def _fresh(self) -> Slot:
        return self._add(Slot(self._make()))

    def _add(self, slot: Slot) -> Slot:
        while not self._has_room() and (free := [other for other in self._slots if not other.busy]):
            self._slots.remove(min(free, key=lambda other: other.used))
        self._slots.append(slot)
        return slot

    def _has_room(self) -> bool:
        """Whether there may be another slot."""
        held = sum(len(slot.ids) for slot in self._slots)
        return len(self._slots) < (self._most if held < self._tokens else self._fewest)
