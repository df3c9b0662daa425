"""Cutting a thread back to what an audit needs: the last checkpoint of each run, with all its steps in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from specreason_graph.audit.check.verify import check_whole
from specreason_graph.audit.keep.tables import Doomed, tables_of
from specreason_graph.audit.read.checkpoint_summary import DELTAS, parent_of
from specreason_graph.audit.read.reader import gather_runs
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.audit.read.saver import Damaged, ReadOnly
from specreason_graph.errors import ThreadError
from specreason_graph.record.records import Record
from specreason_graph.record.state import STAGES, State

CHANNELS = {*State.__annotations__, *(f"branch:to:{stage}" for stage in STAGES)}
"""All channels of our graph but LangGraph's own, whose names begin with two underscores."""


class Pruned(Record):
    """What pruning removed, or would remove."""

    thread_id: str
    """The thread."""
    runs: list[str]
    """Names the runs, all of which are kept, the latest first."""
    kept: int
    """Checkpoints that are kept: the last of each run."""
    checkpoints: int
    """Checkpoints that were removed."""
    writes: int
    """Writes of stages that were removed."""
    blobs: int
    """Values that were removed, in databases that keep them in a table of their own."""
    bytes_before: int
    """Bytes stored for these runs before, keys and indexes not counted."""
    bytes_after: int
    """Bytes stored for them after it; in a dry run an estimate."""
    dry_run: bool
    """Whether nothing was changed."""


def prune(checkpointer: BaseCheckpointSaver[Any], thread_id: str, *, dry_run: bool = False) -> Pruned:
    """Keep the last checkpoint of each run of a thread, made complete in itself, and remove the others.

    The runs read as before and a next question can be asked, but none can be gone back to at an earlier step by
    LangGraph's own time travel; `plan_fork` still starts from any. What other graphs keep in the thread is not touched.
    The complete checkpoints are written and read back before anything is removed, so a crash loses nothing, and the
    same call then finishes the work. Nobody else may work on the thread meanwhile.

    ``checkpointer``: a ``SqliteSaver`` or ``PostgresSaver``, else `ConfigError`. `ThreadError` when that is not safe: a
    run is not finished, is damaged, or shares its namespace with another graph; then nothing is changed.
    """
    tables = tables_of(checkpointer)
    found = list(ReadOnly(checkpointer).checkpoints(thread_id))
    runs = gather_runs(found, thread_id)
    places = {run.namespace: [each for each in runs if each.namespace == run.namespace] for run in runs}
    doomed = {name: _plan(_within(found, name), kept) for name, kept in places.items()}
    before = tables.size(thread_id, list(doomed))
    missing = sum(complete_run(checkpointer, run, dry_run=dry_run) for run in runs)
    removed, after = tables.remove(thread_id, doomed, dry_run=dry_run)
    return Pruned(
        thread_id=thread_id, runs=[run.run for run in runs], kept=len(runs), **removed._asdict(),
        bytes_before=before, bytes_after=after + missing * dry_run, dry_run=dry_run,
    )  # fmt: skip


def _within(checkpoints: Sequence[CheckpointTuple], namespace: str) -> dict[str, CheckpointTuple]:
    places = [(each.config["configurable"], each) for each in checkpoints]
    return {place["checkpoint_id"]: each for place, each in places if place.get("checkpoint_ns", "") == namespace}


def _plan(checkpoints: Mapping[str, CheckpointTuple], runs: Sequence[RecordedRun]) -> Doomed:
    """What goes from a namespace; `ThreadError` where something would be lost."""
    for each in checkpoints.values():
        _check_ours(each)
    for run in runs:
        if not check_whole(run).finished:
            raise _refusal(run.thread_id, f"run {run.run!r} is not finished")
    kept = [run.checkpoint_id for run in runs]
    followed = {parent_of(each) for each in checkpoints.values()}
    for name, each in checkpoints.items():
        if name not in followed and (name not in kept or each.pending_writes):
            raise _refusal(runs[0].thread_id, "something was begun behind its last run and is not finished")
    return Doomed(
        checkpoints=[name for name in checkpoints if name not in kept], kept=kept,
        closed=[name for name in kept if name in followed],
    )  # fmt: skip


def _check_ours(checkpoint: CheckpointTuple) -> None:
    place = checkpoint.config["configurable"]
    if isinstance(checkpoint.checkpoint, Damaged):
        raise ThreadError(
            f"thread {place['thread_id']!r} is not pruned: checkpoint {place['checkpoint_id']} "
            f"{checkpoint.checkpoint.problem}",
            hint="what would be removed may be evidence",
        )
    others = {name for name in checkpoint.checkpoint["channel_versions"] if not name.startswith("__")} - CHANNELS
    if others:
        listed = ", ".join(sorted(others))
        raise ThreadError(
            f"thread {place['thread_id']!r} is not pruned: it also holds another graph, with channels {listed}",
            hint="give that graph threads of its own",
        )


def _refusal(thread_id: str, why: str) -> ThreadError:
    return ThreadError(f"thread {thread_id!r} is not pruned: {why}", hint="resume it to its end first")


def complete_run(saver: BaseCheckpointSaver[Any], run: RecordedRun, *, dry_run: bool) -> int:
    """Put the whole run into its last checkpoint, and give the bytes of what was not in it."""
    found = saver.get_tuple(_config(run, run.checkpoint_id))
    if found is None:
        raise ThreadError(f"checkpoint {run.checkpoint_id} of thread {run.thread_id!r} is gone", hint="try again")
    checkpoint, values = found.checkpoint, found.checkpoint["channel_values"]
    missing = {
        name: _DeltaSnapshot(getattr(run, name)) for name in DELTAS if not isinstance(values.get(name), _DeltaSnapshot)
    }
    if missing and not dry_run:
        versions = {name: saver.get_next_version(checkpoint["channel_versions"][name], None) for name in missing}
        metadata = {name: value for name, value in found.metadata.items() if name != "counters_since_delta_snapshot"}
        saver.put(
            _config(run, parent_of(found)),
            {
                **checkpoint, "channel_values": {**values, **missing},
                "channel_versions": {**checkpoint["channel_versions"], **versions},
            },
            metadata, versions,  # type: ignore[arg-type] # a TypedDict without one of its keys
        )  # fmt: skip
    if not dry_run:
        _read_back(saver, run)
    return sum(len(saver.serde.dumps_typed(value)[1]) for value in missing.values())


def _read_back(saver: BaseCheckpointSaver[Any], run: RecordedRun) -> None:
    """Read the run from its last checkpoint alone; `ThreadError` unless it is the same."""
    found = ReadOnly(saver).checkpoint(_config(run, run.checkpoint_id))
    if found is None or gather_runs([found], run.thread_id) != [run]:
        raise ThreadError(
            f"thread {run.thread_id!r} is not pruned: run {run.run!r} does not read the same from its last checkpoint",
            hint="nothing was removed; please report it",
        )


def _config(run: RecordedRun, checkpoint_id: str | None) -> RunnableConfig:
    named = {"checkpoint_id": checkpoint_id} if checkpoint_id else {}
    return {"configurable": {"thread_id": run.thread_id, "checkpoint_ns": run.namespace, **named}}
