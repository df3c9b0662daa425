"""What opening and closing a pair takes, and whether it leaves anything behind."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from multiprocessing import active_children

from specreason_graph.engines.pair import EnginePair
from specreason_graph.record.records import Record


class Cycle(Record):
    """One opening and closing of a pair, and what is left in this process behind it."""

    opening: float
    """Seconds until both engines answer."""
    closing: float
    """Seconds until both are gone."""
    processes: int
    """Child processes."""
    handles: int
    """Open file descriptors."""
    threads: int
    """Threads."""
    megabytes: float
    """Resident memory."""


def measure_starts(open_pair: Callable[[], EnginePair], count: int) -> Iterator[Cycle]:
    """Open and close ``count`` pairs, one after the other; each cycle is measured before the next."""
    for _ in range(count):
        begun = time.perf_counter()
        with open_pair() as pair:
            opened = time.perf_counter()
            del pair
        yield _cycle(opened - begun, time.perf_counter() - opened)


def _cycle(opening: float, closing: float) -> Cycle:
    import psutil

    gc.collect()
    active_children()  # takes note of those that have ended
    here = psutil.Process()
    return Cycle(
        opening=opening, closing=closing, processes=len(here.children(recursive=True)), handles=here.num_fds(),
        threads=here.num_threads(), megabytes=here.memory_info().rss / 2**20,
    )  # fmt: skip
