"""Export of runs to other tools: the ledger as JSON lines with a schema, and logs for Inspect's viewer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from specreason_graph.audit.check.verify import check_whole
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.errors import ConfigError, ThreadError
from specreason_graph.files import written_beside
from specreason_graph.record.manifest import Manifest
from specreason_graph.record.records import Alternative, Answer, Proposal, Record, Review, Signature, Step
from specreason_graph.record.seal import Entry, entries

ENDINGS = (".eval", ".json")
BODIES: dict[str, type[Record]] = {
    "manifest": Manifest, "alternative": Alternative, "proposal": Proposal, "review": Review, "step": Step,
    "answer": Answer,
}  # fmt: skip
"""The record that the body of each kind of entry holds."""


class Line(Record):
    """One line of an exported ledger."""

    thread_id: str
    """Thread of the run."""
    namespace: str
    """Checkpoint namespace: empty at the root, else the path of the subgraph."""
    run: str
    """Name of the run; its lines follow each other in order, the manifest first."""
    entry: Entry
    """The entry of the ledger."""
    signature: Signature | None = None
    """Signature of the entry's hash; only on the answer of a signed run."""


def to_jsonl(runs: Iterable[RecordedRun]) -> Iterator[str]:
    """Yield the ledgers of runs, finished or not, as JSON: one entry per line, without line ends.

    Every hash can be recomputed from its line and the line before. Raises `ThreadError` for a run that has no ledger or
    is not as it was written.
    """
    for run in runs:
        check_whole(run)  # the lines are built from the stored hashes, so a damaged run could look genuine
        if run.head is None:
            raise ThreadError(f"run {run.run!r} has no ledger", hint="it was made with schema version 1")
        signature = run.answer.signature if run.answer else None
        for entry in entries(run.manifest, run.trace, run.result, run.stop_reason):
            # Without validation: the check above has read all records already.
            line = Line.model_construct(
                thread_id=run.thread_id, namespace=run.namespace, run=run.run, entry=entry,
                signature=signature if entry.kind == "answer" else None,
            )  # fmt: skip
            # All control characters are escaped, the one that json.dumps leaves as it is included.
            yield json.dumps(line.model_dump()).replace("\x7f", "\\u007f")


def ledger_schema() -> dict[str, Any]:
    """Return the JSON Schema of a line; the schema of an entry's body depends on its kind."""
    schema = Line.model_json_schema()
    known, rules = schema["$defs"], []
    for kind, record in BODIES.items():
        body = record.model_json_schema()
        known |= body.pop("$defs", {})
        known[f"{kind}_body"] = _as_entered(kind, body)
        rules.append(
            {
                "if": {"properties": {"kind": {"const": kind}}},
                "then": {"properties": {"body": {"$ref": f"#/$defs/{kind}_body"}}},
            }
        )
    known["Entry"]["allOf"] = rules
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _as_entered(kind: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a record as a body: without the fields that are entries of their own, and without hashes."""
    gone = {"step": {"hash", "discarded", "alternatives"}, "answer": {"hash", "signature"}}.get(kind, {"hash"})
    fields = {name: field for name, field in body["properties"].items() if name not in gone}
    if kind == "step":
        fields["discarded"] = {"type": "null", "description": "Always null: a discarded proposal is an entry before."}
    if kind == "answer":
        fields["stop_reason"] = {"type": "string", "description": "Why the thinking ended."}
    return {**body, "properties": fields, "required": [name for name in body["required"] if name not in gone]}


def to_inspect(runs: Sequence[RecordedRun], file: Path, kept: Iterable[Path] = ()) -> None:
    """Write a log for ``inspect view`` with one sample per run; the name of ``file`` ends in ``.eval`` or ``.json``.

    In a folder the viewer lists a ``.json`` log only if its name begins with a time, as in
    ``2026-01-01T00-00-00_runs_1.json``. The samples have no Inspect scores, because the right answers are not known;
    the scores of the steps are in the transcript. Raises `ThreadError` for a run that is not as it was written,
    `ConfigError` where Inspect is not installed, and `UsageError` where ``file`` is a database, one of the files in
    ``kept``, or cannot be written.
    """
    if file.suffix not in ENDINGS:
        raise ConfigError(f"{file.name!r} is no name of an Inspect log", hint="end it with .eval or .json")
    if not runs:
        raise ThreadError("there is no run to export")
    if find_spec("inspect_ai") is None:
        hint = 'install it with pip install "specreason-graph[inspect]"'
        raise ConfigError("logs for inspect view need inspect-ai", hint=hint)
    from inspect_ai.log import write_eval_log

    from specreason_graph.audit.keep.inspect_log import make_log

    log = make_log([check_whole(run) for run in runs])
    with written_beside(file, kept) as place:
        write_eval_log(log, place)
