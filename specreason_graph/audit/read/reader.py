"""Reads runs from raw checkpoints in one pass, with no graph and no engine, and trusts nothing that is stored.

Whoever looks at a kept run reads it here: audits, `find_runs`, batches and the command line. So what they see is what
`verify` checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from specreason_graph.audit.read.checkpoint_summary import CONVERSATION, CheckpointSummary, Copy, checkpoint_summaries
from specreason_graph.audit.read.conversation import Said
from specreason_graph.audit.read.recorded import Finding, RecordedRun
from specreason_graph.audit.read.saver import ReadOnly, no_such_thread
from specreason_graph.audit.read.serializer import Damaged, Extension
from specreason_graph.errors import ThreadError

Place = tuple[str, str]
"""Thread id and namespace."""
Summaries = dict[str, CheckpointSummary]
"""Checkpoints of one place, by id."""


def read_runs(checkpointer: BaseCheckpointSaver[Any], thread_id: str) -> list[RecordedRun]:
    """Read all runs of a thread, root and subgraphs, the latest first; raise `ThreadError` when there are none."""
    return gather_runs(ReadOnly(checkpointer).checkpoints(thread_id), thread_id)


async def aread_runs(checkpointer: BaseCheckpointSaver[Any], thread_id: str) -> list[RecordedRun]:
    """Do the same as `read_runs`, for an asynchronous checkpointer."""
    return gather_runs([each async for each in ReadOnly(checkpointer).acheckpoints(thread_id)], thread_id)


def find_recorded(checkpointer: BaseCheckpointSaver[Any], thread_id: str) -> list[RecordedRun]:
    """Do the same as `read_runs`, but return nothing where a thread holds no run."""
    return _readable(list(checkpoint_summaries(ReadOnly(checkpointer).checkpoints(thread_id))), thread_id)


async def afind_recorded(checkpointer: BaseCheckpointSaver[Any], thread_id: str) -> list[RecordedRun]:
    """Do the same as `find_recorded`, for an asynchronous checkpointer."""
    found = [each async for each in ReadOnly(checkpointer).acheckpoints(thread_id)]
    return _readable(list(checkpoint_summaries(found)), thread_id)


def read_all_runs(checkpointer: BaseCheckpointSaver[Any]) -> list[RecordedRun]:
    """Read all runs of all threads, the latest first."""
    return _runs(checkpoint_summaries(ReadOnly(checkpointer).checkpoints()))


def recorded_runs(checkpoints: Iterable[CheckpointTuple]) -> list[RecordedRun]:
    """Gather all runs from checkpoints, given latest first, the latest run first; none where there are none."""
    return _runs(checkpoint_summaries(checkpoints))


def gather_runs(checkpoints: Iterable[CheckpointTuple], thread_id: str) -> list[RecordedRun]:
    """Gather all runs from a thread's checkpoints, given latest first; raise `ThreadError` when there are none."""
    seen = list(checkpoint_summaries(checkpoints))
    if not seen:
        raise no_such_thread(thread_id)
    found = _readable(seen, thread_id)
    if not found:
        hint = "check the thread id: the thread belongs to another graph, or its run has not begun"
        raise ThreadError(f"thread {thread_id!r} holds no run of specreason", hint=hint)
    return found


def _readable(seen: list[CheckpointSummary], thread_id: str) -> list[RecordedRun]:
    """Gather the runs; raise `ThreadError` when they are encrypted."""
    found = _runs(seen)
    problem = next((each.problem for each in seen if each.problem and "crypted" in each.problem), None)
    if problem and not any(run.run or run.manifest for run in found):
        hint = "give the checkpointer LangGraph's EncryptedSerializer with the key it was written with"
        raise ThreadError(f"thread {thread_id!r} {problem}", hint=hint)
    return found


def _runs(seen: Iterable[CheckpointSummary]) -> list[RecordedRun]:
    """Gather the runs of each thread and namespace, the latest first; a run that two branches share is listed once."""
    places: dict[Place, Summaries] = {}
    for each in seen:
        places.setdefault((each.thread, each.namespace), {})[each.name] = each
    found = list[RecordedRun]()
    for place, there in places.items():
        here = _runs_of(place, there)
        for run in here:
            run.abandoned = not run.finished and (_has_later(run, here) or _is_left(run, places))
        found += here
    return sorted(found, key=lambda run: run.checkpoint_id, reverse=True)


