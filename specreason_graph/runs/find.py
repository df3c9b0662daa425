"""Finds the runs that a thread holds, at its root or in subgraphs, finished or not.

They are read by the reader of the audits, and what it finds is verified: what is told of a run is what was sealed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from pydantic import Field

from specreason_graph.audit.check.state_check import with_writes_ahead
from specreason_graph.audit.check.verify import check_whole
from specreason_graph.audit.read.reader import afind_recorded, find_recorded
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.display import run_html
from specreason_graph.errors import ThreadError
from specreason_graph.policies.routing import Stage, next_stage
from specreason_graph.record.records import Plain, Record, Step, StopReason


class FoundRun(Record):
    """One run in a thread, as it was checkpointed last."""

    thread_id: str
    """The thread."""
    namespace: str
    """Where in it: empty at the root, else the path of the subgraph."""
    checkpoint_id: str
    """The run's last checkpoint; a run with several branches is listed once for each."""
    run: str
    """Names the run."""
    question: str = ""
    """What it thinks about: the last thing the user said."""
    steps: list[Step] = Field(default_factory=list)
    """The committed steps."""
    stop_reason: StopReason | None = None
    """Why the thinking ended; None while the run is not finished."""
    answer: str | None = None
    """The text for the user; None while the run is not finished."""
    next: list[Stage] = Field(default_factory=list)
    """The stage that comes next; empty when the run is finished or abandoned."""
    abandoned: bool = False
    """Whether it will never be finished: the graph around it, or a later run on the thread, has gone on without it."""
    problem: str | None = None
    """What is wrong with its record, of which nothing is told then; None for a record that is as it was written."""
    updated: str
    """When the last checkpoint was written, ISO 8601."""

    def _repr_html_(self) -> str:
        about = f"<p>{escape(self.question)}</p>" + (f"<p>{escape(self.problem)}</p>" if self.problem else "")
        return about + run_html([step.dump() for step in self.steps], self.answer or "", self.stop_reason or "")


def find_runs(checkpointer: BaseCheckpointSaver[Any], thread_id: str) -> list[FoundRun]:
    """All runs of a thread, the latest first; ``checkpointer`` is that of the outermost graph."""
    return [_found(run) for run in find_recorded(checkpointer, thread_id) if _is_ours(run)]


async def afind_runs(checkpointer: BaseCheckpointSaver[Any], thread_id: str) -> list[FoundRun]:
    """The same, for checkpointers that are asynchronous."""
    return [_found(run) for run in await afind_recorded(checkpointer, thread_id) if _is_ours(run)]


def read_values(checkpointer: BaseCheckpointSaver[Any], threads: Iterable[str]) -> Iterator[Plain]:
    """The state of the run at the root of each thread, as it was sealed; empty where no run has begun.

    Raises `RecordError` at a record that is not as it was written.
    """
    for thread_id in threads:
        yield _values(find_recorded(checkpointer, thread_id))


async def aread_values(checkpointer: BaseCheckpointSaver[Any], thread_id: str) -> Plain:
    """The same for one thread, for checkpointers that are asynchronous."""
    return _values(await afind_recorded(checkpointer, thread_id))


def _values(runs: list[RecordedRun]) -> Plain:
    at_root = [run for run in runs if not run.namespace]
    if not at_root:
        return {}
    run = with_writes_ahead(check_whole(at_root[0]))  # a step is kept as soon as its node has ended
    return {**run.values, "manifest": run.manifest, "trace": run.trace}


def _is_ours(run: RecordedRun) -> bool:
    """Whether it is a run, and not a graph whose channels have the same names."""
    return bool(run.manifest.keys() & {"schema_version", "hash"})


def _found(run: RecordedRun) -> FoundRun:
    place: dict[str, Any] = {
        "thread_id": run.thread_id, "namespace": run.namespace, "checkpoint_id": run.checkpoint_id, "run": run.run,
        "updated": run.updated, "abandoned": run.abandoned,
    }  # fmt: skip
    try:
        check_whole(run)
    except ThreadError as error:
        return FoundRun(**place, problem=str(error))
    stage = None if run.abandoned else next_stage({**run.values, "manifest": run.manifest})
    return FoundRun(
        **place, question=run.question, steps=run.steps, stop_reason=run.stop_reason,
        answer=run.answer.text if run.answer else None, next=[stage] if stage else [],
    )  # fmt: skip
