"""Anchors: the heads of runs, kept outside the database, so that a rebuilt or shortened ledger is found.

An anchor is a small JSON file. A time stamp of it (RFC 3161) by an authority shows that the runs were so at that time;
asking for one and checking it needs the extra ``signing``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec

from pydantic import ValidationError

from specreason_graph.audit.read.recorded import Finding, RecordedRun, first_problem
from specreason_graph.errors import ConfigError, UsageError
from specreason_graph.record.records import Record
from specreason_graph.record.seal import entries

VERSION = 1


class AnchoredRun(Record):
    """How far one run had come."""

    thread_id: str
    """Thread of the run."""
    namespace: str
    """Checkpoint namespace: empty at the root, else the path of the subgraph."""
    run: str
    """Name of the run."""
    entries: int
    """How many entries its ledger had."""
    head: str
    """Hash of the last of them."""


class Anchor(Record):
    """The heads of some runs at one time."""

    version: int = VERSION
    """Version of this form."""
    made: str
    """When it was made, ISO 8601, UTC, by the clock of whoever made it."""
    runs: list[AnchoredRun]
    """The runs."""


def make_anchor(runs: Sequence[RecordedRun]) -> Anchor:
    """Anchor runs that were verified; those without a ledger are left out."""
    anchored = []
    for run in runs:
        hashes = _hashes(run)
        if run.head is not None:
            place = {"thread_id": run.thread_id, "namespace": run.namespace, "run": run.run}
            anchored.append(AnchoredRun(**place, entries=len(hashes), head=hashes[-1]))
    return Anchor(made=datetime.now(UTC).isoformat(timespec="seconds"), runs=anchored)


def read_anchor(content: bytes, source: str) -> Anchor:
    """Read an anchor from its file; raise `UsageError` for anything else."""
    try:
        anchor = Anchor.model_validate_json(content)
    except ValidationError as error:
        raise UsageError(f"{source} is no anchor: {first_problem(error)}", hint="make one with audit anchor") from None
    if anchor.version > VERSION:
        raise UsageError(f"{source} has version {anchor.version}, and {VERSION} is known", hint="update the package")
    return anchor


def check_anchor(run: RecordedRun, anchor: Anchor) -> Iterator[Finding]:
    """Find where the ledger of a run is not the continuation of what was anchored of it."""
    place = (run.thread_id, run.namespace, run.run)
    mine = [each for each in anchor.runs if (each.thread_id, each.namespace, each.run) == place]
    if not mine:
        yield Finding(step=None, problem=f"the anchor of {anchor.made} does not name run {run.run!r} of this thread")
        return
    hashes = _hashes(run)
    for each in mine:
        if hashes[each.entries - 1 : each.entries] != [each.head]:
            problem = f"entry {each.entries} of {len(hashes)} is not the one that was anchored at {anchor.made}"
            yield Finding(step=None, problem=problem)


def timestamp_request(content: bytes) -> bytes:
    """The RFC 3161 request, in DER, for a time stamp of an anchor's file; send it to a time stamping authority."""
    _require()
    from rfc3161_client import TimestampRequestBuilder

    return TimestampRequestBuilder().data(content).build().as_bytes()


def check_timestamp(content: bytes, response: bytes, root: bytes) -> datetime:
    """When an authority stamped an anchor's file; `UsageError` where its answer is not one for this file.

    ``response``: the authority's answer in DER. ``root``: PEM certificate of the authority's root, which you trust.
    """
    _require()
    from cryptography.x509 import load_pem_x509_certificate
    from rfc3161_client import VerificationError, VerifierBuilder, decode_timestamp_response

    try:
        answer = decode_timestamp_response(response)
        trusted = VerifierBuilder().add_root_certificate(load_pem_x509_certificate(root)).build()
        trusted.verify_message(answer, content)
    except (VerificationError, ValueError) as error:
        raise UsageError(f"the time stamp is not one of this anchor: {error}", hint="check anchor and root") from None
    return answer.tst_info.gen_time


def _hashes(run: RecordedRun) -> list[str]:
    """The hashes of a ledger's entries, as they follow from the records; none where they cannot be computed."""
    try:
        return [entry.hash for entry in entries(run.manifest, run.trace, run.result, run.stop_reason)]
    except (KeyError, TypeError, ValueError, AttributeError):
        return []


def _require() -> None:
    if find_spec("rfc3161_client") is None:
        hint = 'install it with pip install "specreason-graph[signing]"'
        raise ConfigError("time stamps need rfc3161-client", hint=hint)
