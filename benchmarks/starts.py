"""How long opening and closing a pair takes, and whether it leaves anything behind."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from multiprocessing import active_children

from specreason_graph.engines.pair import EnginePair
from specreason_graph.record.records import Record


class Cycle(Record):
    """One opening and closing of a pair, and what is left in this process afterwards."""

    opening: float
    """Seconds until both engines are open."""
    closing: float
    """Seconds until both engines are closed."""
    processes: int
    """Child processes that are left."""
    handles: int
    """File descriptors that are open."""
    threads: int
    """Threads of this process."""
    megabytes: float
    """Resident memory of this process, in MiB."""


def measure_starts(open_pair: Callable[[], EnginePair], count: int) -> Iterator[Cycle]:
    """Open and close ``count`` pairs, one after the other, and yield the figures of each."""
    for _ in range(count):
        begun = time.perf_counter()
        with open_pair() as pair:
            opened = time.perf_counter()
            del pair  # this name would keep the pair alive while it is measured what is left
        yield _cycle(opened - begun, time.perf_counter() - opened)


def _cycle(opening: float, closing: float) -> Cycle:
    import psutil

    gc.collect()
    active_children()  # reaps processes that have ended, which would count as children otherwise
    here = psutil.Process()
    return Cycle(
        opening=opening, closing=closing, processes=len(here.children(recursive=True)), handles=here.num_fds(),
        threads=here.num_threads(), megabytes=here.memory_info().rss / 2**20,
    )  # fmt: skip
