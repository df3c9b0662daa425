"""Checks that stored records have the fields and types that this package writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from specreason_graph.audit.read.recorded import Finding, RecordedRun, first_problem
from specreason_graph.audit.read.saver import Damaged
from specreason_graph.record.manifest import FORMER_SETTINGS, Manifest
from specreason_graph.record.records import Answer, Plain, Record, Step

RENAMED_IN = 4
"""Schema version in which fields were renamed."""
FORMER_NAMES = FORMER_SETTINGS | {
    "lost": "wasted", "room": "tokens_left", "drafted": "drafting", "alone": "base_only", "trial": "probe",
}  # fmt: skip
"""Names of fields before that version, and what they are called now."""


def malformed(run: RecordedRun) -> Iterator[Finding]:
    """Find records with fields that are missing, unknown or of another type.

    Records of schema version 3 and before are compared under the field names of now.
    """
    # The hashes do not cover this: in canonical JSON, 5 and 5.0 are the same.
    version = run.manifest.get("schema_version")
    old = isinstance(version, int) and version < RENAMED_IN
    parts: list[tuple[int | None, str, type[Record], Any]] = [(None, "the manifest", Manifest, run.manifest)]
    parts += [(position, "the record", Step, step) for position, step in enumerate(run.trace)]
    parts += [(None, "the answer", Answer, run.result)] if run.result else []
    for position, name, kind, stored in parts:
        problem = None if isinstance(stored, Damaged) or not stored else _problem(kind, stored, old=old)
        if problem:
            yield Finding(step=position, problem=f"{name} {problem}")


def _problem(kind: type[Record], stored: Plain, *, old: bool) -> str | None:
    try:
        again = kind.load(stored).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        return f"is malformed: {first_problem(error)}"
    both = [_renamed(again), _renamed(stored)] if old else [again, stored]
    same = _as_json(both[0]) == _as_json(both[1])
    return None if same else "has values of other types, or other fields, than this package writes"


def _renamed(value: Any) -> Any:
    """Return a JSON value with all former field names replaced."""
    if isinstance(value, dict):
        return {FORMER_NAMES.get(name, name): _renamed(each) for name, each in value.items()}
    return [_renamed(each) for each in value] if isinstance(value, list) else value


def _as_json(record: Plain) -> str:
    return json.dumps(record, sort_keys=True, default=str)


def contradictions(run: RecordedRun) -> Iterator[str]:
    """Find contradictions between the ledger and the other channels; the totals are left to `recompute`."""
    if run.manifest.get("run") not in (None, run.progress.get("run")):
        yield f"the totals belong to run {run.progress.get('run')!r}"
    given = [name for name in ("answer", "stop_reason", "trace_summary") if run.values.get(name)]
    if not run.result:
        if given or run.values.get("result"):
            yield f"the ledger has no answer, but these channels have a value: {', '.join(given) or 'result'}"
        return
    if run.values.get("answer") != run.result.get("text"):
        yield "the answer that callers get is not the one in the ledger"
    if run.stop_reason is None:
        yield "there is an answer, but no stop reason"
    if run.values.get("pending"):
        yield "there is an answer, but a proposal is still in flight"
