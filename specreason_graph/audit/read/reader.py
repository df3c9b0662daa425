"""Reads runs from raw checkpoints in one pass, with no graph and no engine, and trusts nothing that is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.types import Overwrite

from specreason_graph.audit.read.checkpoint_summary import CheckpointSummary, Copy, checkpoint_summaries
from specreason_graph.audit.read.recorded import Finding, RecordedRun
from specreason_graph.audit.read.saver import Damaged, ReadOnly, no_such_thread
from specreason_graph.errors import ThreadError


def read_runs(checkpointer: BaseCheckpointSaver[Any], thread_id: str) -> list[RecordedRun]:
    """Read all runs of a thread, root and subgraphs, the latest first; raise `ThreadError` when there are none."""
    return gather_runs(ReadOnly(checkpointer).checkpoints(thread_id), thread_id)


async def aread_runs(checkpointer: BaseCheckpointSaver[Any], thread_id: str) -> list[RecordedRun]:
    """Do the same as `read_runs`, for an asynchronous checkpointer."""
    return gather_runs([each async for each in ReadOnly(checkpointer).acheckpoints(thread_id)], thread_id)


def read_all_runs(checkpointer: BaseCheckpointSaver[Any]) -> list[RecordedRun]:
    """Read all runs of all threads, the latest first."""
    return _runs(checkpoint_summaries(ReadOnly(checkpointer).checkpoints()))


def gather_runs(checkpoints: Iterable[CheckpointTuple], thread_id: str) -> list[RecordedRun]:
    """Gather all runs from a thread's checkpoints, given latest first; raise `ThreadError` when there are none."""
    seen = list(checkpoint_summaries(checkpoints))
    if not seen:
        raise no_such_thread(thread_id)
    found = _runs(seen)
    problem = next((each.problem for each in seen if each.problem and "crypted" in each.problem), None)
    if problem and not any(run.run or run.manifest for run in found):
        hint = "give the checkpointer LangGraph's EncryptedSerializer with the key it was written with"
        raise ThreadError(f"thread {thread_id!r} {problem}", hint=hint)
    if not found:
        hint = "check the thread id: the thread belongs to another graph, or its run has not begun"
        raise ThreadError(f"thread {thread_id!r} holds no run of specreason", hint=hint)
    return found


def _runs(seen: Iterable[CheckpointSummary]) -> list[RecordedRun]:
    """Gather the runs of each thread and namespace, the latest first; a run that two branches share is listed once."""
    namespaces: dict[tuple[str, str], dict[str, CheckpointSummary]] = {}
    for each in seen:
        namespaces.setdefault((each.thread, each.namespace), {})[each.name] = each
    found: dict[tuple[str, str, str], RecordedRun] = {}
    for key, there in namespaces.items():
        followers = Counter(each.parent for each in there.values())
        for path in _branches(there):
            for run in Reader(*key).read(path, followers):
                if path[0].parent in there:
                    run.findings.append(Finding(step=None, problem="its checkpoints follow each other in a circle"))
                found.setdefault((*key, run.checkpoint_id), run)
    return sorted(found.values(), key=lambda run: run.checkpoint_id, reverse=True)


def _branches(there: dict[str, CheckpointSummary]) -> Iterator[list[CheckpointSummary]]:
    """Yield the path from the first checkpoint to each last one, the latest branch first."""
    parents = {each.parent for each in there.values()}
    for name in sorted(there.keys() - parents, reverse=True):
        path, at, seen = [], there.get(name), set()
        while at is not None and at.name not in seen:  # parents in a changed database may form a circle
            path.append(at)
            seen.add(at.name)
            at = there.get(at.parent or "")
        yield path[::-1]