def _runs_of(place: Place, there: Summaries) -> list[RecordedRun]:
    """The runs of one place."""
    found: dict[str, RecordedRun] = {}
    followers = _followers(there)
    for path in _branches(there):
        try:
            for run in Reader(place).read(path, followers):
                if path[0].parent in there:
                    run.findings.append(Finding(step=None, problem="its checkpoints follow each other in a circle"))
                found.setdefault(run.checkpoint_id, run)
        except Exception as error:  # whatever is stored there, the other runs are shown
            broken = RecordedRun(*place, checkpoint_id=path[-1].name)
            problem = f"it cannot be read: {str(error) or type(error).__name__}"
            broken.findings.append(Finding(step=None, problem=problem))
            found[path[-1].name] = broken
    _tell_ends(list(found.values()), there)
    return list(found.values())


def _tell_ends(runs: list[RecordedRun], there: Summaries) -> None:
    """Name the ends of a run that has several; unless LangGraph's time travel made them, that is a finding."""
    for run in runs:
        same = [other for other in runs if other.run == run.run and other is not run]
        run.other_ends = tuple(other.checkpoint_id for other in same)
        if run.run and any(_is_torn(run, other, there) for other in same):
            ends = sorted([run.checkpoint_id, *run.other_ends])
            problem = f"the run has {len(ends)} ends, at checkpoints {', '.join(ends)}"
            run.findings.append(Finding(step=None, problem=problem))


def _is_torn(run: RecordedRun, other: RecordedRun, there: Summaries) -> bool:
    """Whether two who worked on the run at once wrote its two ends, or somebody put one there."""
    mine, theirs = (_path_to(each.checkpoint_id, there) for each in (run, other))
    for one, two in zip(mine, theirs, strict=False):
        if one.name != two.name:  # here they part; where what was before is pruned, nobody knows
            return bool(one.parent) and one.parent == two.parent and not (one.branched or two.branched)
    return False


def _followers(there: Summaries) -> dict[str | None, list[CheckpointSummary]]:
    found: dict[str | None, list[CheckpointSummary]] = {}
    for each in there.values():
        found.setdefault(each.parent, []).append(each)
    return found


def _has_later(run: RecordedRun, runs: list[RecordedRun]) -> bool:
    """Whether another run of the same place was begun behind it."""
    return any(other.run != run.run and other.checkpoint_id > run.checkpoint_id for other in runs)


def _is_left(run: RecordedRun, places: dict[Place, Summaries]) -> bool:
    """Whether the graph around it has gone on from the checkpoint at which it was called."""
    here = places[run.thread_id, run.namespace].get(run.checkpoint_id)
    around = places.get((run.thread_id, run.namespace.rpartition("|")[0]), {})
    if here is None or here.around is None:
        return False
    if here.around in around:
        return any(each.parent == here.around for each in around.values())
    return any(name > here.around for name in around)  # with durability "exit" not every checkpoint is kept


def _branches(there: Summaries) -> Iterator[list[CheckpointSummary]]:
    """Yield the path from the first checkpoint to each last one, the latest branch first."""
    parents = {each.parent for each in there.values()}
    circles = there.keys() - _reached(there, there.keys() - parents)
    for name in [*sorted(there.keys() - parents, reverse=True), *sorted(circles, reverse=True)[:1]]:
        yield _path_to(name, there)


def _path_to(name: str, there: Summaries) -> list[CheckpointSummary]:
    """The path from the first checkpoint to one of them."""
    path, at, seen = [], there.get(name), set()
    while at is not None and at.name not in seen:  # parents in a changed database may form a circle
        path.append(at)
        seen.add(at.name)
        at = there.get(at.parent or "")
    return path[::-1]


def _reached(there: Summaries, ends: Iterable[str]) -> set[str]:
    """The checkpoints on the paths to these last ones; a circle has no last one."""
    seen = set[str]()
    for end in ends:
        at = there.get(end)
        while at is not None and at.name not in seen:
            seen.add(at.name)
            at = there.get(at.parent or "")
    return seen


