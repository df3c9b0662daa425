"""Whether stored records have the form that this package writes."""

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
"""Schema version in which fields got other names."""
FORMER_NAMES = FORMER_SETTINGS | {
    "lost": "wasted", "room": "tokens_left", "drafted": "drafting", "alone": "base_only", "trial": "probe",
}  # fmt: skip
"""What fields of the ledger's records were called before."""


def malformed(run: RecordedRun) -> Iterator[Finding]:
    """Records with fields too many, too few or of other types; hashes do not tell 5 from 5.0.

    Fields of records of schema version 3 and before had other names: there names are compared as they are now.
    """
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
        return f"is none: {first_problem(error)}"
    both = [_renamed(again), _renamed(stored)] if old else [again, stored]
    same = _written(both[0]) == _written(both[1])
    return None if same else "is not in the form that it is written in"


def _renamed(value: Any) -> Any:
    """A JSON value with the names of now for those of before, in every dictionary in it."""
    if isinstance(value, dict):
        return {FORMER_NAMES.get(name, name): _renamed(each) for name, each in value.items()}
    return [_renamed(each) for each in value] if isinstance(value, list) else value


def _written(record: Plain) -> str:
    return json.dumps(record, sort_keys=True, default=str)


def contradictions(run: RecordedRun) -> Iterator[str]:
    """What the channels beside the ledger say otherwise than it; the totals are added up again by `replay`."""
    if run.manifest.get("run") not in (None, run.progress.get("run")):
        yield f"the totals are called those of run {run.progress.get('run')!r}"
    given = [name for name in ("answer", "stop_reason", "trace_summary") if run.values.get(name)]
    if not run.result:
        if given or run.values.get("result"):
            yield f"there is no answer in the ledger, and {', '.join(given) or 'result'} beside it"
        return
    if run.values.get("answer") != run.result.get("text"):
        yield "the answer that callers get is not the one in the ledger"
    if run.stop_reason is None:
        yield "there is an answer and no stop reason"
    if run.values.get("pending"):
        yield "a proposal is in flight behind the answer"
