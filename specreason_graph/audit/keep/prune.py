"""Pruning: keep only the last checkpoint of each run of a thread, with all steps of the run in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from specreason_graph.audit.check.verify import check_whole
from specreason_graph.audit.keep.tables import Doomed, Tables, tables_of
from specreason_graph.audit.read.checkpoint_summary import CONVERSATION, DELTAS, parent_of
from specreason_graph.audit.read.reader import gather_runs
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.audit.read.saver import ReadOnly
from specreason_graph.audit.read.serializer import Damaged
from specreason_graph.errors import ThreadError
from specreason_graph.record.claim import claimed
from specreason_graph.record.records import Record
from specreason_graph.record.state import STAGES, State

CHANNELS = {*State.__annotations__, *(f"branch:to:{stage}" for stage in STAGES)}
"""All channels of our graph, without LangGraph's own, whose names begin with two underscores."""


class Pruned(Record):
    """What pruning removed, or would remove in a dry run."""

    thread_id: str
    """The thread."""
    runs: list[str]
    """Names of the runs, the latest first; all of them are kept."""
    kept: int
    """Number of checkpoints that are kept: the last of each run."""
    checkpoints: int
    """Number of checkpoints that were removed."""
    writes: int
    """Number of pending writes that were removed."""
    blobs: int
    """Number of channel values that were removed, in databases with a table for them."""
    bytes_before: int
    """Bytes that were stored for these runs before, without keys and indexes."""
    bytes_after: int
    """Bytes that are stored for them afterwards; an estimate in a dry run."""
    dry_run: bool
    """Whether nothing was changed."""


def prune(checkpointer: BaseCheckpointSaver[Any], thread_id: str, *, dry_run: bool = False) -> Pruned:
    """Keep the last checkpoint of each run of a thread, complete in itself, and remove all other checkpoints.

    Afterwards the runs read as before, and the thread can be asked the next question. `plan_fork` still starts from any
    step, but LangGraph's own time travel no longer reaches the steps in between. Checkpoints of other graphs in the
    thread are not touched. The complete checkpoints are written and read back before anything is removed: a crash
    loses nothing, and the same call finishes the work. A run that will never end, because the graph around it or a
    later run has gone on, is kept as far as it came.

    ``checkpointer``: a ``SqliteSaver`` or ``PostgresSaver``; any other raises `ConfigError`. Raises `ThreadError`, and
    changes nothing, when a run is not finished, shares its namespace with another graph, or is being worked on, and
    `RecordError` when one is damaged.
    """
    tables = tables_of(checkpointer)
    with claimed(checkpointer, thread_id):
        return _prune(checkpointer, tables, thread_id, dry_run=dry_run)


def _prune(checkpointer: BaseCheckpointSaver[Any], tables: Tables, thread_id: str, *, dry_run: bool) -> Pruned:
    found = list(ReadOnly(checkpointer).checkpoints(thread_id))
    runs = gather_runs(found, thread_id)
    by_namespace = {run.namespace: [each for each in runs if each.namespace == run.namespace] for run in runs}
    doomed = {name: _plan(_within(found, name), kept) for name, kept in by_namespace.items()}
    before = tables.size(thread_id, list(doomed))
    # The order is the safety: all runs are complete in their last checkpoints before the first row goes.
    missing = sum(complete_run(checkpointer, run, dry_run=dry_run) for run in runs)
    removed, after = tables.remove(thread_id, doomed, dry_run=dry_run)
    return Pruned(
        thread_id=thread_id, runs=[run.run for run in runs], kept=len(runs), **removed._asdict(),
        bytes_before=before, bytes_after=after + missing * dry_run, dry_run=dry_run,
    )  # fmt: skip


def _within(checkpoints: Sequence[CheckpointTuple], namespace: str) -> dict[str, CheckpointTuple]:
    configs = [(each.config["configurable"], each) for each in checkpoints]
    return {config["checkpoint_id"]: each for config, each in configs if config.get("checkpoint_ns", "") == namespace}


