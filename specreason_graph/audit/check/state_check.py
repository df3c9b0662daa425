"""Checks that what stands beside the ledger follows from it: so whoever reads a channel reads what was sealed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from specreason_graph.audit.check.totals import Recomputed, Totals
from specreason_graph.audit.read.checkpoint_summary import CONVERSATION, MARKS, NEXT
from specreason_graph.audit.read.reader import append
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.policies.routing import next_stage
from specreason_graph.record.progress import Progress, totals_of
from specreason_graph.record.summary import Summary, summarise

RESET_IN = 6
"""Schema version since which the totals of a run that has ended are those that its steps tell."""


def contradictions(run: RecordedRun) -> Iterator[str]:
    """Find contradictions between the ledger and the other channels."""
    yield from _ill_typed(run)
    if run.manifest.get("run") not in (None, run.progress.get("run")):
        yield f"the totals belong to run {run.progress.get('run')!r}"
    sealed = run.result.get("conversation") or run.manifest.get("conversation")
    if sealed is not None and run.conversation != sealed:
        yield "the conversation of the thread is not the one that was sealed"
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


def _ill_typed(run: RecordedRun) -> Iterator[str]:
    """Find channels that are missing, and those of the end that hold something of another type."""
    missing = [name for name in MARKS if name not in run.values]
    if missing and run.manifest:
        yield f"these channels are missing: {', '.join(missing)}"
    texts = {name: run.values.get(name, "") for name in ("answer", "stop_reason")}
    for name, value in texts.items():
        if not isinstance(value, str):
            yield f"the channel {name} holds a {type(value).__name__} and no text"
    result = run.values.get("result", {})
    if not isinstance(result, dict):
        yield f"the channel result holds a {type(result).__name__} and no record"


def unfounded(run: RecordedRun) -> Iterator[str]:
    """Find values that do not follow from the steps and the answer, which must be readable."""
    totals = Totals(run)
    found = [*totals.last(), *at_the_end(run), ("next stage", list(run.stages), _stages(run))]
    for what, recorded, again in found:
        if recorded != again:
            yield f"{what}: recorded {recorded!r}, computed {again!r}"


def at_the_end(run: RecordedRun) -> Iterator[Recomputed]:
    """Yield what callers got of a finished run: a name, the recorded value and the recomputed one."""
    if not run.finished:
        return
    summary, version = run.values.get("trace_summary"), run.typed_manifest.schema_version
    yield "summary", _as_stored(summary), summarise(run.steps, run.answer)
    yield "stop reason", run.stop_reason, run.progress.get("stop_reason")
    if version >= RESET_IN:  # before, the totals also told how late the run was
        recorded = Progress.load(run.progress)
        yield "totals", recorded, totals_of(run.steps, recorded)


def _stages(run: RecordedRun) -> list[str]:
    stage = next_stage({**run.values, "manifest": run.manifest})
    return [stage] if stage else []


def _as_stored(totals: Any) -> Any:
    """Return the totals that callers got, typed where they have the form of totals."""
    try:
        return Summary.load(totals)
    except ValidationError:
        return totals


def with_writes_ahead(run: RecordedRun) -> RecordedRun:
    """The run as it would be with the writes behind its last checkpoint, which LangGraph applies when it goes on."""
    later = replace(run, values=dict(run.values), findings=[], ahead=(), other_ends=(), stages=())
    stages = []
    for channel, value in run.ahead:
        if channel == "trace":
            append(later, value)
        elif channel == CONVERSATION:
            later.said = later.said.and_then(value)
        elif channel.startswith(NEXT):
            stages.append(channel.removeprefix(NEXT))
        else:
            later.values[channel] = value
    later.stages = tuple(stages)
    return later
