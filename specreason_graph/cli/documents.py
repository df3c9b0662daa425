"""What commands print with ``--json``: one model a document, from which its JSON Schema is made.

``docs/make_schemas.py`` writes the schemas to ``docs/schemas``. Keys are those of `vocabulary`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, RootModel, computed_field

from specreason_graph.audit.ask.advice import Advice, advise
from specreason_graph.audit.ask.diff import ComparedSteps, Side
from specreason_graph.audit.ask.sampled import Unasked
from specreason_graph.audit.ask.thresholds import Point, Suggestion
from specreason_graph.audit.ask.whatif import WhatIf
from specreason_graph.audit.check.recompute import Replay
from specreason_graph.audit.check.rerun import Rerun
from specreason_graph.audit.check.rescore import Rescored
from specreason_graph.audit.check.verify import Verification, check_whole
from specreason_graph.audit.keep.prune import Pruned
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.cli.diagnosis import CheckResult
from specreason_graph.cli.terminal import echo_json, visible
from specreason_graph.cli.vocabulary import with_keys
from specreason_graph.errors import ThreadError
from specreason_graph.record.base import Sparse
from specreason_graph.record.manifest import EngineDescription, Lineage
from specreason_graph.record.records import Answer, Engine, Plain, Record, Step, StopReason
from specreason_graph.record.summary import Summary, summarise
from specreason_graph.runs.base_alone import BaseAlone

Share = Annotated[float, Field(ge=0, le=1)]


class RunUsage(Summary):
    """What a run took."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def acceptance(self) -> float:
        """Share of the proposals that were accepted; 0 when there were none."""
        return super().acceptance

    @computed_field  # type: ignore[prop-decorator]
    @property
    def seconds(self) -> float:
        """Seconds spent in engine calls."""
        return super().seconds


class Gain(Advice):
    """Seconds of a run's steps against the base alone; all but its own seconds are estimates."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def gain(self) -> float:
        """Seconds of the base alone for each second of the run; above 1 speculation was faster."""
        return super().gain


class RunDocument(Record):
    """One run with all its evidence: `solve`, `resume`, `audit fork`, `runs show`."""

    thread: str
    """Thread id, by which the run is resumed and audited."""
    question: str
    """What it thinks about."""
    answer: str | None
    """The text for the user; null while the run is not finished."""
    stop_reason: StopReason | None
    """Why the thinking ended; null while the run is not finished."""
    steps: list[Step]
    """The committed steps, in order."""
    result: Answer | None
    """The answer with its evidence."""
    usage: RunUsage
    """What the run took."""
    advice: Gain | None
    """What speculation gained or lost; null where the record does not tell."""
    base_alone: BaseAlone | None = None
    """What the base model took by itself; null unless ``solve --with-base`` asked it."""
    engines: dict[Engine, EngineDescription]
    """The engines that worked."""
    config: dict[str, Any]
    """The settings in force, fields of `SpecReasonConfig`."""


class BatchDocument(RunDocument):
    """One run of many: a line of ``solve -f FILE.jsonl --json``."""

    id: str | int
    """Names the question in its file."""
    error: str | None = None
    """Why it is not finished; null when it is."""


class BatchLine(Sparse):
    """One run of many in short: a line of ``solve -f FILE.jsonl``, and with ``--json`` of a run that never began."""

    without_empty: ClassVar = ("answer", "stop_reason", "error")
    id: str | int
    """Names the question in its file."""
    thread: str
    """Thread id of its run."""
    question: str
    """What it thinks about."""
    answer: str | None = None
    """The text for the user; left out where the run has failed."""
    stop_reason: StopReason | None = None
    """Why the thinking ended; left out where the run has failed by no fault of an engine."""
    error: str | None = None
    """Why it is not finished; left out when it is."""
    step_count: int
    """Committed steps."""
    acceptance: Share
    """Share of the proposals that were accepted."""
    token_count: int
    """Tokens that both engines wrote, thrown-away ones included."""
    seconds: float
    """Seconds spent in engine calls."""


class RunRow(Record):
    """What is told of a run in a list: `audit list`, `runs list`, `audit show`."""

    thread: str
    """Thread id."""
    namespace: str
    """Where in the thread: empty at its root, else the path of the subgraph."""
    run: str
    """Name of the run; empty where none has begun."""
    checkpoint: str
    """The run's last checkpoint."""
    updated: str
    """When that was written, ISO 8601; empty where there is none."""
    problem: str | None
    """What is wrong with its record, of which nothing more is told then."""
    state: Literal["finished", "unfinished", "abandoned", "not_begun", "damaged"]
    """How far it is."""
    question: str | None = None
    """What it thinks about."""
    step_count: int | None = None
    """Committed steps."""
    stop_reason: StopReason | None = None
    """Why the thinking ended; null while the run is not finished."""
    head: str | None = None
    """Hash of its last entry."""
    forked_from: Lineage | None = None
    """Where it was forked; null for a run that was begun anew."""


