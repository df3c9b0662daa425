"""The channels of the graph; everything that is checkpointed is defined here and in `records`.

All values are plain (dicts, lists, strings, numbers), so checkpoints load in LangGraph's strict msgpack mode. No dict
has a key named ``role`` or ``type``: the delta channel takes such dicts for chat messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from langgraph.channels import DeltaChannel, EphemeralValue
from typing_extensions import TypedDict

Plain = dict[str, Any]
"""A record as a plain dictionary."""


def extend(steps: Sequence[Plain], writes: Sequence[Sequence[Plain]]) -> list[Plain]:
    """Append each write's steps; pure, and the same however the writes are batched."""
    return [*steps, *(step for write in writes for step in write)]


def replace(old: Plain, writes: Sequence[Plain]) -> Plain:
    """Keep the last write; as a delta channel this stores a long value once and not in every checkpoint."""
    return writes[-1] if writes else old


class Question(TypedDict):
    """What a run is started with."""

    question: str
    """What to think about."""


class Outcome(TypedDict):
    """What a run ends with."""

    answer: str
    """The text for the user."""
    stop_reason: str
    """Why the thinking ended; one of `records.StopReason`."""
    steps: list[Plain]
    """The committed steps, as `records.Step` dumps them."""


class State(TypedDict, total=False):
    """All channels."""

    question: Annotated[str, EphemeralValue]
    """Input; moved to the manifest by ``prepare`` and not stored again."""
    manifest: Annotated[Plain, DeltaChannel(replace)]
    """What holds for the whole run: question, settings, engines, prompts, schema and package version."""
    steps: Annotated[list[Plain], DeltaChannel(extend)]
    """The trace: committed steps, stored as deltas."""
    pending: Plain
    """The proposal in flight: keys ``proposal``, ``judgeable``, ``score``, ``decision``, as far as it has come."""
    progress: Plain
    """Running totals, as `policies.Progress` names them, and ``stop_reason`` (None while it goes on)."""
    result: Plain
    """The answer with its evidence, as `records.Answer` dumps it."""
    answer: str
    """The text for the user; set by ``finalize``."""
    stop_reason: str
    """Why the thinking ended; set by ``finalize``."""
