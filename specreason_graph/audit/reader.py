"""Reading runs from raw checkpoints in one pass: no graph, no engine, and nothing is taken on trust."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.types import Overwrite

from specreason_graph.audit.readonly import Damaged, ReadOnly, no_such_thread
from specreason_graph.audit.recorded import Finding, Plain, RecordedRun
from specreason_graph.channels import bare
from specreason_graph.errors import ThreadError

MARKS = ("pending", "progress", "result", "answer", "stop_reason", "trace_summary")
"""Channels whose last value is kept with each checkpoint."""
DELTAS = ("manifest", "trace")
"""Channels whose value is spread over the checkpoints of a run."""
_PLAIN = JsonPlusSerializer(allowed_msgpack_modules=None)
WAITING = ("__start__", "branch:to:prepare")
"""Channels that hold the question of a run that has not begun."""


def read_runs(checkpointer: BaseCheckpointSaver[Any], thread_id: str) -> list[RecordedRun]:
    """All runs of a thread, root and subgraphs, the latest first; `ThreadError` when it holds none."""
    return gather_runs(ReadOnly(checkpointer).checkpoints(thread_id), thread_id)


async def aread_runs(checkpointer: BaseCheckpointSaver[Any], thread_id: str) -> list[RecordedRun]:
    """The same, for checkpointers that are asynchronous."""
    return gather_runs([each async for each in ReadOnly(checkpointer).acheckpoints(thread_id)], thread_id)


def read_all_runs(checkpointer: BaseCheckpointSaver[Any]) -> list[RecordedRun]:
    """All runs of all threads, the latest first."""
    threads: dict[str, list[CheckpointTuple]] = {}
    for each in slim(ReadOnly(checkpointer).checkpoints()):
        threads.setdefault(each.config["configurable"]["thread_id"], []).append(each)
    return _latest_first(run for thread_id, found in threads.items() for run in _in_thread(found, thread_id))


def gather_runs(found_there: Iterable[CheckpointTuple], thread_id: str) -> list[RecordedRun]:
    """All runs in the checkpoints of a thread, given latest first, as they are; `ThreadError` when there are none."""
    checkpoints = list(slim(found_there))
    if not checkpoints:
        raise no_such_thread(thread_id)
    found = _latest_first(_in_thread(checkpoints, thread_id))
    problem = next((each for each in _damages(checkpoints) if "crypted" in each), None)
    if problem and not any(run.run or run.manifest for run in found):
        hint = "give the checkpointer LangGraph's EncryptedSerializer with the key it was written with"
        raise ThreadError(f"thread {thread_id!r} {problem}", hint=hint)
    if not found:
        raise ThreadError(
            f"thread {thread_id!r} holds no run of specreason", hint="it is of another graph, or not begun"
        )
    return found


def _damages(checkpoints: list[CheckpointTuple]) -> Iterator[str]:
    for each in checkpoints:
        stored = [each.checkpoint, *each.checkpoint["channel_values"].values()]
        yield from (part.problem for part in stored if isinstance(part, Damaged))


def _latest_first(runs: Iterable[RecordedRun]) -> list[RecordedRun]:
    return sorted(runs, key=lambda run: run.checkpoint_id, reverse=True)


def _in_thread(checkpoints: list[CheckpointTuple], thread_id: str) -> Iterator[RecordedRun]:
    """The runs of each namespace; a run that two branches share is told once."""
    places: dict[str, dict[str, CheckpointTuple]] = {}
    for each in checkpoints:
        place = each.config["configurable"]
        places.setdefault(place.get("checkpoint_ns", ""), {})[place["checkpoint_id"]] = each
    for namespace, found in places.items():
        told = set()
        for path in _branches(found):
            for run in Reader(thread_id, namespace).read(path, found):
                if run.checkpoint_id not in told:
                    told.add(run.checkpoint_id)
                    yield run


def _branches(checkpoints: dict[str, CheckpointTuple]) -> Iterator[list[CheckpointTuple]]:
    """From the first checkpoint to each that nothing came after, the latest branch first."""
    parents = {parent_of(each) for each in checkpoints.values()}
    for name in sorted(checkpoints.keys() - parents, reverse=True):
        path, at = [], checkpoints.get(name)
        while at is not None:
            path.append(at)
            at = checkpoints.get(parent_of(at) or "")
        yield path[::-1]


def parent_of(checkpoint: CheckpointTuple) -> str | None:
    """The checkpoint it followed; None for the first, and where that was removed."""
    parent = checkpoint.parent_config
    return parent["configurable"]["checkpoint_id"] if parent else None


class Reader:
    """Follows one branch of checkpoints and gathers the runs it meets."""

    def __init__(self, thread_id: str, namespace: str) -> None:
        self._place = (thread_id, namespace)
        self._run: RecordedRun | None = None

    def read(self, path: list[CheckpointTuple], all_of_them: dict[str, CheckpointTuple]) -> Iterator[RecordedRun]:
        """The runs of a path, in order."""
        children: dict[str | None, int] = {}
        for each in all_of_them.values():
            children[parent_of(each)] = children.get(parent_of(each), 0) + 1
        forked = False
        for position, checkpoint in enumerate(path):
            self._look(checkpoint, forked=forked)
            if position + 1 == len(path):
                break
            forked = children[checkpoint.config["configurable"]["checkpoint_id"]] > 1
            yield from self._apply(checkpoint.pending_writes or [])
        if self._run and self._run.checkpoint_id:
            yield self._run

    def _look(self, checkpoint: CheckpointTuple, *, forked: bool) -> None:
        """Take what a checkpoint says of the state."""
        damaged = checkpoint.checkpoint if isinstance(checkpoint.checkpoint, Damaged) else None
        if damaged and not damaged.readable:
            self._run = self._run or RecordedRun(*self._place)
            self._run.checkpoint_id = checkpoint.config["configurable"]["checkpoint_id"]
            self._find(f"a checkpoint {damaged.problem}", here=True)
            return
        values = checkpoint.checkpoint["channel_values"]
        if "__start__" in values or "branch:to:prepare" in values:
            return  # a question that waits; the state is still that of the run before
        progress = values.get("progress")
        if self._run is None and isinstance(values.get("manifest"), Copy):
            self._run = RecordedRun(*self._place)
        if self._run is None:
            if not isinstance(progress, dict) or not progress.get("run") or "manifest" not in _versions(checkpoint):
                return
            self._run = RecordedRun(*self._place)
            self._find("the manifest is missing")
        if damaged:
            self._find(f"a checkpoint {damaged.problem}", here=True)
        self._take_snapshots(values, forked=forked)
        self._run.checkpoint_id = checkpoint.config["configurable"]["checkpoint_id"]
        self._run.updated = checkpoint.checkpoint.get("ts", "")
        self._run.values = {name: bare(values[name]) for name in MARKS if name in values}
        for name, value in self._run.values.items():
            if isinstance(value, Damaged):
                self._find(f"{name} {value.problem}", here=name in ("pending", "progress"))
        if isinstance(progress, dict) and progress.get("steps", len(self._run.trace)) != len(self._run.trace):
            self._find(f"{progress['steps']} steps were counted, and {len(self._run.trace)} are there", here=True)

    def _take_snapshots(self, values: Plain, *, forked: bool) -> None:
        """A snapshot is one more copy of what the writes said; behind a fork it is the only one."""
        run = self._run
        assert run is not None  # noqa: S101 - the caller has made it
        for name in ("manifest", "trace"):
            snapshot = values.get(name)
            if isinstance(snapshot, Damaged):
                self._find(f"a snapshot of the {name} {snapshot.problem}", here=True)
            if not isinstance(snapshot, Copy):
                continue
            known = getattr(run, name)
            if not known or forked:
                setattr(run, name, snapshot.value())
            elif snapshot != Copy(known):
                same = [mine == theirs for mine, theirs in zip(run.trace, snapshot.value(), strict=False)]
                at = same.index(False) if name == "trace" and False in same else None
                run.findings.append(Finding(step=at, problem=f"a snapshot of the {name} is not what was written"))

    def _apply(self, writes: Iterable[tuple[str, str, Any]]) -> Iterator[RecordedRun]:
        """Take what the stages wrote; a manifest begins a new run, and the one before is over."""
        for _, channel, value in writes:
            if channel == "manifest":
                if self._run and self._run.checkpoint_id:
                    yield self._run
                self._run = RecordedRun(*self._place)
                if isinstance(value, Damaged) or not isinstance(value, dict):
                    self._find(f"the manifest {getattr(value, 'problem', 'is no record')}")
                else:
                    self._run.manifest = value
            elif channel == "trace" and self._run:
                self._append(value)

    def _append(self, value: Any) -> None:
        run = self._run
        assert run is not None  # noqa: S101 - the caller has looked
        if isinstance(value, Overwrite):
            run.trace = list(value.value)
        elif isinstance(value, list):
            run.trace += value
        else:
            problem = value.problem if isinstance(value, Damaged) else f"is a {type(value).__name__}"
            run.findings.append(Finding(step=len(run.trace), problem=f"its record {problem}"))
            run.trace.append(Damaged(problem))

    def _find(self, problem: str, *, here: bool = False) -> None:
        if self._run:
            self._run.findings.append(Finding(step=len(self._run.trace) if here else None, problem=problem))


@dataclass(frozen=True, init=False)
class Copy:
    """One more copy of a whole channel, packed: there may be many, and each may hold thousands of records."""

    packed: bytes

    def __init__(self, value: Any) -> None:
        object.__setattr__(self, "packed", _PLAIN.dumps_typed(value)[1])

    def value(self) -> Any:
        """What the channel held."""
        return _PLAIN.loads_typed(("msgpack", self.packed))


def _packed(value: Any) -> Any:
    return Copy(value.value) if isinstance(value, _DeltaSnapshot) else value


def slim(checkpoints: Iterable[CheckpointTuple]) -> Iterator[CheckpointTuple]:
    """The checkpoints without what is not looked at: with thousands of them, what is held costs more than what is read.

    They come latest first. A proposal in flight is only of interest in a checkpoint that nothing came after.
    """
    followed = set()
    for each in checkpoints:
        place = each.config["configurable"]
        name = (place["thread_id"], place.get("checkpoint_ns", ""), place["checkpoint_id"])
        followed.add((*name[:2], parent_of(each)))
        yield each if isinstance(each.checkpoint, Damaged) else _kept(each, with_pending=name not in followed)


def _kept(each: CheckpointTuple, *, with_pending: bool) -> CheckpointTuple:
    values = each.checkpoint["channel_values"]
    names = {*MARKS, *DELTAS, *WAITING} - ({"pending"} if values.get("pending") and not with_pending else set())
    versions = each.checkpoint.get("channel_versions") or {}
    checkpoint: Any = {
        "ts": each.checkpoint.get("ts", ""),
        "channel_values": {name: _packed(values[name]) for name in names & values.keys()},
        "channel_versions": {name: versions[name] for name in DELTAS if name in versions},
    }
    writes = [write for write in each.pending_writes or () if write[1] in DELTAS]
    return each._replace(checkpoint=checkpoint, pending_writes=writes, metadata={})


def _versions(checkpoint: CheckpointTuple) -> Plain:
    return checkpoint.checkpoint.get("channel_versions") or {}