class ShownRun(RunRow):
    """One run as it is recorded: `audit show`."""

    manifest: dict[str, Any]
    """What was decided before the first step."""
    steps: list[dict[str, Any]]
    """The committed steps as they are stored."""
    answer: str | None
    """The text for the user; null while the run is not finished."""
    values: dict[str, Any]
    """The other channels of the run's state, as they are stored."""


class AnchoredFinding(Record):
    """A run that an anchor names: a row of ``audit verify --anchor``."""

    thread: str
    """Thread id."""
    namespace: str
    """Where in the thread."""
    run: str
    """Name of the run."""
    ok: bool
    """Whether it goes on from where it was anchored."""
    problems: list[str]
    """What is wrong."""


class Verified(Verification):
    """Whether a record is as it was written: `audit verify`."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return super().ok


class ComparedRuns(Record):
    """Two runs side by side: `audit diff`."""

    same: bool
    """Whether both are the same to the last token."""
    first_divergence: int | None
    """Position of the first step that differs; null where none does."""
    first: Side
    """The first run."""
    second: Side
    """The second run."""
    rows: list[ComparedSteps]
    """The steps of both, side by side, as positions."""


class Recomputed(Replay):
    """Decisions computed again from the record: ``audit replay``."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ok(self) -> bool:
        """Whether all came out as recorded."""
        return super().ok


class RescoredRun(Record):
    """Steps that the base has scored again: ``audit replay --how rescore``."""

    scores: list[Rescored]
    """What came out, step by step."""
    drift: float
    """Largest change of a number."""
    flipped_steps: list[int]
    """Positions of the steps whose decision would change."""
    changed_engines: list[Engine]
    """Engines that are not the recorded ones."""


class RerunRun(Rerun):
    """A run that was done again: ``audit replay --how regenerate``."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ok(self) -> bool:
        """Whether it came out the same."""
        return super().ok


class OtherPolicy(WhatIf):
    """What another policy would have decided: ``audit whatif THREAD``."""

    unasked: Unasked | None = None
    """What is known of the steps that a sampling judge was not asked about."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def first_divergence(self) -> int | None:
        """Position of the first step that would change; null where none would."""
        return super().first_divergence


class Written(Record):
    """A file that was written: `audit report`."""

    written: str
    """Its path."""
    ok: bool
    """Whether all runs in it are as they were written."""


class Removed(Record):
    """Runs that were removed: `runs rm`."""

    threads: list[str]
    """Thread ids."""
    dry_run: bool
    """Whether nothing was changed."""


class Place(Record):
    """Where runs are kept: `runs path`."""

    database: str
    """Path of the SQLite file."""
    exists: bool
    """Whether it is there."""


class SettingRow(Record):
    """One setting: `settings`."""

    name: str
    """Its name, as behind ``--set``."""
    default: Any
    """Its value where nobody sets it."""
    meaning: str
    """What it means."""


class Checks(RootModel[list[CheckResult]]):
    """What `doctor` found, in order."""


class RunRows(RootModel[list[RunRow]]):
    """Runs, the latest first: `audit list`, `runs list`."""


class AnchoredFindings(RootModel[list[AnchoredFinding]]):
    """The runs of an anchor: ``audit verify --anchor``."""


class Curve(RootModel[list[Point]]):
    """Acceptance by threshold, over all runs: ``audit whatif``."""


class SettingRows(RootModel[list[SettingRow]]):
    """All settings of a run: `settings`."""


