"""KV caches of the embedded engine: a prompt continues the cache that shares its longest prefix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

FEWEST, MOST = 8, 64
"""Number of caches: so many are kept however long they are, and so many at most."""
TOKENS = 16_384
"""Tokens in all caches together; above that only `FEWEST` caches are kept."""
KEEP_AT_LEAST = 0.5
"""Fraction of the shorter of cache and prompt; a shorter common prefix gives the prompt a new cache instead."""


@dataclass(eq=False)
class SequenceCache:
    """The KV cache of one sequence."""

    cache: Any
    """A transformers ``DynamicCache`` that holds exactly ``ids``."""
    ids: list[int] = field(default_factory=list)
    """Tokens whose keys and values are in the cache."""
    used: int = 0
    """When the cache was last used, counted in calls."""
    busy: bool = False
    """Whether a call works with the cache; another call may then copy it, but not change it."""

    def shared(self, prompt: Sequence[int]) -> int:
        """Return how many tokens of the prompt are in the cache, at most all but the last."""
        low, high = 0, min(len(self.ids), len(prompt) - 1)  # the last token is always computed, for its logits
        # Binary search over slices: a Python loop over the tokens would take longer than a small model does.
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.ids[low:middle] == prompt[low:middle] else (low, middle - 1)
        return low

    def cut(self, length: int) -> None:
        """Keep the first ``length`` tokens only."""
        if length < len(self.ids):
            self.cache.crop(length - len(self.ids))  # a negative length crops from the end
            del self.ids[length:]


class CachePool:
    """The KV caches of several sequences; a prompt continues the one that shares its longest prefix.

    ``make`` returns an empty cache. ``branch`` returns a copy of a cache, or None for a kind that cannot be copied.
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
    def take(self, prompt: Sequence[int], most: int | None = None) -> Iterator[SequenceCache]:
        """Lend the cache for this prompt, cut back to their common prefix, for one call.

        ``most``: tokens of the prefix that may come from the cache; None for all.
        """
        self._clock += 1
        entry = max(self._caches, key=lambda entry: (entry.shared(prompt), not entry.busy), default=None)
        if entry is None or entry.shared(prompt) < KEEP_AT_LEAST * min(len(entry.ids), len(prompt)):
            entry = self._fresh()
        kept = entry.shared(prompt) if most is None else min(most, entry.shared(prompt))
        entry = self._cut(self._branched(entry) if entry.busy else entry, kept)
        entry.used, entry.busy = self._clock, True
        try:
            yield entry
        finally:
            entry.busy = False

    def clear(self) -> None:
        """Drop all caches that no call works with."""
        self._caches = [entry for entry in self._caches if entry.busy]

    def drop(self, entry: SequenceCache) -> None:
        """Drop a cache that may be inconsistent after an error."""
        self._caches.remove(entry)

    def _branched(self, entry: SequenceCache) -> SequenceCache:
        """Return a copy of a cache, or an empty one where it cannot be copied."""
        cache = self._branch(entry.cache)
        return self._fresh() if cache is None else self._add(SequenceCache(cache, list(entry.ids)))

    def _cut(self, entry: SequenceCache, length: int) -> SequenceCache:
        """Cut a cache back, or replace it where that is impossible, as for a full sliding window."""
        try:
            entry.cut(length)
        except (RuntimeError, ValueError):  # which one depends on the version of transformers
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
        """Whether another cache may be added."""
        held = sum(len(entry.ids) for entry in self._caches)
        return len(self._caches) < (self._most if held < self._tokens else self._fewest)
