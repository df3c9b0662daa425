"""What a run that goes on is held to: its record, and the engines and prompts that it began with."""

from __future__ import annotations

from specreason_graph.errors import RecordError, ThreadError
from specreason_graph.lookahead.step_sampler import StepSampler
from specreason_graph.record.manifest import setup_in_force
from specreason_graph.record.records import Plain
from specreason_graph.record.seal import is_sealed
from specreason_graph.record.setup import Setup


def check_resumed(
    manifest: Plain, trace: list[Plain], sampler: StepSampler, *, accept_changes: bool = False
) -> Setup | None:
    """Return None where a run goes on with the set-up it has had so far, else the other set-up.

    Raises `RecordError` when manifest or steps are not what was sealed, and `ThreadError` for another set-up unless
    ``accept_changes`` says that the caller wants it. With another vocabulary a run never goes on: its prompts are token
    ids.
    """
    name = manifest.get("run")
    if not is_sealed(manifest, trace):
        raise RecordError(f"run {name!r} is not as it was written", hint="audit verify shows what was found")
    before, now = setup_in_force(manifest, trace), sampler.setup
    found = list(before.differences(now))
    if not found:
        return None
    if any(before.engines[role].vocabulary != now.engines[role].vocabulary for role in before.engines):
        raise ThreadError(f"run {name!r} began with {'; '.join(found)}", hint="fork it: token ids mean something else")
    if not accept_changes:
        raise ThreadError(
            f"run {name!r} began with {'; '.join(found)}",
            hint="put that back, or take the change on with accept_changes (resume --accept-changes)",
        )
    return now