def run_document(thread: str, values: Plain) -> RunDocument:
    """All that is known of a run, for programs; ``values`` is its last checkpointed state."""
    return RunDocument(**_fields(thread, values))


def batch_document(name: str | int, thread: str, values: Plain, error: str | None = None) -> BatchDocument:
    """The same of one run of many."""
    return BatchDocument(id=name, error=error, **_fields(thread, values))


def _fields(thread: str, values: Plain) -> dict[str, Any]:
    manifest, result = values["manifest"], values["result"]
    steps, answer = [Step.load(step) for step in values["trace"]], Answer.load(result) if result else None
    summary, advice = summarise(steps, answer), advise(recorded(thread, values))
    return {
        "thread": thread, "question": manifest["question"], "answer": values["answer"] or None,
        "stop_reason": values["stop_reason"] or None, "steps": steps, "result": answer,
        "usage": RunUsage(**dict(summary)),
        "advice": Gain(**dict(advice)) if advice else None,
        "engines": {role: EngineDescription.load(each) for role, each in manifest["engines"].items()},
        "config": manifest["config"],
    }  # fmt: skip


def recorded(thread: str, values: Plain) -> RecordedRun:
    """A run as the audit sees it; ``values`` is its last checkpointed state."""
    return RecordedRun(thread, "", manifest=values.get("manifest", {}), trace=values.get("trace", []), values=values)


def run_row(run: RecordedRun, problem: str | None = None) -> dict[str, Any]:
    """What is told of a run in a list, as `RunRow`; of one that is not as it was written only where it is, and why.

    It is not made a `RunRow`: whoever wrote the database may have put anything there, and the other runs are listed.
    """
    row = dict.fromkeys(RunRow.model_fields) | {
        "thread": run.thread_id, "namespace": run.namespace, "run": run.run, "checkpoint": run.checkpoint_id,
        "updated": run.updated, "problem": problem, "state": "damaged",
    }  # fmt: skip
    if problem:
        return row
    return row | {
        "state": "finished" if run.stop_reason else "abandoned" if run.abandoned else "unfinished",
        "question": run.question, "step_count": len(run.trace), "stop_reason": run.stop_reason, "head": run.head,
        "forked_from": run.manifest.get("forked_from"),
    }  # fmt: skip


def waiting_row(thread: str, question: str) -> dict[str, Any]:
    """What is told of a run that was kept and has not begun."""
    blank = dict.fromkeys(("namespace", "run", "checkpoint", "updated"), "")
    return dict.fromkeys(RunRow.model_fields) | blank | {
        "thread": thread, "state": "not_begun", "question": question, "step_count": 0
    }  # fmt: skip


def shown_run(run: RecordedRun) -> dict[str, Any]:
    """A run as it is recorded, as `ShownRun`, likewise."""
    answer = run.answer.text if run.answer else None
    stored = {"manifest": run.manifest, "steps": run.trace, "answer": answer, "values": run.values}
    return {**run_row(run), **stored}


def problem_of(run: RecordedRun) -> str | None:
    """What is wrong with a record; None where nothing is, or where it has no ledger."""
    try:
        check_whole(run)
    except ThreadError as error:
        return visible(str(error).partition("; ")[0])
    return None


def say(document: BaseModel) -> None:
    """Print a document."""
    echo_json(told(document))


def told(document: BaseModel) -> Any:
    """A document as JSON values."""
    if isinstance(document, RootModel):
        return [with_keys(each) for each in document.root]
    return with_keys(document)


DOCUMENTS: dict[str, type[BaseModel]] = {
    "solve": RunDocument, "solve-many": BatchLine, "solve-many-json": BatchDocument, "doctor": Checks,
    "settings": SettingRows, "runs-list": RunRows, "runs-rm": Removed, "runs-path": Place, "audit-list": RunRows,
    "audit-show": ShownRun, "audit-verify": Verified, "audit-verify-anchor": AnchoredFindings,
    "audit-diff": ComparedRuns, "audit-replay-recorded": Recomputed, "audit-replay-rescore": RescoredRun,
    "audit-replay-regenerate": RerunRun, "audit-whatif": OtherPolicy, "audit-whatif-curve": Curve,
    "audit-whatif-target": Suggestion, "audit-report": Written, "audit-prune": Pruned,
}  # fmt: skip
"""Documents by the name of their schema."""
