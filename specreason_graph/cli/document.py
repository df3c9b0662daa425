"""A run as one JSON document."""

from __future__ import annotations

from typing import Any

from specreason_graph.audit.ask.advice import advise
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.record.records import Answer, Plain, Step
from specreason_graph.record.summary import summarise


def document(thread: str, values: Plain) -> dict[str, Any]:
    """Return all that is known of a run, for programs; ``values`` is its last checkpointed state."""
    manifest, result = values["manifest"], values["result"]
    summary = summarise([Step.load(step) for step in values["trace"]], Answer.load(result) if result else None)
    advice = advise(recorded(thread, values))
    return {
        "thread": thread,
        "question": manifest["question"],
        "answer": values["answer"],
        "stop_reason": values["stop_reason"],
        "steps": values["trace"],
        "result": result,
        "usage": {**summary.dump(), "acceptance": summary.acceptance, "seconds": summary.seconds},
        "advice": {**advice.dump(), "gain": advice.gain} if advice else None,
        "engines": manifest["engines"],
        "config": manifest["config"],
    }


def recorded(thread: str, values: Plain) -> RecordedRun:
    """A run as the audit sees it; ``values`` is its last checkpointed state."""
    return RecordedRun(thread, "", manifest=values.get("manifest", {}), trace=values.get("trace", []), values=values)
