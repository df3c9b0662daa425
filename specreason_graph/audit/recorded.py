"""What a thread holds of a run, read from raw checkpoints in one pass: no graph, no engine, nothing interpreted yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.types import Overwrite

from specreason_graph.audit.readonly import Damaged, ReadOnly, no_such_thread
from specreason_graph.channels import bare
from specreason_graph.errors import ThreadError
from specreason_graph.manifest import Manifest
from specreason_graph.records import SCHEMA_VERSION, Answer, Record, Step, StopReason

Plain = dict[str, Any]
MARKS = ("pending", "progress", "result", "answer", "stop_reason", "trace_summary")
"""Channels whose last value is kept with each checkpoint."""


class Finding(Record):
    """Something that is not as it was written, or does not follow from what was."""

    step: int | None
    """Position of the step, from 0; None where it is about the whole run."""
    problem: str
    """What is wrong."""


@dataclass
class RecordedRun:
    """One run as it was checkpointed; `findings` says what could not be read."""

    thread_id: str
    """The thread."""
    namespace: str
    """Where in it: empty at the root, else the path of the subgraph."""
    checkpoint_id: str = ""
    """The run's last checkpoint."""
    updated: str = ""
    """When that was written, ISO 8601."""
    manifest: Plain = field(default_factory=dict)
    """What holds for the whole run, as `Manifest` dumps it."""
    trace: list[Plain] = field(default_factory=list)
    """The committed steps, as `Step` dumps them; a damaged one is `Damaged`."""
    values: Plain = field(default_factory=dict)
    """The last values of the other channels."""
    findings: list[Finding] = field(default_factory=list)
    """What is damaged, where it stands."""

    @property
    def run(self) -> str:
        """Names the run."""
        return str(self.progress.get("run") or "")

    @property
    def progress(self) -> Plain:
        """The running totals."""
        return _plain(self.values.get("progress"))

    @property
    def question(self) -> str:
        """What it thinks about."""
        return str(self.manifest.get("question", ""))

    @property
    def result(self) -> Plain:
        """The answer with its evidence, as `Answer` dumps it; empty while the run is not finished."""
        return _plain(self.values.get("result"))

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the thinking ended; None while the run is not finished."""
        found: Any = self.values.get("stop_reason")
        return cast("StopReason", found) if isinstance(found, str) and found else None

    @property
    def finished(self) -> bool:
        """Whether there is an answer."""
        return bool(self.result)

    @property
    def head(self) -> str | None:
        """The hash of the last entry of the ledger, as it is stored."""
        return _plain(self.result or (self.trace[-1] if self.trace else self.manifest)).get("hash")

    @cached_property
    def typed_manifest(self) -> Manifest:
        """The manifest, typed."""
        return Manifest.load(self.manifest)

    @cached_property
    def steps(self) -> list[Step]:
        """The committed steps, typed."""
        return [Step.load(step) for step in self.trace]

    @cached_property
    def answer(self) -> Answer | None:
        """The answer, typed."""
        return Answer.load(self.result) if self.result else None


def read_runs(checkpointer: BaseCheckpointSaver[Any], thread_id: str) -> list[RecordedRun]:
    """All runs of a thread, root and subgraphs, the latest first; `ThreadError` when it holds none."""
    return gather_runs(ReadOnly(checkpointer).checkpoints(thread_id), thread_id)


async def aread_runs(checkpointer: BaseCheckpointSaver[Any], thread_id: str) -> list[RecordedRun]:
    """The same, for checkpointers that are asynchronous."""
    return gather_runs(await ReadOnly(checkpointer).acheckpoints(thread_id), thread_id)


def read_all_runs(checkpointer: BaseCheckpointSaver[Any]) -> list[RecordedRun]:
    """All runs of all threads, the latest first."""
    threads: dict[str, list[CheckpointTuple]] = {}
    for each in ReadOnly(checkpointer).checkpoints():
        threads.setdefault(each.config["configurable"]["thread_id"], []).append(each)
    return _latest_first(run for thread_id, found in threads.items() for run in _in_thread(found, thread_id))


def choose_run(runs: list[RecordedRun], name: str | None = None) -> RecordedRun:
    """The run called ``name`` (its first letters will do), or the only one; `ThreadError` when that is not clear."""
    found = [run for run in runs if name is None or run.run.startswith(name)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(run.run[:12] for run in runs)
    if not found:
        raise ThreadError(f"no run {name!r} in thread {runs[0].thread_id!r}; its runs: {listed}")
    raise ThreadError(
        f"thread {runs[0].thread_id!r} holds {len(found)} runs", hint=f"choose with --run one of {listed}"
    )


def check_readable(run: RecordedRun) -> RecordedRun:
    """The run, unless it is damaged or made by a package to come: `ThreadError`."""
    version = run.manifest.get("schema_version", 0)
    if version > SCHEMA_VERSION:
        hint = "update specreason-graph"
        raise ThreadError(f"run {run.run!r} has schema version {version}, and {SCHEMA_VERSION} is known", hint=hint)
    if run.findings:
        first = run.findings[0]
        where = "" if first.step is None else f"step {first.step + 1}: "
        raise ThreadError(f"the record of run {run.run!r} is damaged: {where}{first.problem}", hint="verify it first")
    return run


def gather_runs(checkpoints: list[CheckpointTuple], thread_id: str) -> list[RecordedRun]:
    """All runs in the checkpoints of a thread, the latest first; `ThreadError` when there are none."""
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
        if self._run is None and isinstance(values.get("manifest"), _DeltaSnapshot):
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
            if not isinstance(snapshot, _DeltaSnapshot):
                continue
            known = getattr(run, name)
            if known and not forked and known != snapshot.value:
                same = [mine == theirs for mine, theirs in zip(run.trace, snapshot.value, strict=False)]
                at = same.index(False) if name == "trace" and False in same else None
                run.findings.append(Finding(step=at, problem=f"a snapshot of the {name} is not what was written"))
            else:
                setattr(run, name, list(snapshot.value) if name == "trace" else dict(snapshot.value))

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


def _plain(value: Any) -> Plain:
    """A record, or nothing where there is none that can be read."""
    return value if isinstance(value, dict) and not isinstance(value, Damaged) else {}


def _versions(checkpoint: CheckpointTuple) -> Plain:
    return checkpoint.checkpoint.get("channel_versions") or {}