class Reader:
    """Follows one branch of checkpoints and gathers the runs on it."""

    def __init__(self, place: Place) -> None:
        self._key = place
        self._run: RecordedRun | None = None
        self._said = Said()

    def read(
        self, path: list[CheckpointSummary], followers: dict[str | None, list[CheckpointSummary]]
    ) -> Iterator[RecordedRun]:
        """Yield the runs of a path, in order."""
        forked = False
        for each, following in pairwise(path):
            self._inspect(each, forked=forked)
            forked = len(followers[each.name]) > 1
            if each.waiting or not following.waiting:
                self._hear(each.writes)
            if following.waiting:  # the next question: LangGraph drops what was begun before it
                self._note_ahead(each)
            else:
                yield from self._apply(each.writes)
        self._inspect(path[-1], forked=forked)
        self._note_ahead(path[-1])
        if self._run and self._run.checkpoint_id:
            yield self._run

    def _note_ahead(self, each: CheckpointSummary) -> None:
        """Keep the writes behind a run's last checkpoint; those behind a waiting question are of a run to come."""
        if self._run and self._run.checkpoint_id == each.name:
            self._run.ahead = each.writes

    def _inspect(self, each: CheckpointSummary, *, forked: bool) -> None:
        """Take over what a checkpoint holds of the state."""
        if each.said is not None:
            self._said = Said(each.said)
        if not each.readable:
            self._run = self._run or RecordedRun(*self._key)
            self._run.checkpoint_id = each.name
            self._find(f"a checkpoint {each.problem}", here=True)
            return
        if each.waiting:
            self._check_waiting(each)
            return  # the state is still that of the run before
        if not self._belongs(each):
            return  # no run has begun
        run = self._here()
        if each.problem:
            self._find(f"a checkpoint or a value in it {each.problem}", here=True)
        for name, copy in each.copies:
            self._take_copy(name, copy, forked=forked)
        run.checkpoint_id, run.updated, run.values, run.stages = each.name, each.written, each.values, each.stages
        run.said = self._said
        counted = run.progress.get("steps", len(run.trace))
        if counted != len(run.trace):
            self._find(f"{counted} steps were counted, and {len(run.trace)} are there", here=True)

    def _check_waiting(self, each: CheckpointSummary) -> None:
        """Find other values in a checkpoint that only adds the next question: LangGraph would show them."""
        if self._run is None or not self._run.checkpoint_id:
            return
        if each.problem:
            self._find(f"a checkpoint that holds the next question, or a value in it, {each.problem}")
        before = self._run.values
        if changed := [name for name, value in each.values.items() if value != before.get(name)]:
            self._find(f"a checkpoint that holds the next question has another {', '.join(changed)}")

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
        value = copy.value()
        if not isinstance(value, type(known)):
            self._find(f"a copy of the {name} is a {type(value).__name__}")
        # The writes on a checkpoint with several followers are not marked with the branch that they belong to; there
        # only the snapshot says what the state of this branch is.
        elif not known or forked:
            setattr(run, name, value)
        elif copy != Copy(known):
            same = [mine == theirs for mine, theirs in zip(run.trace, value, strict=False)]
            at = same.index(False) if name == "trace" and False in same else None
            run.findings.append(Finding(step=at, problem=f"a copy of the {name} is not what was written"))

    def _hear(self, writes: Iterable[tuple[str, Any]]) -> None:
        """Add what was written to the conversation."""
        for channel, value in writes:
            if channel == CONVERSATION:
                self._said = self._said.and_then(value)

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
            elif channel == "trace" and self._run:
                append(self._run, value)

    def _find(self, problem: str, *, here: bool = False) -> None:
        run = self._here()
        run.findings.append(Finding(step=len(run.trace) if here else None, problem=problem))


def append(run: RecordedRun, value: Any) -> None:
    """Apply one write to the trace, as LangGraph does; what is no list of steps is a finding."""
    replaces = isinstance(value, Extension) and value.is_overwrite
    steps = value.value if replaces else value
    if isinstance(steps, list):
        run.trace = [*([] if replaces else run.trace), *steps]
        return
    problem = value.problem if isinstance(value, Damaged) else f"is a {type(steps).__name__}"
    run.findings.append(Finding(step=len(run.trace), problem=f"its record {problem}"))
    run.trace.append(Damaged(problem))
