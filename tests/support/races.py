"""Two processes that resume one thread at the same moment."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

from specreason_graph import EnginePair, create_specreason
from specreason_graph.errors import ThreadError
from tests.support.databases import opened

PROCESSES = multiprocessing.get_context("forkserver")


def resume(place: str, thread: str, pair: Callable[[], EnginePair], start: Any, said: Any) -> None:
    """Wait for the other process, resume, and tell the answer, or why it was refused."""
    config: Any = {"configurable": {"thread_id": thread}}
    with opened(place) as saver, pair() as engines:
        graph = create_specreason(engines).compile(checkpointer=saver)
        start.wait(120)
        try:
            said.put(graph.invoke(None, config, durability="sync")["answer"])
        except ThreadError as error:
            said.put(str(error))


def race(place: str, thread: str, pair: Callable[[], EnginePair]) -> list[str]:
    """Begin a run in the thread, resume it twice at once, and return what both processes told."""
    config: Any = {"configurable": {"thread_id": thread}}
    with opened(place) as saver, pair() as engines:
        graph = create_specreason(engines).compile(checkpointer=saver)
        graph.invoke({"question": "What?"}, config, interrupt_after=["draft"])
    start, said = PROCESSES.Barrier(2), PROCESSES.Queue()
    both = [PROCESSES.Process(target=resume, args=(place, thread, pair, start, said)) for _ in range(2)]
    for each in both:
        each.start()
    told = [said.get(timeout=300) for _ in both]
    for each in both:
        each.join()
    return told
