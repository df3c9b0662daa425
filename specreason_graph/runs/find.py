"""Finds the runs that a thread holds, at its root or in subgraphs, finished or not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.graph import StateGraph
from langgraph.types import StateSnapshot

from specreason_graph.record.records import Plain, Record, Step, StopReason
from specreason_graph.record.state import STAGES, Outcome, Question, State


class FoundRun(Record):
    """One run in a thread, as it was checkpointed last."""

    thread_id: str
    """The thread."""
    namespace: str
    """Where in it: empty at the root, else the path of the subgraph."""
    checkpoint_id: str
    """The run's last checkpoint."""
    run: str
    """Names the run."""
    question: str
    """What it thinks about: the last thing the user said."""
    steps: list[Step]
    """The committed steps."""
    stop_reason: StopReason | None
    """Why the thinking ended; None while the run is not finished."""
    answer: str | None
    """The text for the user; None while the run is not finished."""
    next: list[str]
    """The stages that come next; empty when it is finished."""
    updated: str
    """When the last checkpoint was written, ISO 8601."""


def find_runs(checkpointer: BaseCheckpointSaver[Any], thread_id: str) -> list[FoundRun]:
    """All runs of a thread, the latest first; ``checkpointer`` is that of the outermost graph."""
    reader = _reader(checkpointer)
    places = list(_places(checkpointer.list(_thread(thread_id))))  # all of them first: savers lock while they list
    return _heads([(config, reader.get_state(config)) for config in places])


async def afind_runs(checkpointer: BaseCheckpointSaver[Any], thread_id: str) -> list[FoundRun]:
    """The same, for checkpointers that are asynchronous."""
    reader = _reader(checkpointer)
    places = list(_places([each async for each in checkpointer.alist(_thread(thread_id))]))
    return _heads([(config, await reader.aget_state(config)) for config in places])


def read_values(checkpointer: BaseCheckpointSaver[Any], threads: Iterable[str]) -> Iterator[Plain]:
    """The state of each thread as checkpointed last, without engines; empty where there is none."""
    reader = _reader(checkpointer)
    for thread_id in threads:
        yield reader.get_state(_thread(thread_id)).values


def _thread(thread_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id}}


def _places(checkpoints: Iterable[CheckpointTuple]) -> Iterator[RunnableConfig]:
    """Where each run was checkpointed last; the checkpoints of a namespace come latest first.

    A checkpoint that only holds the question of the next run still shows the run before, and is passed over.
    """
    seen = set()
    for each in checkpoints:
        values, versions = each.checkpoint["channel_values"], each.checkpoint["channel_versions"]
        progress = values.get("progress")
        run = progress.get("run") if isinstance(progress, dict) else None
        key = (each.config["configurable"].get("checkpoint_ns", ""), run)
        waits = "__start__" in values or "branch:to:prepare" in values
        if run and "manifest" in versions and not waits and key not in seen:
            seen.add(key)
            yield each.config


def _heads(snapshots: Iterable[tuple[RunnableConfig, StateSnapshot]]) -> list[FoundRun]:
    """The runs, the latest first; what only has keys like ours is none."""
    ours = [each for each in snapshots if "schema_version" in each[1].values.get("manifest", {})]
    return sorted((_found(*each) for each in ours), key=lambda run: run.checkpoint_id, reverse=True)


def _reader(checkpointer: BaseCheckpointSaver[Any]) -> Any:
    """A graph with our channels and stages whose state can be read: it has no engines."""
    return _skeleton().compile(checkpointer=checkpointer)


@cache
def _skeleton() -> StateGraph[State, None, Question, Outcome]:
    graph = StateGraph(State, input_schema=Question, output_schema=Outcome)
    for name in STAGES:
        graph.add_node(name, RunnableLambda(_idle))
    graph.set_entry_point("prepare")
    return graph


def _idle(_: State) -> State:
    return {}


def _found(config: RunnableConfig, snapshot: StateSnapshot) -> FoundRun:
    place, values = config["configurable"], snapshot.values
    finished = bool(values.get("stop_reason"))
    return FoundRun(
        thread_id=place["thread_id"], namespace=place.get("checkpoint_ns", ""), checkpoint_id=place["checkpoint_id"],
        run=values["progress"]["run"], question=values["manifest"]["question"],
        steps=[Step.load(step) for step in values["trace"]],
        stop_reason=values["stop_reason"] if finished else None, answer=values["answer"] if finished else None,
        next=list(snapshot.next), updated=str(snapshot.created_at),
    )  # fmt: skip
