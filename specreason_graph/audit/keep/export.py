"""Runs for other tools: the ledger as lines of JSON with a schema, and logs for Inspect's viewer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from specreason_graph.audit.check.verify import check_whole
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.errors import ConfigError, ThreadError
from specreason_graph.record.ledger import Entry, entries
from specreason_graph.record.manifest import Manifest
from specreason_graph.record.records import Alternative, Answer, Proposal, Record, Review, Signature, Step

ENDINGS = (".eval", ".json")
BODIES: dict[str, type[Record]] = {
    "manifest": Manifest, "alternative": Alternative, "proposal": Proposal, "review": Review, "step": Step,
    "answer": Answer,
}  # fmt: skip
"""What the entries of each kind hold."""


class Line(Record):
    """One line of an exported ledger."""

    thread_id: str
    """The thread."""
    namespace: str
    """Where in it: empty at the root, else the path of the subgraph."""
    run: str
    """Names the run; its lines stand together and in order, the manifest first."""
    entry: Entry
    """The entry."""
    signature: Signature | None = None
    """Signature of the entry's hash; only with the answer, of a run that was given a key."""


def to_jsonl(runs: Iterable[RecordedRun]) -> Iterator[str]:
    """The ledgers of runs, finished or not, one line an entry and without line ends.

    Every hash can be computed again from its line and the one before. `ThreadError` for a run that has no ledger or is
    not as it was written: an export of that would be a chain that fits.
    """
    for run in runs:
        check_whole(run)
        if run.head is None:
            raise ThreadError(f"run {run.run!r} has no ledger", hint="it was made with schema version 1")
        signature = run.answer.signature if run.answer else None
        for entry in entries(run.manifest, run.trace, run.result, run.stop_reason):
            line = Line.model_construct(
                thread_id=run.thread_id, namespace=run.namespace, run=run.run, entry=entry,
                signature=signature if entry.kind == "answer" else None,
            )  # fmt: skip
            yield json.dumps(line.model_dump())


def ledger_schema() -> dict[str, Any]:
    """The JSON Schema of a line; what an entry holds follows from its kind."""
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
    """The schema of a record without what is an entry of its own, or about the entry."""
    gone = {"step": {"hash", "discarded", "alternatives"}, "answer": {"hash", "signature"}}.get(kind, {"hash"})
    fields = {name: field for name, field in body["properties"].items() if name not in gone}
    if kind == "step":
        fields["discarded"] = {"type": "null", "description": "Told by the entry before, where there was one."}
    if kind == "answer":
        fields["stop_reason"] = {"type": "string", "description": "Why the thinking ended."}
    return {**body, "properties": fields, "required": [name for name in body["required"] if name not in gone]}


def to_inspect(runs: Sequence[RecordedRun], file: Path) -> None:
    """Write a log that ``inspect view`` opens, one sample a run; ``file`` ends with ``.eval`` or ``.json``.

    In a folder the viewer lists logs that end with ``.json`` only where their names begin with a time, as in
    ``2026-01-01T00-00-00_runs_1.json``. Nothing is scored: what was asked has no known answer. The judge's opinions
    stand in the transcript. `ThreadError` for a run that is not as it was written, `ConfigError` where Inspect is not
    installed.
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

    write_eval_log(make_log([check_whole(run) for run in runs]), file)
