"""The channels of the graph; everything that is checkpointed is defined here and in `records`.

All values are plain (dicts, lists, strings, numbers, and LangChain's messages), so checkpoints load in LangGraph's
strict msgpack mode. No step has a key named ``role`` or ``type``: the delta channel takes such dicts for chat messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from langchain_core.messages import AnyMessage
from langgraph.channels import DeltaChannel
from langgraph.types import Overwrite
from typing_extensions import TypedDict

from specreason_graph.record.channels import Conversation, EphemeralText, LastText, converse
from specreason_graph.record.manifest import Manifest
from specreason_graph.record.progress import Progress
from specreason_graph.record.records import Goodput, Plain
from specreason_graph.record.seal import seal_manifest

STAGES = ("prepare", "draft", "score", "review", "accept", "regenerate", "finalize")
"""Names of the nodes; checkpoints hold them."""
RARELY = 10**6
"""Updates between two copies of a whole channel. Each copy holds all steps: made often, they grow with the square."""


def extend(steps: Sequence[Plain], writes: Sequence[Sequence[Plain]]) -> list[Plain]:
    """Append each write's steps; pure, and the same however the writes are batched."""
    return [*steps, *(step for write in writes for step in write)]


def replace(old: Plain, writes: Sequence[Plain]) -> Plain:
    """Keep the last write; as a delta channel this stores a long value once and not in every checkpoint."""
    return writes[-1] if writes else old


class Question(TypedDict, total=False):
    """What a run is started with: a question, or else the messages of a conversation."""

    question: str
    """What to think about; where it is set, messages are not looked at."""
    messages: list[AnyMessage]
    """What is new in the conversation of the thread, which then ends with a user's or a tool's message; all of the
    conversation in a graph that is a node of another one."""


class Outcome(TypedDict, total=False):
    """What a run ends with."""

    answer: str
    """The text for the user."""
    stop_reason: str
    """Why the thinking ended; one of `records.StopReason`."""
    trace: list[Plain]
    """The committed steps, as `records.Step` dumps them."""
    trace_summary: Plain
    """What the run took, as `summary.Summary` dumps it."""
    messages: list[AnyMessage]
    """Where messages were asked, the conversation with the reply as its last message; as a node of another graph the
    reply alone, which the parent's ``add_messages`` appends."""


class State(TypedDict, total=False):
    """All channels."""

    question: Annotated[str, EphemeralText]
    """Input; moved to the manifest by ``prepare`` and not stored again."""
    messages: Annotated[list[AnyMessage], Conversation(converse, snapshot_frequency=RARELY)]
    """The conversation of the thread, stored as deltas; each run's manifest holds what that run was asked."""
    manifest: Annotated[Plain, DeltaChannel(replace, snapshot_frequency=RARELY)]
    """What holds for the whole run: conversation, settings, engines, prompts, schema and package version."""
    trace: Annotated[list[Plain], DeltaChannel(extend, snapshot_frequency=RARELY)]
    """The committed steps, stored as deltas."""
    pending: Plain
    """The step in flight, as `progress.Pending` dumps it."""
    progress: Plain
    """Running totals, as `progress.Progress` dumps them."""
    result: Plain
    """The answer with its evidence, as `records.Answer` dumps it."""
    answer: Annotated[str, LastText]
    """The text for the user; set by ``finalize``."""
    stop_reason: str
    """Why the thinking ended; set by ``finalize``."""
    trace_summary: Plain
    """What the run took; set by ``finalize``."""


def begin(
    manifest: Manifest, goodput: Goodput | None = None, *, handover: str | None = None, at_once: bool = False
) -> dict[str, Any]:  # fmt: skip
    """All channels at the start of a run, whatever an earlier one left on the thread; the manifest is sealed.

    ``goodput``: the figures by which the base model writes the first step itself; None asks the draft. ``handover``:
    the writer's reason for the same. ``at_once``: whether the run has no steps and begins with its answer.
    """
    stop = "answered" if at_once else None
    progress = Progress(
        run=manifest.run or "", goodput=goodput, handover=None if at_once else handover, stop_reason=stop
    )  # fmt: skip
    return {
        "manifest": seal_manifest(manifest.dump()),
        "trace": Overwrite([]),
        "pending": {},
        "progress": progress.dump(),
        "result": {},
        "answer": "",
        "stop_reason": "",
        "trace_summary": {},
    }
