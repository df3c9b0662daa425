"""Records in which a name was replaced, in a chain that was made anew."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.record.seal import head_of, seal_answer, seal_manifest, seal_step


def resealed(run: RecordedRun, old: str, new: str) -> RecordedRun:
    """A run as it would be recorded if ``old`` had been called ``new``."""
    manifest, trace = json.loads(json.dumps([run.manifest, run.trace]).replace(old, new))
    manifest, sealed = seal_manifest(manifest), list[Any]()
    for step in trace:
        sealed.append(seal_step(step, head_of(manifest, sealed)))
    result = seal_answer(run.result, str(run.stop_reason), head_of(manifest, sealed))
    values = {**run.values, "manifest": manifest, "trace": sealed, "result": result}
    return replace(run, manifest=manifest, trace=sealed, values=values)
