"""Checks that stored records have the fields and types that this package writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from specreason_graph.audit.read.recorded import Finding, RecordedRun, first_problem
from specreason_graph.audit.read.serializer import Damaged
from specreason_graph.record.manifest import FORMER_SETTINGS, Manifest, with_todays_names
from specreason_graph.record.progress import Pending, Progress
from specreason_graph.record.records import Answer, Plain, Record, Step
from specreason_graph.record.summary import Summary

RENAMED_IN = 4
"""Schema version in which fields were renamed."""
FORMER_NAMES = FORMER_SETTINGS | {
    "lost": "wasted", "room": "tokens_left", "drafted": "drafting", "alone": "base_only", "trial": "probe",
    "lateness": "slo_ratio", "judgeable": "scorable", "uncertain": "needs_review",
}  # fmt: skip
"""Names of fields before that version, and what they are called now."""


WHOLE_SINCE = 6
"""Schema version since which every step has all its fields."""
BESIDE_WHOLE_SINCE = 7
"""Schema version since which the records beside the ledger are compared with all their fields."""
BESIDE: dict[str, type[Record]] = {"progress": Progress, "pending": Pending, "trace_summary": Summary}
"""Records that stand beside the ledger, by channel."""


def malformed(run: RecordedRun) -> Iterator[Finding]:
    """Find records with fields that are missing, unknown or of another type.

    Records of schema version 3 and before are compared under the field names of now.
    """
    # The hashes do not cover this: in canonical JSON, 5 and 5.0 are the same.
    version = run.manifest.get("schema_version")
    old = isinstance(version, int) and version < RENAMED_IN
    beside = {name: kind for name, kind in BESIDE.items() if kind is not Summary or not old}
    parts: list[tuple[int | None, str, type[Record], Any]] = [(None, "the manifest", Manifest, run.manifest)]
    parts += [(position, "the record", Step, step) for position, step in enumerate(run.trace)]
    parts += [(None, "the answer", Answer, run.result)] if run.result else []
    there = [(name, kind) for name, kind in beside.items() if name in run.values]
    parts += [(None, f"the channel {name}", kind, run.values[name]) for name, kind in there]
    for position, name, kind, stored in parts:
        if not isinstance(stored, dict):
            yield Finding(step=position, problem=f"{name} is a {type(stored).__name__} and no record")
            continue
        if kind is Step and isinstance(version, int) and version >= WHOLE_SINCE and "alternatives" not in stored:
            yield Finding(step=position, problem=f"{name} lacks its alternatives, which the hash covers one by one")
        whole = kind in BESIDE.values() and isinstance(version, int) and version >= BESIDE_WHOLE_SINCE
        problem = None if isinstance(stored, Damaged) or not stored else _problem(kind, stored, old=old, whole=whole)
        if problem:
            yield Finding(step=position, problem=f"{name} {problem}")


def _problem(kind: type[Record], stored: Plain, *, old: bool, whole: bool) -> str | None:
    try:
        typed = kind.load(stored)
        again = typed.dump() if whole else typed.model_dump(mode="json", exclude_unset=True)
        if kind is Manifest:  # the settings of a judge were settings of the run
            stored = {**stored, "config": with_todays_names(stored["config"])}
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
