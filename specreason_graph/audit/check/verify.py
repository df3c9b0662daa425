"""Verification of a ledger: every entry is as it was written, and none was deleted, moved or inserted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pydantic import Field

from specreason_graph.audit.check.anchor import Anchor, check_anchor
from specreason_graph.audit.check.schema_check import malformed
from specreason_graph.audit.check.state_check import contradictions, unfounded, with_writes_ahead
from specreason_graph.audit.read.recorded import Finding, RecordedRun, check_readable, check_version
from specreason_graph.audit.read.serializer import Damaged
from specreason_graph.errors import RecordError, ThreadError
from specreason_graph.record.records import Plain, Record, Signature
from specreason_graph.record.seal import seal_answer, seal_manifest, seal_step
from specreason_graph.record.signing import is_signed_by

NOT_COVERED = (
    "a ledger that was rebuilt as a whole, cut back to an earlier step, or stripped of its signature: keep the head or "
    "an anchor elsewhere, or name the key",
    "a run that was removed with all its checkpoints, or put there as a whole: count them elsewhere",
    "the thread, namespace and checkpoint ids that a run is kept under, and the times of its checkpoints",
    "a step before it is committed: the proposal, score, review and lateness of the step in flight",
    "checkpoints before the last one of a run, which LangGraph's time travel reads, but for the manifest and the steps "
    "written there; and the write that empties the steps before the first of them",
    "metadata, versions of channels, and tasks and numbers of writes, which only LangGraph reads; channels of other "
    "graphs",
    "messages of a thread whose run has not begun: its manifest will hold what it was asked; and what is no JSON, "
    "empty, or there twice in one",
    "the order of keys in a record, and 0.0 against -0.0, which are the same in canonical JSON",
    "how a run was launched (table specreason_runs), beyond what its manifest says",
)
"""What `verify` cannot find; the documents list the same."""


class Verification(Record):
    """The result of verifying a ledger."""

    thread_id: str
    """Thread of the run."""
    namespace: str
    """Checkpoint namespace: empty at the root, else the path of the subgraph."""
    run: str
    """Name of the run."""
    entries: int
    """Number of entries in the ledger."""
    head: str | None
    """Hash of the last entry; keep it elsewhere to notice when the whole ledger is replaced."""
    finished: bool
    """Whether the ledger ends with an answer."""
    signed_by: str | None
    """Public key, raw in hexadecimal, whose signature of the head is valid; None without a valid signature."""
    changes: list[Finding]
    """Steps from which on the run went on with other engines or prompts, at its caller's word; these are sealed."""
    other_ends: list[str]
    """Last checkpoints of other branches of the run."""
    findings: list[Finding]
    """What is wrong; empty when everything is as it was written."""
    not_covered: list[str] = Field(default_factory=lambda: list(NOT_COVERED))
    """What a verification cannot find, whatever it says."""

    @property
    def ok(self) -> bool:
        """Whether there are no findings."""
        return not self.findings


def verify(
    run: RecordedRun, *, public_key: str | None = None, head: str | None = None, signature: Signature | None = None,
    anchor: Anchor | None = None,
) -> Verification:  # fmt: skip
    """Recompute the hash chain of a run from the stored records, and report what does not fit.

    ``public_key``: raw in hexadecimal; a head without a valid signature of this key is a finding. ``head``: a head hash
    that was kept elsewhere. ``signature``: one that was kept elsewhere, used instead of the stored one. ``anchor``: the
    heads of runs at an earlier time; a ledger that does not go on from there is a finding. Without these four, a chain
    that somebody rebuilt as a whole, or cut back to an earlier step, looks genuine. Raises `ThreadError` for a run
    without a ledger.
    """
    _check_schema(run)
    findings = _findings(run)
    # The stored answer is only read as a record after the checks above: it may be anything.
    signature = signature or (run.answer.signature if run.result and not findings and run.answer else None)
    key = public_key or (signature.key if signature else None)
    signed = bool(run.head and signature and key and is_signed_by(run.head, signature, key))
    if public_key and not signed:
        why = "by this key, or is of another head" if signature else "at all"
        findings.append(Finding(step=None, problem=f"the head is not signed {why}"))
    elif signature and not signed:
        findings.append(Finding(step=None, problem="the signature is not one of this head"))
    if head is not None and head != run.head:
        findings.append(Finding(step=None, problem=f"the head is {run.head}, and {head} was expected"))
    if anchor is not None:
        findings += check_anchor(run, anchor)
    return Verification(
        thread_id=run.thread_id, namespace=run.namespace, run=run.run,
        entries=_count(run), head=run.head, finished=run.finished, signed_by=key if signed else None,
        changes=[] if findings else list(_changes(run)), other_ends=list(run.other_ends),
        findings=list(dict.fromkeys(findings)),
    )  # fmt: skip