class Reader:
    """Follows one branch of checkpoints and gathers the runs on it."""

    def __init__(self, thread_id: str, namespace: str) -> None:
        self._key = (thread_id, namespace)
        self._run: RecordedRun | None = None

    def read(self, path: list[CheckpointSummary], followers: Counter[str | None]) -> Iterator[RecordedRun]:
        """Yield the runs of a path, in order."""
        forked = False
        for each in path[:-1]:  # pending writes of the last checkpoint are not part of any state yet
            self._inspect(each, forked=forked)
            forked = followers[each.name] > 1
            yield from self._apply(each.writes)
        self._inspect(path[-1], forked=forked)
        if self._run and self._run.checkpoint_id:
            yield self._run

    def _inspect(self, each: CheckpointSummary, *, forked: bool) -> None:
        """Take over what a checkpoint holds of the state."""
        if not each.readable:
            self._run = self._run or RecordedRun(*self._key)
            self._run.checkpoint_id = each.name
            self._find(f"a checkpoint {each.problem}", here=True)
            return
        if each.waiting or not self._belongs(each):
            return  # the state is still that of the run before, or no run has begun
        run = self._here()
        if each.problem:
            self._find(f"a checkpoint or a value in it {each.problem}", here=True)
        for name, copy in each.copies:
            self._take_copy(name, copy, forked=forked)
        run.checkpoint_id, run.updated, run.values = each.name, each.written, each.values
        counted = run.progress.get("steps", len(run.trace))
        if counted != len(run.trace):
            self._find(f"{counted} steps were counted, and {len(run.trace)} are there", here=True)

    def _belongs(self, each: CheckpointSummary) -> bool:
        """Whether a checkpoint belongs to a run; a run whose first checkpoints are missing has no manifest."""
        if self._run is None and any(name == "manifest" for name, _ in each.copies):
            self._run = RecordedRun(*self._key)
        if self._run is None and each.begun:
            progress = each.values.get("progress")
            if isinstance(progress, dict) and progress.get("run"):
                self._run = RecordedRun(*self._key)
                self._find("the manifest is missing")
        return self._run is not None

    def _here(self) -> RecordedRun:
        assert self._run is not None  # noqa: S101 - the callers have checked it
        return self._run

    def _take_copy(self, name: str, copy: Any, *, forked: bool) -> None:
        """Compare a snapshot with what was written; after a fork, take it as what was written."""
        run = self._here()
        known = getattr(run, name)
        if not isinstance(copy, Copy):
            return  # damaged: reported as a problem of the checkpoint
        # The writes on a checkpoint with several followers are not marked with the branch that they belong to; there
        # only the snapshot says what the state of this branch is.
        if not known or forked:
            setattr(run, name, copy.value())
        elif copy != Copy(known):
            same = [mine == theirs for mine, theirs in zip(run.trace, copy.value(), strict=False)]
            at = same.index(False) if name == "trace" and False in same else None
            run.findings.append(Finding(step=at, problem=f"a copy of the {name} is not what was written"))

    def _apply(self, writes: Iterable[tuple[str, Any]]) -> Iterator[RecordedRun]:
        """Apply what the stages wrote; a manifest begins a new run and ends the one before."""
        for channel, value in writes:
            if channel == "manifest":
                if self._run and self._run.checkpoint_id:
                    yield self._run
                self._run = RecordedRun(*self._key)
                if isinstance(value, Damaged) or not isinstance(value, dict):
                    self._find(f"the manifest {getattr(value, 'problem', 'is no record')}")
                else:
                    self._run.manifest = value
            elif self._run:
                self._append(value)

    def _append(self, value: Any) -> None:
        run = self._here()
        if isinstance(value, Overwrite):
            run.trace = list(value.value)
        elif isinstance(value, list):
            run.trace += value
        else:
            problem = value.problem if isinstance(value, Damaged) else f"is a {type(value).__name__}"
            run.findings.append(Finding(step=len(run.trace), problem=f"its record {problem}"))
            run.trace.append(Damaged(problem))

    def _find(self, problem: str, *, here: bool = False) -> None:
        run = self._here()
        run.findings.append(Finding(step=len(run.trace) if here else None, problem=problem))