def _plan(checkpoints: Mapping[str, CheckpointTuple], runs: Sequence[RecordedRun]) -> Doomed:
    """Return what is removed from a namespace; raise `ThreadError` when something would be lost."""
    for each in checkpoints.values():
        _check_ours(each)
    for run in runs:
        if not (check_whole(run).finished or run.abandoned):
            raise _refusal(run.thread_id, f"run {run.run!r} is not finished")
    kept = [run.checkpoint_id for run in runs]
    abandoned = [run.checkpoint_id for run in runs if run.abandoned]  # what was begun behind it leads nowhere
    followed = {parent_of(each) for each in checkpoints.values()}
    for name, each in checkpoints.items():
        # Pending writes on a last checkpoint are work that was begun on top of it, as a question that waits.
        if name not in followed and name not in abandoned and (name not in kept or each.pending_writes):
            raise _refusal(runs[0].thread_id, "something was begun behind its last run and is not finished")
    return Doomed(
        checkpoints=[name for name in checkpoints if name not in kept], kept=kept,
        closed=[name for name in kept if name in followed or name in abandoned],
    )  # fmt: skip


def _check_ours(checkpoint: CheckpointTuple) -> None:
    config = checkpoint.config["configurable"]
    if isinstance(checkpoint.checkpoint, Damaged):
        raise ThreadError(
            f"thread {config['thread_id']!r} is not pruned: checkpoint {config['checkpoint_id']} "
            f"{checkpoint.checkpoint.problem}",
            hint="what would be removed may be evidence",
        )
    others = {name for name in checkpoint.checkpoint["channel_versions"] if not name.startswith("__")} - CHANNELS
    if others:
        listed = ", ".join(sorted(others))
        raise ThreadError(
            f"thread {config['thread_id']!r} is not pruned: it also holds another graph, with channels {listed}",
            hint="give that graph threads of its own",
        )


def _refusal(thread_id: str, why: str) -> ThreadError:
    return ThreadError(f"thread {thread_id!r} is not pruned: {why}", hint="resume it to its end first")


def complete_run(saver: BaseCheckpointSaver[Any], run: RecordedRun, *, dry_run: bool) -> int:
    """Put the whole run into its last checkpoint, and return the bytes of the channels that were not in it."""
    found = saver.get_tuple(_config(run, run.checkpoint_id))
    if found is None:
        raise ThreadError(f"checkpoint {run.checkpoint_id} of thread {run.thread_id!r} is gone", hint="try again")
    checkpoint, values = found.checkpoint, found.checkpoint["channel_values"]
    # Delta channels are spread over all checkpoints of a run; a snapshot holds the whole value. LangGraph has no public
    # way to write one.
    missing = {
        name: _DeltaSnapshot(getattr(run, name)) for name in DELTAS if not isinstance(values.get(name), _DeltaSnapshot)
    }
    if CONVERSATION in checkpoint["channel_versions"] and CONVERSATION not in values:
        missing[CONVERSATION] = _DeltaSnapshot(run.said.messages())
    if missing and not dry_run:
        # PostgresSaver stores a value by its version and never overwrites one, so each snapshot needs a new version.
        versions = {name: saver.get_next_version(checkpoint["channel_versions"][name], None) for name in missing}
        metadata = {name: value for name, value in found.metadata.items() if name != "counters_since_delta_snapshot"}
        saver.put(
            _config(run, parent_of(found)),
            {
                **checkpoint, "channel_values": {**values, **missing},
                "channel_versions": {**checkpoint["channel_versions"], **versions},
            },
            metadata, versions,  # type: ignore[arg-type] # a TypedDict that lacks one key
        )  # fmt: skip
    if not dry_run:
        _read_back(saver, run)
    return sum(len(saver.serde.dumps_typed(value)[1]) for value in missing.values())


def _read_back(saver: BaseCheckpointSaver[Any], run: RecordedRun) -> None:
    """Read the run from its last checkpoint alone; raise `ThreadError` unless it is the same."""
    found = ReadOnly(saver).checkpoint(_config(run, run.checkpoint_id))
    again = gather_runs([found], run.thread_id) if found else []
    if again != [run] or again[0].conversation != run.conversation:
        raise ThreadError(
            f"thread {run.thread_id!r} is not pruned: run {run.run!r} does not read the same from its last checkpoint",
            hint="nothing was removed; please report it",
        )


def _config(run: RecordedRun, checkpoint_id: str | None) -> RunnableConfig:
    named = {"checkpoint_id": checkpoint_id} if checkpoint_id else {}
    return {"configurable": {"thread_id": run.thread_id, "checkpoint_ns": run.namespace, **named}}
