"""Summaries of checkpoints: only what the reader needs, because a thread may have thousands of large ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from langgraph.checkpoint.base import CheckpointTuple

from specreason_graph.audit.read.serializer import Damaged, Extension, pack, unpack
from specreason_graph.record.channels import bare

MARKS = ("pending", "progress", "result", "answer", "stop_reason", "trace_summary")
"""Channels of which the last value belongs to the run."""
DELTAS = ("manifest", "trace")
"""Delta channels: their value is spread over the checkpoints of a run."""
CONVERSATION = "messages"
"""Delta channel of what was said in a thread: its value is spread over the checkpoints of all runs before, too."""
NEXT = "branch:to:"
"""Channels with this prefix say which stage comes next."""
WAITING = ("__start__", f"{NEXT}prepare")
"""Channels that hold a question before its run has begun."""
Writes = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, init=False)
class Copy:
    """A snapshot of a whole delta channel, kept packed because it may hold thousands of records."""

    packed: bytes
    """The channel's value as msgpack."""

    def __init__(self, value: Any) -> None:
        object.__setattr__(self, "packed", pack(value))

    def value(self) -> Any:
        """Unpack the channel's value."""
        return unpack(self.packed)


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
    around: str | None
    """For a subgraph, id of the checkpoint of the graph around it at which it was called."""
    branched: bool
    """Whether LangGraph's time travel made it, as the first one of another branch."""
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
    stages: tuple[str, ...]
    """The stages that LangGraph would go on with."""
    values: dict[str, Any]
    """Values of the channels in `MARKS`; in the middle of a run only the totals and damaged values."""
    copies: Writes
    """Snapshots of the channels in `DELTAS`: each a `Copy` or `Damaged`."""
    said: Any
    """A snapshot of the conversation, or what releases before this channel kept of one; None where there is none."""
    writes: Writes
    """Pending writes to the delta channels, in order; of the last of a branch, those to all our channels."""


def checkpoint_summaries(checkpoints: Iterable[CheckpointTuple]) -> Iterator[CheckpointSummary]:
    """Summarise checkpoints, which must come latest first, as savers list them."""
    # In this order a checkpoint comes after all its followers, so it is known whether it is the last of a branch. One
    # that is only followed by the next question is the last of its run.
    followed = set()
    for each in checkpoints:
        place = _text(each.config, "thread_id"), _text(each.config, "checkpoint_ns")
        name, parent = _text(each.config, "checkpoint_id"), parent_of(each)
        found = _summarise(each, (*place, name), parent, last=(*place, name) not in followed)
        if not found.waiting:
            followed.add((*place, parent))
        yield found


def parent_of(checkpoint: CheckpointTuple) -> str | None:
    """Return the id of the checkpoint before; None for the first one, and where the one before was pruned."""
    return _text(checkpoint.parent_config, "checkpoint_id") if checkpoint.parent_config else None


def _summarise(
    each: CheckpointTuple, key: tuple[str, str, str], parent: str | None, *, last: bool
) -> CheckpointSummary:
    # The database may hold anything: every form is checked before it is used.
    stored: Any = each.checkpoint if _is_checkpoint(each.checkpoint) else Damaged("is no record of channels")
    values, metadata = _dict(stored.get("channel_values")), _dict(each.metadata)
    marks = {name: bare(values[name]) if name == "answer" else values[name] for name in MARKS if name in values}
    is_waiting = any(name in values for name in WAITING)
    # A run's values are in the last checkpoint of its branch, or where its stop reason was set.
    wanted = marks if last or is_waiting or marks.get("stop_reason") else _passing(marks)
    copies = tuple((name, _packed(values[name])) for name in DELTAS if name in values)
    kept = (*DELTAS, CONVERSATION)
    parts = (stored, *values.values(), *(copy for _, copy in copies))
    damaged = (part for part in parts if isinstance(part, Damaged))
    around = _dict(metadata.get("parents")).get(key[1].rpartition("|")[0]) if key[1] else None
    writes = [(channel, value) for _, channel, value in each.pending_writes or () if isinstance(channel, str)]
    return CheckpointSummary(
        *key, parent=parent, around=str(around) if around else None,
        branched=metadata.get("source") in ("fork", "update"), written=str(stored.get("ts", "")),
        problem=next((part.problem for part in damaged), None),
        readable=not isinstance(stored, Damaged) or stored.readable, waiting=is_waiting,
        begun="manifest" in _dict(stored.get("channel_versions")),
        stages=tuple(sorted(name.removeprefix(NEXT) for name in values if _is_next(name) and values[name] is None)),
        values=wanted, copies=copies, said=values.get(CONVERSATION),
        writes=tuple(each for each in writes if each[0] in kept or (last and _is_ours(each[0]))),
    )  # fmt: skip


def _is_checkpoint(stored: Any) -> bool:
    return isinstance(stored, dict) and all(
        isinstance(stored.get(name), dict) for name in ("channel_values", "channel_versions")
    )


def _text(config: Any, name: str) -> str:
    """Part of a key; SQLite may hold bytes where a text belongs."""
    value = config["configurable"].get(name, "")
    return value if isinstance(value, str) else repr(value)[:60]


def _dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _is_next(name: object) -> bool:
    return isinstance(name, str) and name.startswith(NEXT)


def _is_ours(channel: str) -> bool:
    return channel in (*MARKS, CONVERSATION) or _is_next(channel)


def _passing(marks: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in marks.items() if name == "progress" or isinstance(value, Damaged)}


def _packed(value: Any) -> Any:
    if isinstance(value, Extension) and value.is_snapshot:
        return Copy(value.value)
    return value if isinstance(value, Damaged) else Damaged(f"is a {type(value).__name__} where a copy belongs")
