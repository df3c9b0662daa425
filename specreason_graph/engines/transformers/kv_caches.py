"""KV caches of the embedded engine: each sequence has a entry, and a prompt continues the entry it shares most with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

FEWEST, MOST = 8, 64
"""CachePool that are kept however long they are, and the most there are."""
TOKENS = 16_384
"""Tokens in all caches together from which on there are no more than the fewest."""
KEEP_AT_LEAST = 0.5
"""A entry is cut back for a prompt when they share this much of the shorter one; else the prompt gets another entry."""


@dataclass(eq=False)
class SequenceCache:
    """The KV cache of one sequence."""

    cache: Any
    """A transformers ``DynamicCache`` that holds exactly ``ids``."""
    ids: list[int] = field(default_factory=list)
    """Tokens whose keys and values are in the cache."""
    used: int = 0
    """When the entry was last used, counted in calls."""
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


class CachePool:
    """Caches of several sequences; a prompt continues the one it shares most with.

    ``make`` gives an empty cache; ``branch`` one that begins with what is in another, or None where there is no such.
    """

    def __init__(
        self, make: Callable[[], Any], branch: Callable[[Any], Any | None], *, fewest: int = FEWEST, most: int = MOST,
        tokens: int = TOKENS,
    ) -> None:  # fmt: skip
        self._make, self._branch = make, branch
        self._fewest, self._most, self._tokens = fewest, most, tokens
        self._caches: list[SequenceCache] = []
        self._clock = 0

    @contextmanager
    def take(self, prompt: Sequence[int]) -> Iterator[SequenceCache]:
        """The entry for this prompt, cut back to what they share, for one call."""
        self._clock += 1
        entry = max(self._caches, key=lambda entry: (entry.shared(prompt), not entry.busy), default=None)
        if entry is None or entry.shared(prompt) < KEEP_AT_LEAST * min(len(entry.ids), len(prompt)):
            entry = self._fresh()
        entry = self._cut(self._branched(entry) if entry.busy else entry, entry.shared(prompt))
        entry.used, entry.busy = self._clock, True
        try:
            yield entry
        finally:
            entry.busy = False

    def clear(self) -> None:
        """Forget all caches that no call works with."""
        self._caches = [entry for entry in self._caches if entry.busy]

    def drop(self, entry: SequenceCache) -> None:
        """Forget a entry whose cache may be torn."""
        self._caches.remove(entry)

    def _branched(self, entry: SequenceCache) -> SequenceCache:
        """A entry that begins with what is in another."""
        cache = self._branch(entry.cache)
        return self._fresh() if cache is None else self._add(SequenceCache(cache, list(entry.ids)))

    def _cut(self, entry: SequenceCache, length: int) -> SequenceCache:
        """Cut a entry, or replace it where its cache cannot go back (a full sliding window)."""
        try:
            entry.cut(length)
        except (RuntimeError, ValueError):  # by the version of transformers
            self.drop(entry)
            return self._fresh()
        return entry

    def _fresh(self) -> SequenceCache:
        return self._add(SequenceCache(self._make()))

    def _add(self, entry: SequenceCache) -> SequenceCache:
        while not self._has_room() and (free := [other for other in self._caches if not other.busy]):
            self._caches.remove(min(free, key=lambda other: other.used))
        self._caches.append(entry)
        return entry

    def _has_room(self) -> bool:
        """Whether there may be another entry."""
        held = sum(len(entry.ids) for entry in self._caches)
        return len(self._caches) < (self._most if held < self._tokens else self._fewest)
