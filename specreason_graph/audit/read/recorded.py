"""What a thread holds of a run: plain records, with what is damaged in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from pydantic import ValidationError

from specreason_graph.audit.read.saver import Damaged
from specreason_graph.errors import ThreadError
from specreason_graph.record.manifest import Manifest
from specreason_graph.record.records import SCHEMA_VERSION, Answer, Record, Step, StopReason

Plain = dict[str, Any]


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
        return str(self.manifest.get("run") or self.progress.get("run") or "")

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
    check_version(run)
    if run.findings:
        first = run.findings[0]
        where = "" if first.step is None else f"step {first.step + 1}: "
        raise ThreadError(f"the record of run {run.run!r} is damaged: {where}{first.problem}", hint="verify it first")
    try:
        _ = run.typed_manifest, run.steps, run.answer
    except ValidationError as error:
        problem = first_problem(error)
        raise ThreadError(f"a record of run {run.run!r} cannot be read: {problem}", hint="verify it first") from None
    return run


def check_version(run: RecordedRun) -> None:
    """`ThreadError` for a run that a package to come has made."""
    version = run.manifest.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        hint = "update specreason-graph"
        raise ThreadError(f"run {run.run!r} has schema version {version}, and {SCHEMA_VERSION} is known", hint=hint)


def first_problem(error: ValidationError) -> str:
    """The first thing that a record lacks, in a few words."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _plain(value: Any) -> Plain:
    """A record, or nothing where there is none that can be read."""
    return value if isinstance(value, dict) and not isinstance(value, Damaged) else {}
