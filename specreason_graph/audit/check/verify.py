"""Whether a ledger is whole: every entry as it was written, none missing, moved or put in."""

from __future__ import annotations

from collections.abc import Callable

from specreason_graph.audit.check.schema_check import contradictions, malformed
from specreason_graph.audit.read.recorded import Finding, RecordedRun, check_readable, check_version
from specreason_graph.audit.read.saver import Damaged
from specreason_graph.errors import ThreadError
from specreason_graph.record.ledger import seal_answer, seal_manifest, seal_step
from specreason_graph.record.records import Plain, Record, Signature
from specreason_graph.record.signing import is_signed_by


class Verification(Record):
    """What came of a look at a ledger."""

    thread_id: str
    """The thread."""
    namespace: str
    """Where in it: empty at the root, else the path of the subgraph."""
    run: str
    """Names the run."""
    entries: int
    """Entries of the ledger."""
    head: str | None
    """Hash of the last one; anchor it elsewhere to notice when a whole ledger is exchanged."""
    finished: bool
    """Whether the ledger ends with an answer."""
    signed_by: str | None
    """Public key, raw in hexadecimal, that the head is signed with; None where it is not signed, or not by it."""
    findings: list[Finding]
    """What is wrong; empty when all is as it was written."""

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def verify(
    run: RecordedRun, *, public_key: str | None = None, head: str | None = None, signature: Signature | None = None
) -> Verification:
    """Compute the chain of a run again, from what is stored alone.

    ``public_key``: raw in hexadecimal; a head that is not signed with its private half is a finding. ``head``: the hash
    that was anchored elsewhere. ``signature``: one kept elsewhere, in place of the stored one. Without any of them a
    chain that was rebuilt as a whole, or cut back to an earlier step, cannot be told from a genuine one. Raises
    `ThreadError` for a run without a ledger.
    """
    _check_schema(run)
    findings = [*run.findings, *_broken_links(run), *malformed(run)]
    findings += [Finding(step=None, problem=problem) for problem in contradictions(run)]
    signature = signature or (run.answer.signature if run.result and not findings and run.answer else None)
    key = public_key or (signature.key if signature else None)
    signed = bool(run.head and signature and key and is_signed_by(run.head, signature, key))
    if public_key and not signed:
        why = "with another key, or of another head" if signature else "at all"
        findings.append(Finding(step=None, problem=f"the head is not signed {why}"))
    elif signature and not signed:
        findings.append(Finding(step=None, problem="the signature is not one of this head"))
    if head is not None and head != run.head:
        findings.append(Finding(step=None, problem=f"the head is {run.head}, and {head} was expected"))
    return Verification(
        thread_id=run.thread_id, namespace=run.namespace, run=run.run,
        entries=_count(run), head=run.head, finished=run.finished, signed_by=key if signed else None,
        findings=list(dict.fromkeys(findings)),
    )  # fmt: skip


def _count(run: RecordedRun) -> int:
    """Entries of the ledger, whatever is in them."""
    steps = [step for step in run.trace if isinstance(step, dict)]
    reviews = sum("review" in decision and bool(decision["review"]) for decision in map(_decision, steps))
    lost = sum(bool(step.get("discarded")) + len(_alternatives(step)) for step in steps)
    return 1 + len(run.trace) + lost + reviews + bool(run.result)


def _decision(step: Plain) -> Plain:
    found = step.get("decision")
    return found if isinstance(found, dict) else {}


def _alternatives(step: Plain) -> list[Plain]:
    found = step.get("alternatives")
    return found if isinstance(found, list) else []


def check_whole(run: RecordedRun) -> RecordedRun:
    """The run, unless it is damaged or not as it was written: `ThreadError`. One without a ledger need only be read."""
    check_readable(run)
    found = verify(run).findings if has_ledger(run) else []
    if found:
        raise ThreadError(
            f"run {run.run!r} in thread {run.thread_id!r} is not as it was written: {found[0].problem}",
            hint="verify shows all that was found",
        )
    return run


def has_ledger(run: RecordedRun) -> bool:
    """Whether any record carries a hash, or should: those of schema version 1 have none."""
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
    """Entries whose hash is not the one of what is stored behind the hash before."""
    findings = []
    head = run.manifest.get("hash")
    if head is None or seal_manifest(run.manifest)["hash"] != head:
        findings.append(Finding(step=None, problem="the manifest is not what was written"))
    for position, step in enumerate(run.trace):
        if isinstance(step, Damaged):
            head = None  # told already; what follows cannot be tied to it
            continue
        problem = _of_step(step, position, head)
        findings += [Finding(step=position, problem=problem)] if problem else []
        head = step.get("hash") if isinstance(step, dict) else None
    if run.result and head and not _holds(lambda: seal_answer(run.result, str(run.stop_reason), head), run.result):
        findings.append(Finding(step=None, problem="the answer is not what was written, or not behind this last step"))
    return findings


def _of_step(step: object, position: int, head: str | None) -> str | None:
    """What is wrong with a step that should stand at ``position`` behind ``head``."""
    if not isinstance(step, dict):
        return f"is a {type(step).__name__} and no step"
    if step.get("index") != position:
        return f"is called step {step.get('index')}: entries are missing, moved or put in"
    if head is None:
        return None if step.get("hash") else "has no hash"
    if not _holds(lambda: seal_step(step, head), step):
        return "is not what was written, or not behind the entry before"
    return None


def _holds(sealed: Callable[[], Plain], stored: Plain) -> bool:
    """Whether what is stored has the hash it should have; what lacks the form of a record has not."""
    try:
        return stored.get("hash") is not None and sealed()["hash"] == stored["hash"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
