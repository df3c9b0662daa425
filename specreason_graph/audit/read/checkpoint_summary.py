"""What is looked at of a checkpoint: with thousands of them, holding the rest costs more than reading it."""

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
"""Channels whose last value belongs to a run."""
DELTAS = ("manifest", "trace")
"""Channels whose value is spread over the checkpoints of a run."""
WAITING = ("__start__", "branch:to:prepare")
"""Channels that hold the question of a run that has not begun."""
_PLAIN = JsonPlusSerializer(allowed_msgpack_modules=None)


@dataclass(frozen=True, init=False)
class Copy:
    """One more copy of a whole channel, packed: each may hold thousands of records."""

    packed: bytes
    """The value as msgpack."""

    def __init__(self, value: Any) -> None:
        object.__setattr__(self, "packed", _PLAIN.dumps_typed(value)[1])

    def value(self) -> Any:
        """What the channel held."""
        return _PLAIN.loads_typed(("msgpack", self.packed))


class CheckpointSummary(NamedTuple):
    """One checkpoint."""

    thread: str
    """Its thread."""
    namespace: str
    """Where in it."""
    name: str
    """Its id."""
    parent: str | None
    """The checkpoint it followed; None for the first, and where that was removed."""
    written: str
    """When it was written, ISO 8601."""
    problem: str | None
    """What is wrong with its bytes, or with those of a value."""
    readable: bool
    """Whether anything can be told of it."""
    waiting: bool
    """Whether it holds a question that no run has taken up yet."""
    begun: bool
    """Whether a manifest was written before it."""
    values: dict[str, Any]
    """Values of the channels in `MARKS`; in the middle of a run only the totals, and what is damaged."""
    copies: tuple[tuple[str, Any], ...]
    """Copies of the channels in `DELTAS`: each a `Copy`, or `Damaged`."""
    writes: tuple[tuple[str, Any], ...]
    """What was written to them after it, in order."""


def checkpoint_summaries(checkpoints: Iterable[CheckpointTuple]) -> Iterator[CheckpointSummary]:
    """A look at each checkpoint; they come latest first, as savers list them."""
    followed = set()
    for each in checkpoints:
        place = each.config["configurable"]
        where = (place["thread_id"], place.get("checkpoint_ns", ""))
        followed.add((*where, parent_of(each)))
        yield _summarise(each, last=(*where, place["checkpoint_id"]) not in followed)


def parent_of(checkpoint: CheckpointTuple) -> str | None:
    """The checkpoint it followed; None for the first, and where that was removed."""
    parent = checkpoint.parent_config
    return parent["configurable"]["checkpoint_id"] if parent else None


def _summarise(each: CheckpointTuple, *, last: bool) -> CheckpointSummary:
    stored: Any = each.checkpoint if isinstance(each.checkpoint, dict) else Damaged("is no record")
    place = each.config["configurable"]
    values = stored.get("channel_values")
    values = values if isinstance(values, dict) else {}
    marks = {name: bare(values[name]) for name in MARKS if name in values}
    wanted = marks if last or marks.get("stop_reason") else _passing(marks)
    copies = tuple((name, _packed(values[name])) for name in DELTAS if name in values and _is_copy(values[name]))
    damaged = (part for part in (stored, *values.values()) if isinstance(part, Damaged))
    return CheckpointSummary(
        thread=place["thread_id"], namespace=place.get("checkpoint_ns", ""), name=place["checkpoint_id"],
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