def _findings(run: RecordedRun) -> list[Finding]:
    """All that is not as it was written, the writes behind the last checkpoint included."""
    try:
        findings = [*run.findings, *_broken_links(run), *malformed(run)]
        findings += _beside(run, readable=not findings)
    except Exception as error:  # whatever a database holds: what cannot be checked is a finding
        why = f"it cannot be checked: {str(error) or type(error).__name__}"
        return [*run.findings, Finding(step=None, problem=why)]
    if not run.ahead or findings:
        return findings
    if run.finished:
        written = ", ".join(sorted({channel for channel, _ in run.ahead}))
        return [Finding(step=None, problem=f"something was written behind its end: {written}")]
    where = "what was begun behind its last checkpoint"
    return [
        each.model_copy(update={"problem": f"{where}: {each.problem}"}) for each in _findings(with_writes_ahead(run))
    ]


def _beside(run: RecordedRun, *, readable: bool) -> list[Finding]:
    problems = list(contradictions(run))
    if not problems and readable:  # else it cannot be computed, or follows from what is found already
        problems = list(unfounded(run))
    return [Finding(step=None, problem=problem) for problem in problems]


def _changes(run: RecordedRun) -> Iterator[Finding]:
    """The steps from which on another set-up was in force, and what was different."""
    before = run.typed_manifest.setup
    changed = [(step.index, step.change) for step in run.steps if step.change]
    changed += [(len(run.steps), run.answer.change)] if run.answer and run.answer.change else []
    for index, setup in changed:
        yield Finding(step=index, problem="; ".join(before.differences(setup)))
        before = setup


def _count(run: RecordedRun) -> int:
    """Count the entries of a ledger, whose records may be damaged."""
    steps = [step for step in run.trace if isinstance(step, dict)]
    reviews = sum("review" in decision and bool(decision["review"]) for decision in map(_decision, steps))
    discarded = sum(bool(step.get("discarded")) + len(_alternatives(step)) for step in steps)
    return 1 + len(run.trace) + discarded + reviews + bool(run.result)


def _decision(step: Plain) -> Plain:
    found = step.get("decision")
    return found if isinstance(found, dict) else {}


def _alternatives(step: Plain) -> list[Plain]:
    found = step.get("alternatives")
    return found if isinstance(found, list) else []


def check_whole(run: RecordedRun) -> RecordedRun:
    """Return the run, or raise `ThreadError` when it is damaged or not as it was written.

    A run without a ledger only has to be readable.
    """
    check_readable(run)
    found = verify(run).findings if has_ledger(run) else []
    if found:
        raise RecordError(
            f"run {run.run!r} in thread {run.thread_id!r} is not as it was written: {found[0].problem}",
            hint="verify shows all that was found",
        )
    return run


def has_ledger(run: RecordedRun) -> bool:
    """Whether the run has a ledger: all runs have one, except those of schema version 1."""
    # A manifest that was changed to say version 1 would switch verification off: hashes in its records show that.
    records = [run.manifest, run.result, *(step for step in run.trace if isinstance(step, dict))]
    return run.manifest.get("schema_version") != 1 or any(record.get("hash") for record in records)


def _check_schema(run: RecordedRun) -> None:
    if not has_ledger(run):
        raise ThreadError(
            f"run {run.run!r} was made with schema version 1, package {run.manifest.get('package_version')}: "
            "it has no ledger that could be verified",
            hint="show, replay and report read it",
        )
    check_version(run)


def _broken_links(run: RecordedRun) -> list[Finding]:
    """Find the entries whose hash does not follow from their content and the hash before."""
    findings = []
    head = run.manifest.get("hash")
    if head is None or not _holds(lambda: seal_manifest(run.manifest), run.manifest):
        findings.append(Finding(step=None, problem="the manifest is not what was written"))
    for position, step in enumerate(run.trace):
        if isinstance(step, Damaged):
            head = None  # a finding of the reader already; the next entry cannot be checked against its hash
            continue
        problem = _of_step(step, position, head)
        findings += [Finding(step=position, problem=problem)] if problem else []
        head = step.get("hash") if isinstance(step, dict) else None
    if run.result and head and not _holds(lambda: seal_answer(run.result, str(run.stop_reason), head), run.result):
        problem = "the answer is not what was written, or does not follow the last step"
        findings.append(Finding(step=None, problem=problem))
    return findings


def _of_step(step: object, position: int, head: str | None) -> str | None:
    """Return what is wrong with the step at ``position``, whose entry follows the hash ``head``; None if nothing is."""
    if not isinstance(step, dict):
        return f"is a {type(step).__name__} and not a step"
    if step.get("index") != position:
        return f"is called step {step.get('index')}: entries are missing, moved or inserted"
    if head is None:
        return None if step.get("hash") else "has no hash"
    if not _holds(lambda: seal_step(step, head), step):
        return "is not what was written, or does not follow the entry before"
    return None


def _holds(sealed: Callable[[], Plain], stored: Plain) -> bool:
    """Whether a stored record has the hash that it should have; a record that cannot be sealed has not."""
    try:
        return stored.get("hash") is not None and sealed()["hash"] == stored["hash"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
