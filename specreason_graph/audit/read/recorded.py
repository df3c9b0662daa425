"""A recorded run: the plain records that a thread holds, and what is damaged in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from pydantic import ValidationError

from specreason_graph.audit.read.conversation import Said
from specreason_graph.audit.read.serializer import Damaged
from specreason_graph.errors import RecordError, ThreadError
from specreason_graph.record.manifest import Manifest
from specreason_graph.record.records import SCHEMA_VERSION, Answer, Plain, Record, Step, StopReason
from specreason_graph.record.seal import hash_of_messages


class Finding(Record):
    """One problem of a record: it is not as it was written, or does not follow from the evidence."""

    step: int | None
    """Position of the step, from 0; None for a problem of the whole run."""
    problem: str
    """What is wrong."""


@dataclass
class RecordedRun:
    """One run as it was checkpointed; `findings` lists what could not be read."""

    thread_id: str
    """Thread of the run."""
    namespace: str
    """Checkpoint namespace: empty at the root, else the path of the subgraph."""
    checkpoint_id: str = ""
    """Id of the run's last checkpoint."""
    updated: str = ""
    """When that checkpoint was written, ISO 8601."""
    manifest: Plain = field(default_factory=dict)
    """The manifest, as `Manifest` dumps it: question, settings, engines and versions."""
    trace: list[Plain] = field(default_factory=list)
    """The committed steps, as `Step` dumps them; a damaged one is `Damaged`."""
    values: Plain = field(default_factory=dict)
    """The last values of the other channels."""
    findings: list[Finding] = field(default_factory=list)
    """What is damaged."""
    stages: tuple[str, ...] = ()
    """The stages that LangGraph would go on with."""
    said: Said = field(default=Said(), compare=False)
    """The conversation of the thread."""
    ahead: tuple[tuple[str, Any], ...] = field(default=(), compare=False)
    """Writes behind the last checkpoint, which are part of no state yet: channel and value, in order."""
    abandoned: bool = field(default=False, compare=False)
    """Whether it has no answer and will never have one: the graph around it, or a later run, has gone on."""
    other_ends: tuple[str, ...] = field(default=(), compare=False)
    """Last checkpoints of other branches of the same run."""

    @property
    def run(self) -> str:
        """Name of the run; empty where it cannot be read."""
        return str(self.manifest.get("run") or self.progress.get("run") or "")

    @property
    def progress(self) -> Plain:
        """The running totals."""
        return _plain(self.values.get("progress"))

    @property
    def question(self) -> str:
        """The question that the run thinks about."""
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
        """Whether the run has an answer."""
        return bool(self.result)

    @property
    def head(self) -> str | None:
        """The stored hash of the ledger's last entry; None where there is none."""
        found = _plain(self.result or (self.trace[-1] if self.trace else self.manifest)).get("hash")
        return found if isinstance(found, str) else None

    @cached_property
    def conversation(self) -> str | None:
        """SHA-256 of the messages that the thread keeps, as the next run reads them; None where they are unreadable."""
        try:
            return hash_of_messages(self.said.messages())
        except Exception:  # LangChain looks into messages unchecked
            return None

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
    """Return the run whose name or last checkpoint starts with ``name``, or the only run.

    Raises `ThreadError` when that is not one run. The ends of a run with several branches are told by checkpoint.
    """
    found = [run for run in runs if name is None or run.run.startswith(name) or run.checkpoint_id.startswith(name)]
    if len(found) == 1:
        return found[0]
    same = len({run.run for run in found}) == 1
    listed = ", ".join(run.checkpoint_id if run.other_ends else run.run[:12] for run in found or runs)
    if not found:
        raise ThreadError(f"no run {name!r} in thread {runs[0].thread_id!r}; its runs: {listed}")
    held = f"run {found[0].run[:12]} with {len(found)} ends" if same else f"{len(found)} runs"
    raise ThreadError(f"thread {runs[0].thread_id!r} holds {held}", hint=f"choose with --run one of {listed}")


def check_readable(run: RecordedRun) -> RecordedRun:
    """Return the run; `RecordError` when it is damaged, `ThreadError` when a later version of this package made it."""
    check_version(run)
    if run.findings:
        first = run.findings[0]
        where = "" if first.step is None else f"step {first.step + 1}: "
        raise RecordError(f"the record of run {run.run!r} is damaged: {where}{first.problem}", hint="verify it first")
    if run.finished and run.ahead:
        written = ", ".join(sorted({channel for channel, _ in run.ahead}))
        raise RecordError(f"run {run.run!r} is not as it was written: {written} behind its end", hint="verify it first")
    try:  # these properties read the records as models, and keep the result for later
        _ = run.typed_manifest, run.steps, run.answer
    except ValidationError as error:
        problem = first_problem(error)
        raise RecordError(f"a record of run {run.run!r} cannot be read: {problem}", hint="verify it first") from None
    return run


def check_version(run: RecordedRun) -> None:
    """Raise `ThreadError` for a run that was made by a later version of this package."""
    version = run.manifest.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        hint = "update specreason-graph"
        raise ThreadError(f"run {run.run!r} has schema version {version}, and {SCHEMA_VERSION} is known", hint=hint)


def first_problem(error: ValidationError) -> str:
    """Return the first problem that pydantic found, in a few words."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _plain(value: Any) -> Plain:
    """Return the value if it is a record that can be read, else an empty one."""
    return value if isinstance(value, dict) and not isinstance(value, Damaged) else {}
