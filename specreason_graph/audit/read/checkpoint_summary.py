"""Summaries of checkpoints: only what the reader needs, because a thread may have thousands of large ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from specreason_graph.audit.read.saver import Damaged
from specreason_graph.record.channels import bare

MARKS = ("pending", "progress", "result", "answer", "stop_reason", "trace_summary")
"""Channels of which the last value belongs to the run."""
DELTAS = ("manifest", "trace")
"""Delta channels: their value is spread over the checkpoints of a run."""
WAITING = ("__start__", "branch:to:prepare")
"""Channels that hold a question before its run has begun."""
_PLAIN = JsonPlusSerializer(allowed_msgpack_modules=None)


@dataclass(frozen=True, init=False)
class Copy:
    """A snapshot of a whole delta channel, kept packed because it may hold thousands of records."""

    packed: bytes
    """The channel's value as msgpack."""

    def __init__(self, value: Any) -> None:
        object.__setattr__(self, "packed", _PLAIN.dumps_typed(value)[1])

    def value(self) -> Any:
        """Unpack the channel's value."""
        return _PLAIN.loads_typed(("msgpack", self.packed))


class CheckpointSummary(NamedTuple):
    """What the reader needs of one checkpoint."""

    thread: str
    """Thread of the checkpoint."""
    namespace: str
    """Namespace of the checkpoint: empty at the root, else the path of the subgraph."""
    name: str
    """Id of the checkpoint."""
    parent: str | None
    """Id of the checkpoint before; None for the first one, and where the one before was pruned."""
    written: str
    """When the checkpoint was written, ISO 8601."""
    problem: str | None
    """What is wrong with its bytes or with those of a value; None if nothing is."""
    readable: bool
    """Whether anything of it can be read."""
    waiting: bool
    """Whether it holds a question whose run has not begun."""
    begun: bool
    """Whether a manifest was written before it."""
    values: dict[str, Any]
    """Values of the channels in `MARKS`; in the middle of a run only the totals and damaged values."""
    copies: tuple[tuple[str, Any], ...]
    """Snapshots of the channels in `DELTAS`: each a `Copy` or `Damaged`."""
    writes: tuple[tuple[str, Any], ...]
    """Pending writes to the channels in `DELTAS`, in order."""


def checkpoint_summaries(checkpoints: Iterable[CheckpointTuple]) -> Iterator[CheckpointSummary]:
    """Summarise checkpoints, which must come latest first, as savers list them."""
    # In this order a checkpoint comes after all its followers, so it is known whether it is the last of a branch.
    followed = set()
    for each in checkpoints:
        config = each.config["configurable"]
        where = (config["thread_id"], config.get("checkpoint_ns", ""))
        followed.add((*where, parent_of(each)))
        yield _summarise(each, last=(*where, config["checkpoint_id"]) not in followed)


def parent_of(checkpoint: CheckpointTuple) -> str | None:
    """Return the id of the checkpoint before; None for the first one, and where the one before was pruned."""
    parent = checkpoint.parent_config
    return parent["configurable"]["checkpoint_id"] if parent else None


def _summarise(each: CheckpointTuple, *, last: bool) -> CheckpointSummary:
    stored: Any = each.checkpoint if isinstance(each.checkpoint, dict) else Damaged("is no record")
    config = each.config["configurable"]
    values = stored.get("channel_values")  # the database may hold anything: every form is checked before it is used
    values = values if isinstance(values, dict) else {}
    marks = {name: bare(values[name]) for name in MARKS if name in values}
    # A run's values are in the last checkpoint of its branch, or where its stop reason was set.
    wanted = marks if last or marks.get("stop_reason") else _passing(marks)
    copies = tuple((name, _packed(values[name])) for name in DELTAS if name in values and _is_copy(values[name]))
    damaged = (part for part in (stored, *values.values()) if isinstance(part, Damaged))
    return CheckpointSummary(
        thread=config["thread_id"], namespace=config.get("checkpoint_ns", ""), name=config["checkpoint_id"],
        parent=parent_of(each), written=stored.get("ts", ""), problem=next((part.problem for part in damaged), None),
        readable=not isinstance(stored, Damaged) or stored.readable, waiting=any(name in values for name in WAITING),
        begun="manifest" in (stored.get("channel_versions") or ()), values=wanted, copies=copies,
        writes=tuple((channel, value) for _, channel, value in each.pending_writes or () if channel in DELTAS),
    )  # fmt: skip


def _passing(marks: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in marks.items() if name == "progress" or isinstance(value, Damaged)}


def _is_copy(value: Any) -> bool:
    return isinstance(value, _DeltaSnapshot | Damaged)


def _packed(value: Any) -> Any:
    return Copy(value.value) if isinstance(value, _DeltaSnapshot) else value
