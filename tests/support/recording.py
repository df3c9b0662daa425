"""Runs of a pair as the audit reads them, without a database."""

from __future__ import annotations

from typing import Any

from langgraph.checkpoint.memory import InMemorySaver

from specreason_graph import EnginePair, create_specreason
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.read.recorded import RecordedRun

THREAD: Any = {"configurable": {"thread_id": "one"}}


def record(pair: EnginePair, question: str = "What?", **settings: Any) -> RecordedRun:
    """A run, as it was kept."""
    saver = InMemorySaver()
    create_specreason(pair, **settings).compile(checkpointer=saver).invoke({"question": question}, THREAD)
    (run,) = read_runs(saver, "one")
    return run
