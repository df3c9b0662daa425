"""Changes of one field anywhere in what a database holds, and which of them `verify` says that it does not find."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.serde.jsonplus import EXT_PYDANTIC_V2

from specreason_graph.audit.check.verify import NOT_COVERED
from specreason_graph.audit.read.checkpoint_summary import CONVERSATION, DELTAS, MARKS, NEXT
from specreason_graph.audit.read.serializer import Extension, pack, unpack
from tests.fuzz.kept import Row, Rows, decoded, encoded, read

LEDGER, RUNS, IDS, IN_FLIGHT, EARLIER, UNREAD, MESSAGE, ORDER, LAUNCH = NOT_COVERED
UNREAD_COLUMNS = ("metadata", "task_id", "task_path", "idx")
"""Columns that only LangGraph reads; by two of them writes are put in order."""
ID_COLUMNS = ("thread_id", "checkpoint_ns", "checkpoint_id", "parent_checkpoint_id", "version")
Path = tuple[Any, ...]
"""Keys and positions that lead to a field."""


@dataclass(frozen=True)
class Change:
    """One field that was changed."""

    table: str
    """The table."""
    row: Row
    """The row as it was."""
    column: str
    """The column."""
    path: Path
    """Where in its value, as it was or as it is."""
    how: str
    """What was done."""
    before: Any
    """The value of the column as it was."""
    after: Any
    """As it is."""
    last: bool
    """Whether the row belongs to the last checkpoint of a run or of a branch."""
    finished: bool
    """Whether the runs at this place are finished."""
    other: bool
    """Whether the place is that of another graph."""
    copied: bool = False
    """Whether it is a write to the conversation in front of a copy of it, which is read in its place."""

    def __str__(self) -> str:
        where = f"{self.table}.{self.column}{list(self.path)}"
        channel = f" of {self.row['channel']}" if "channel" in self.row else ""
        place = "last" if self.last else "earlier"
        return f"{self.how} at {where}{channel}, {place} checkpoint: {_at(self.before, self.path)!r:.60}"


def not_covered(change: Change) -> str | None:
    """The line of the table of what `verify` does not cover in which a change lies; None if it has to find it."""
    if change.other:
        return UNREAD
    if _as_json(change.before) == _as_json(change.after):
        return ORDER
    if change.column in UNREAD_COLUMNS or (change.column == "type" and change.before is None):
        return UNREAD
    if change.column in ID_COLUMNS:
        return IDS
    channel, path = change.row.get("channel"), change.path
    if change.column == "checkpoint":
        if path[:1] in (("id",), ("ts",)):
            return IDS
        if not path or path[0] != "channel_values":
            return UNREAD if path else _in_time(change)
        channel, path = (path[1] if len(path) > 1 else None), path[2:]
    return _of_channel(change, channel, path)


def _of_channel(change: Change, channel: str | None, path: Path) -> str | None:
    if channel == CONVERSATION:
        if change.how == "an item twice" or _as_json(_filled_in(change.before)) == _as_json(_filled_in(change.after)):
            return MESSAGE
        return EARLIER if change.copied else None if "task_id" in change.row else _in_time(change)
    if channel is not None and channel not in (*DELTAS, *MARKS) and not str(channel).startswith(NEXT):
        return UNREAD
    if channel in DELTAS:
        # The write that empties the trace before a run is no step; behind it stands a copy of the trace.
        if isinstance(change.row.get("checkpoint"), dict) and _at(change.before, change.path[:2]) is True:
            return UNREAD  # PostgreSQL's mark of a copy that stands in a row of its own, which takes its place
        return EARLIER if _empties(change.row) or _is_before(change.row) else None
    if not change.finished and (channel == "pending" or (channel == "progress" and path[:1] in _LATENESS)):
        return IN_FLIGHT
    return _in_time(change)


def _filled_in(value: Any) -> Any:
    """A value in which messages have only the fields that are not empty."""
    if isinstance(value, Extension) and value.code == EXT_PYDANTIC_V2:
        return [
            {name: each for name, each in part.items() if each not in (None, False, [], {})}
            if isinstance(part, dict) else part for part in unpack(value.data)
        ]  # fmt: skip
    if isinstance(value, Extension) and value.code in (2, 7):
        return [value.code, _filled_in(unpack(value.data))]
    return [_filled_in(each) for each in value] if isinstance(value, list) else value


def _is_before(row: Row) -> bool:
    """Whether no run has begun at a checkpoint: nobody reads steps there."""
    return "checkpoint" in row and "manifest" not in decoded(row, "checkpoint")["channel_versions"]


def _empties(row: Row) -> bool:
    if "value" not in row:
        return False
    value = decoded(row, "value")
    return isinstance(value, Extension) and value.is_overwrite and value.value == []


_LATENESS = (("slo_ratio",), ("goodput",))


def _in_time(change: Change) -> str | None:
    return None if change.last else EARLIER


def changes(rows: Rows, saver: Any, rng: random.Random) -> Iterator[tuple[Change, Rows]]:
    """Change one field of ``rows``, which ``saver`` holds now, again and again."""
    runs = read(saver)
    lasts = {run.checkpoint_id for run in runs}
    finished = {(run.thread_id, run.namespace): run.finished for run in runs}
    parents = {row["checkpoint_id"]: row["parent_checkpoint_id"] for row in rows["checkpoints"]}
    lasts |= parents.keys() - set(parents.values())  # also where a question waits
    versions = {
        (row["thread_id"], row["checkpoint_ns"], channel, version)
        for row in rows["checkpoints"] if row["checkpoint_id"] in lasts and isinstance(row["checkpoint"], dict)
        for channel, version in row["checkpoint"]["channel_versions"].items()
    }  # fmt: skip
    copies = _copies(rows)
    tables = [table for table in rows if rows[table]]
    while True:
        table = rng.choice(tables)
        index = rng.randrange(len(rows[table]))
        row = rows[table][index]
        known = row.get("checkpoint_id") in lasts or row.get("channel") in (*DELTAS, CONVERSATION)
        if rng.random() < 0.7 and not known:
            continue  # most of what is there are earlier checkpoints, which are not covered
        column = rng.choice([*row, *["checkpoint", "value"] * 4])
        if column not in row or (column == "value" and row["type"] != "msgpack"):
            continue
        before = decoded(row, column)
        path, how, after = _changed(before, rng)
        if "blobs" in rows and isinstance(after, bytes):
            continue  # PostgreSQL makes a text of it again
        try:
            changed = {**row, column: encoded(row, column, after)}
        except (TypeError, ValueError):
            continue  # has no such form
        if repr(changed) == repr(row):  # 1, 1.0 and True are equal
            continue
        place = (row["thread_id"], row["checkpoint_ns"])
        last = row.get("checkpoint_id") in lasts
        if table == "blobs":
            last = (*place, row["channel"], row["version"]) in versions
        change = Change(
            table, row, column, path, how, before, after, last, finished.get(place, False), place not in finished,
            "task_id" in row and row["channel"] == CONVERSATION and row["checkpoint_id"] < copies.get(place, ""),
        )  # fmt: skip
        yield change, {**rows, table: [*rows[table][:index], changed, *rows[table][index + 1 :]]}


def _copies(rows: Rows) -> dict[tuple[str, str], str]:
    """The last checkpoint of each place that has a copy of the conversation."""
    apart = {
        (row["thread_id"], row["checkpoint_ns"], row["version"])
        for row in rows.get("blobs", ()) if row["channel"] == CONVERSATION and row["type"] != "empty"
    }  # fmt: skip
    found = dict[tuple[str, str], str]()
    for row in sorted(rows["checkpoints"], key=lambda row: str(row["checkpoint_id"])):
        stored, place = decoded(row, "checkpoint"), (row["thread_id"], row["checkpoint_ns"])
        there = isinstance(stored, dict) and CONVERSATION in stored.get("channel_values", ())
        if there or (*place, stored["channel_versions"].get(CONVERSATION)) in apart:
            found[place] = row["checkpoint_id"]
    return found


def _changed(value: Any, rng: random.Random) -> tuple[Path, str, Any]:
    """Change a random part of a value: where, how, and the whole value as it is then."""
    if isinstance(value, Extension) and value.value is not None and rng.random() < 0.9:
        path, how, inner = _changed(unpack(value.data), rng)
        return ("inside", *path), how, Extension(value.code, pack(inner))
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = rng.choice(keys)
        path, how, inner = _changed(value[key], rng)
        copy = value.copy()
        copy[key] = inner
        return (key, *path), how, copy
    how = rng.choice([name for name, (fits, _) in WAYS.items() if fits(value)])
    return WAYS[how][1](deepcopy(value), rng, how)


def _whole(make: Callable[[Any], Any]) -> Callable[..., tuple[Path, str, Any]]:
    return lambda value, _, how: ((), how, make(value))


def _add_key(value: dict[Any, Any], rng: random.Random, how: str) -> tuple[Path, str, Any]:
    name = rng.choice(["more", "hash", "signature", "answer", "result", "pending", "branch:to:finalize", "trace"])
    return (name,), how, {**value, name: rng.choice([1, None, "x", {}, [], {"text": "999"}])}


def _remove_key(value: dict[Any, Any], rng: random.Random, how: str) -> tuple[Path, str, Any]:
    name = rng.choice(list(value))
    return (name,), how, {key: each for key, each in value.items() if key != name}


def _rename_key(value: dict[Any, Any], rng: random.Random, how: str) -> tuple[Path, str, Any]:
    name = rng.choice(list(value))
    return (name,), how, {f"{key}x" if key == name else key: each for key, each in value.items()}


def _reorder(value: dict[Any, Any], _: random.Random, how: str) -> tuple[Path, str, Any]:
    return (), how, dict(reversed(value.items()))


def _remove_item(value: list[Any], rng: random.Random, how: str) -> tuple[Path, str, Any]:
    at = rng.randrange(len(value))
    return (at,), how, [*value[:at], *value[at + 1 :]]


def _repeat_item(value: list[Any], rng: random.Random, how: str) -> tuple[Path, str, Any]:
    at = rng.randrange(len(value))
    return (at,), how, [*value[: at + 1], *value[at:]]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _of(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in kinds


def _filled(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in kinds and bool(value)


def _any(_: Any) -> bool:
    return True


WAYS: dict[str, tuple[Callable[[Any], bool], Callable[..., tuple[Path, str, Any]]]] = {
    "another number": (_is_number, _whole(lambda value: value + 1)),
    "a negative number": (_is_number, _whole(lambda value: -value)),
    "an integer as a float": (_of(int), _whole(float)),
    "a float as an integer": (_of(float), _whole(lambda value: int(value) if abs(value) < 2**60 else 0)),
    "a number as a boolean": (_is_number, _whole(bool)),
    "a number as a text": (_is_number, _whole(str)),
    "the other boolean": (_of(bool), _whole(lambda value: not value)),
    "a boolean as a number": (_of(bool), _whole(int)),
    "a text with one more character": (_of(str), _whole(lambda value: f"{value}x")),
    "a text in another case": (_filled(str), _whole(lambda value: value.swapcase())),
    "a text with a space": (_of(str), _whole(lambda value: f"{value} ")),
    "an empty text": (_of(str), _whole(lambda _: "")),
    "a text as bytes": (_of(str), _whole(str.encode)),
    "null": (_any, _whole(lambda _: None)),
    "a number for null": (_of(type(None)), _whole(lambda _: 0)),
    "a text for null": (_of(type(None)), _whole(lambda _: "x")),
    "an empty list": (_any, _whole(lambda _: [])),
    "an empty record": (_any, _whole(lambda _: {})),
    "wrapped in a list": (_any, _whole(lambda value: [value])),
    "wrapped in a record": (_any, _whole(lambda value: {"value": value})),
    "a key more": (_of(dict), _add_key),
    "a key less": (_filled(dict), _remove_key),
    "a key with another name": (_filled(dict), _rename_key),
    "keys in another order": (_filled(dict), _reorder),
    "an item less": (_filled(list), _remove_item),
    "an item twice": (_filled(list), _repeat_item),
    "items in another order": (_filled(list), _whole(lambda value: value[::-1])),
}
"""How a value may be changed: which ones, and what is made of them."""


def _at(value: Any, path: Path) -> Any:
    for key in path:
        try:
            value = unpack(value.data) if key == "inside" and isinstance(value, Extension) else value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _as_json(value: Any) -> str:
    """JSON in which the order of keys, and the sign of zero, make no difference."""
    return json.dumps(_plain(value), sort_keys=True, default=repr)


def _plain(value: Any) -> Any:
    if isinstance(value, Extension):
        return ["ext", value.code, _plain(unpack(value.data)) if value.code in (2, 7) else value.data]
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return 0.0 if type(value) is float and value == 0 else value
