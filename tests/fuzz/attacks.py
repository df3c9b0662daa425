"""Attacks on the form of what a database holds: rows that are removed, put in, moved, rewired or of another type."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import ormsgpack

from specreason_graph.record.seal import head_of, seal_answer, seal_manifest, seal_step
from tests.fuzz.changes import EARLIER, IDS, IN_FLIGHT, LEDGER, RUNS
from tests.fuzz.kept import Row, Scene, decoded, extension, rewrite

FORGED: dict[str, Any] = {
    "answer": "999", "stop_reason": "answered", "trace": [{"index": 99, "text": "forged"}],
    "manifest": {"question": "x"}, "result": {"text": "999"}, "progress": {"run": "x"}, "pending": {"error": "x"},
    "trace_summary": {"steps": 1}, "branch:to:finalize": None, "branch:to:draft": None,
}  # fmt: skip
"""Values to forge, by channel."""
BEFORE = 0
"""The checkpoint of a question that waits, which is there before its run."""
NULL_TASK = "00000000-0000-0000-0000-000000000000"
TYPES = ("json", "pickle", "null", "msgpack+aes", "bytes", "5", "")
CHANNELS = ("result", "progress", "answer", "stop_reason", "trace_summary")


@dataclass(frozen=True)
class Attack:
    """One attack on a scene: threads ``one`` and ``two`` hold finished runs, ``half`` one that is not finished."""

    name: str
    """What it does."""
    do: Callable[..., Any]
    """Does it."""
    line: str | None = None
    """The line of the table of what `verify` does not cover that it may fall under; None if it must be noticed."""


def attacks(*, postgres: bool) -> Iterator[Attack]:
    """All attacks."""
    for each in (removed, repeated, moved, rewired, forged, children, retyped, wrapped, replaced, respelt, renamed):
        yield from each()
    if postgres:
        yield from blobs()


def removed() -> Iterator[Attack]:
    """Rows that are deleted."""
    for at in (0, 1, 2, -3, -2, -1):
        yield Attack(
            f"checkpoint {at} removed", lambda scene, at=at: _remove(scene, scene.checkpoints("one")[at]),
            EARLIER if at == BEFORE else None,
        )  # fmt: skip
        yield Attack(
            f"checkpoint {at} of a run under way removed",
            lambda scene, at=at: _remove(scene, scene.checkpoints("half")[at]),
            EARLIER if at >= 0 else LEDGER,
        )
    for at in (0, 3, -1):
        yield Attack(f"step {at} removed", lambda scene, at=at: scene.remove("writes", scene.steps("one")[at]))
    for channel in ("manifest", "trace"):
        yield Attack(
            f"all writes to {channel} removed",
            lambda scene, channel=channel: scene.remove("writes", *scene.writes("one", channel)),
        )
    yield Attack("all writes removed", lambda scene: scene.remove("writes", *scene.writes("one")))
    yield Attack("all checkpoints removed", lambda scene: scene.remove("checkpoints", *scene.checkpoints("one")), RUNS)
    for channel in ("progress", "pending", "branch:to:score", "branch:to:draft"):
        yield Attack(
            f"all writes to {channel} removed",
            lambda scene, channel=channel: scene.remove("writes", *scene.writes("one", channel)), EARLIER,
        )  # fmt: skip
    for left in (1, 2, 4, 6, 9, 12, 15):
        line = RUNS if left <= 2 else None  # no run had begun there
        yield Attack(f"cut back to checkpoint {left}", lambda scene, left=left: _cut(scene, left), line)
        yield Attack(
            f"cut back to checkpoint {left}, with the writes behind it",
            lambda scene, left=left: _cut(scene, left, writes=True),
            line,
        )
    for gone in (1, 2, 3, 6):
        yield Attack(
            f"first {gone} checkpoints removed",
            lambda scene, gone=gone: _remove(scene, *scene.checkpoints("one")[:gone]),
            EARLIER if gone == 1 else None,
        )


def repeated() -> Iterator[Attack]:
    """Rows that are there twice."""
    for at in (0, 3, -1):
        for more in ({"idx": 100}, {"task_id": "forged"}, {"task_id": NULL_TASK}, {"idx": -7}):
            yield Attack(
                f"step {at} twice, with {more}",
                lambda scene, at=at, more=more: scene.add("writes", scene.steps("one")[at], **more),
            )
    for at, behind in product((1, 5, -1), ("parent", "itself", "last", "none")):
        yield Attack(
            f"checkpoint {at} twice, behind {behind}",
            lambda scene, at=at, behind=behind: _repeat(scene, at, behind),
            EARLIER if at == 1 else IDS if at == -1 else None,
        )  # fmt: skip


def moved() -> Iterator[Attack]:
    """Rows that are put elsewhere."""
    for at, by in product((0, 3, -1), (-2, -1, 1, 2)):
        yield Attack(f"step {at} moved by {by} checkpoints", lambda scene, at=at, by=by: _move(scene, at, by), EARLIER)
    for at, place in product((0, 3, -1), ({"thread_id": "two"}, {"thread_id": "new"}, {"checkpoint_ns": "x"})):
        yield Attack(
            f"step {at} moved to {place}", lambda scene, at=at, place=place: scene.steps("one")[at].update(place)
        )
    for at, place in product((0, 3, -1), ({"thread_id": "two"}, {"thread_id": "new"}, {"checkpoint_ns": "x"})):
        yield Attack(
            f"checkpoint {at} moved to {place}",
            lambda scene, at=at, place=place: scene.checkpoints("one")[at].update(place),
            EARLIER if at == BEFORE else None,
        )
    for one, other in ((0, 1), (0, -1), (2, 3)):
        yield Attack(f"steps {one} and {other} swapped", lambda s, a=one, b=other: _swap(s.steps("one"), a, b, "value"))
    for one, other in ((3, 4), (2, -1), (-2, -1)):
        yield Attack(
            f"checkpoints {one} and {other} swapped",
            lambda s, a=one, b=other: _swap(s.checkpoints("one"), a, b, "checkpoint"),
            EARLIER if one == 3 else None,
        )
    for channel in ("manifest", "trace"):
        yield Attack(f"{channel} of another run", lambda scene, channel=channel: _take_over(scene, channel, "two"))
        yield Attack(f"{channel} of a run under way", lambda scene, channel=channel: _take_over(scene, channel, "half"))


def rewired() -> Iterator[Attack]:
    """Parents that are others."""
    for at in (0, 1, 4, -1):
        for to in (0, 1, 4, -2, -1):
            if to != at:
                yield Attack(
                    f"checkpoint {at} behind checkpoint {to}",
                    lambda scene, at=at, to=to: _rewire(scene, at, to),
                    EARLIER,
                )
        yield Attack(f"checkpoint {at} behind itself", lambda scene, at=at: _rewire(scene, at, at))
        for text in ("missing", "", None, "1f"):
            yield Attack(
                f"checkpoint {at} behind {text!r}",
                lambda scene, at=at, text=text: scene.checkpoints("one")[at].update(parent_checkpoint_id=text),
                EARLIER if at in (0, 1) else None,
            )
    yield Attack("no checkpoint has a parent", lambda scene: _all_parents(scene, None))
    yield Attack("all checkpoints behind one", lambda scene: _all_parents(scene, scene.checkpoints("one")[0]))
    yield Attack("parents the other way round", _turned)


def forged() -> Iterator[Attack]:
    """Writes that nobody made."""
    tasks = ("forged", NULL_TASK, "same", "zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz")
    for channel, at, task in product(FORGED, ("first", "middle", "last"), tasks):
        # Behind the checkpoint at which the question waits no run has begun, and nobody reads the steps of one.
        ours = at == "last" or (at == "middle" and channel in ("trace", "manifest"))
        yield Attack(
            f"a write to {channel} behind the {at} checkpoint, of task {task}",
            lambda scene, channel=channel, at=at, task=task: _forge(scene, "one", channel, at, task),
            None if ours else EARLIER,
        )
    for channel, task in product(FORGED, tasks):
        yield Attack(
            f"a write to {channel} behind a run under way, of task {task}",
            lambda scene, channel=channel, task=task: _forge(scene, "half", channel, "last", task),
            IN_FLIGHT if channel == "branch:to:draft" else None,  # that comes next anyway
        )


def children() -> Iterator[Attack]:
    """Checkpoints that nobody made."""
    contents: dict[str, dict[str, Any]] = {
        "plain": {}, "waiting": {"__start__": {"question": "x"}}, "asked": {"branch:to:prepare": None},
        "at its end": {"branch:to:finalize": None}, "another answer": {"answer": ["999"]},
        "another result": {"result": {"text": "999"}}, "no result": {"result": {}},
        "waiting, another answer": {"answer": ["999"], "__start__": {"question": "x"}},
        "waiting, another result": {"result": {"text": "999"}, "branch:to:prepare": None},
        "another copy of the trace": {"trace": ormsgpack.Ext(7, ormsgpack.packb([{"index": 0, "text": "x"}]))},
        "another copy of the manifest": {"manifest": ormsgpack.Ext(7, ormsgpack.packb({"question": "x"}))},
    }  # fmt: skip
    harmless = ("plain", "waiting", "asked")
    for (name, content), source in product(contents.items(), ("loop", "fork", "update", "input")):
        yield Attack(
            f"a checkpoint more, {name}, from {source}",
            lambda scene, content=content, source=source: _child(scene, content, source),
            EARLIER if name in harmless else None,
        )


def retyped() -> Iterator[Attack]:
    """Values under another type."""
    for kind in (*TYPES, None):
        yield Attack(f"last checkpoint as {kind!r}", lambda s, kind=kind: _retype(s, s.checkpoints("one")[-1], kind))
        yield Attack(f"step as {kind!r}", lambda s, kind=kind: _retype(s, s.steps("one")[2], kind))
        yield Attack(f"manifest as {kind!r}", lambda s, kind=kind: _retype(s, s.writes("one", "manifest")[0], kind))


def wrapped() -> Iterator[Attack]:
    """Values in a list, or in what LangGraph builds objects of."""
    wrappers: dict[str, Callable[[Any], Any]] = {"a list": lambda value: [value], "a record": lambda v: {"value": v}}
    wrappers |= {f"extension {code}": partial(extension, code) for code in range(8)}
    for channel, (name, wrap) in product(CHANNELS, wrappers.items()):
        yield Attack(f"{channel} in {name}", lambda scene, channel=channel, wrap=wrap: _wrap(scene, channel, wrap))
    for name, wrap in wrappers.items():
        yield Attack(f"a step in {name}", lambda s, wrap=wrap: _packed(s.steps("one")[2], wrap))
        yield Attack(f"the manifest in {name}", lambda s, wrap=wrap: _packed(s.writes("one", "manifest")[0], wrap))


def replaced() -> Iterator[Attack]:
    """Runs, answers and signatures that are others."""
    yield Attack("another run under its thread", lambda scene: _replace_run(scene, "other"))
    yield Attack("its ledger rebuilt", _rebuild)
    yield Attack("its ledger rebuilt, without a signature", lambda scene: _rebuild(scene, unsigned=True))
    yield Attack("no signature", lambda scene: _change_result(scene, lambda r, _: {**r, "signature": None}))
    yield Attack(
        "no field for the signature",
        lambda scene: _change_result(scene, lambda r, _: {k: v for k, v in r.items() if k != "signature"}),
    )
    for part in ("signature", "hash"):
        yield Attack(
            f"{part} of another run",
            lambda scene, part=part: _change_result(scene, lambda r, other: {**r, part: other[part]}),
        )
    yield Attack("the result of another run", lambda scene: _change_result(scene, lambda _, other: other))
    yield Attack("another answer", lambda scene: _put(scene, "answer", ["999"]))
    yield Attack("another stop reason", lambda scene: _put(scene, "stop_reason", "deadline"))
    yield Attack("another answer everywhere", _another_answer)
    yield Attack("all values of another run", _all_values)


def respelt() -> Iterator[Attack]:
    """Values in another form, which a reader could take for the same."""
    yield Attack("no step in flight, as a list", lambda scene: _put(scene, "pending", []))
    yield Attack("a list where a copy of the trace belongs", lambda scene: _put(scene, "trace", [1]))
    for part in ("key", "value"):
        yield Attack(f"{part} of the signature in capitals", lambda scene, part=part: _capitals(scene, part))
    yield Attack(
        "a stage that comes next, with a value",
        lambda scene: scene.put(scene.checkpoints("half")[-1], "branch:to:draft", "x"),
    )
    yield Attack(
        "no channel for the stop reason",
        lambda scene: rewrite(scene.checkpoints("half")[-1], "checkpoint", _without_stop_reason),
    )
    yield Attack("an overwrite of another type", lambda scene: _overwrite(scene.writes("one", "trace")[0]))


def renamed() -> Iterator[Attack]:
    """Places under another name."""
    for name in ("x", "think:0", "a|b"):
        yield Attack(f"namespace {name}", lambda s, name=name: _place(s, "one", checkpoint_ns=name), IDS)
    yield Attack("namespace of a subgraph removed", lambda scene: _place(scene, "nest", checkpoint_ns=""), IDS)
    yield Attack("another thread", lambda scene: _place(scene, "one", thread_id="new"), IDS)
    yield Attack("threads merged", lambda scene: _place(scene, "two", thread_id="one"), IDS)
    yield Attack("a run under way merged", lambda scene: _place(scene, "half", thread_id="one"), IDS)
    yield Attack("threads swapped", _swap_threads, IDS)
    yield Attack("threads woven", _weave)


def blobs() -> Iterator[Attack]:
    """Values of channels in rows of their own."""
    for channel in ("result", "progress", "answer", "trace_summary"):
        yield Attack(
            f"value of {channel} removed",
            lambda scene, channel=channel: scene.remove("blobs", _last_blob(scene, channel)),
        )
        yield Attack(
            f"value of {channel} empty",
            lambda scene, channel=channel: _last_blob(scene, channel).update(type="empty", value=None),
        )
        for kind in TYPES:
            yield Attack(
                f"value of {channel} as {kind!r}",
                lambda scene, channel=channel, kind=kind: _last_blob(scene, channel).update(type=kind),
            )


def _remove(scene: Scene, *checkpoints: Row) -> None:
    names = {each["checkpoint_id"] for each in checkpoints}
    scene.remove("checkpoints", *checkpoints)
    scene.remove("writes", *(row for row in scene.rows["writes"] if row["checkpoint_id"] in names))


def _cut(scene: Scene, left: int, *, writes: bool = False) -> None:
    kept = scene.checkpoints("one")[:left]
    _remove(scene, *scene.checkpoints("one")[left:])
    if writes:
        scene.remove("writes", *scene.writes("one", at=kept[-1]["checkpoint_id"]))


def _repeat(scene: Scene, at: int, behind: str) -> None:
    checkpoint, last = scene.checkpoints("one")[at], scene.checkpoints("one")[-1]
    before = {
        "parent": checkpoint["parent_checkpoint_id"], "itself": checkpoint["checkpoint_id"],
        "last": last["checkpoint_id"], "none": None,
    }  # fmt: skip
    made = scene.add("checkpoints", checkpoint, checkpoint_id=_later(last), parent_checkpoint_id=before[behind])
    rewrite(made, "checkpoint", lambda content: {**content, "id": made["checkpoint_id"]})


def _later(checkpoint: Row) -> str:
    return f"1fffffff{checkpoint['checkpoint_id'][8:]}"


def _move(scene: Scene, at: int, by: int) -> None:
    names, row = [each["checkpoint_id"] for each in scene.checkpoints("one")], scene.steps("one")[at]
    row["checkpoint_id"] = names[max(0, min(names.index(row["checkpoint_id"]) + by, len(names) - 1))]


def _swap(rows: list[Row], one: int, other: int, column: str) -> None:
    rows[one][column], rows[other][column] = rows[other][column], rows[one][column]


def _take_over(scene: Scene, channel: str, thread: str) -> None:
    for mine, theirs in zip(scene.writes("one", channel), scene.writes(thread, channel), strict=False):
        mine["value"] = theirs["value"]


def _rewire(scene: Scene, at: int, to: int) -> None:
    there = scene.checkpoints("one")
    there[at]["parent_checkpoint_id"] = there[to]["checkpoint_id"]


def _all_parents(scene: Scene, to: Row | None) -> None:
    for each in scene.checkpoints("one"):
        each["parent_checkpoint_id"] = to["checkpoint_id"] if to and each is not to else None


def _turned(scene: Scene) -> None:
    there = scene.checkpoints("one")
    for each, following in zip(there, [*there[1:], None], strict=True):
        each["parent_checkpoint_id"] = following["checkpoint_id"] if following else None


def _forge(scene: Scene, thread: str, channel: str, at: str, task: str) -> None:
    there = scene.checkpoints(thread)
    checkpoint = there[{"first": 0, "middle": len(there) // 2, "last": -1}[at]]
    rows = scene.writes(thread, at=checkpoint["checkpoint_id"]) or scene.writes(thread)
    name = rows[-1]["task_id"] if task == "same" else task
    place = {"checkpoint_id": checkpoint["checkpoint_id"], "task_id": name, "idx": 50, "channel": channel}
    scene.add("writes", rows[-1], **place, type="msgpack", value=ormsgpack.packb(FORGED[channel]))


def _child(scene: Scene, content: dict[str, Any], source: str) -> None:
    last = scene.checkpoints("one")[-1]
    made = scene.add("checkpoints", last, checkpoint_id=_later(last), parent_checkpoint_id=last["checkpoint_id"])
    rewrite(made, "checkpoint", lambda stored: {**stored, "id": made["checkpoint_id"]})
    rewrite(made, "metadata", lambda stored: {**stored, "source": source})
    for name, value in content.items():
        if "blobs" in scene.rows and name in decoded(made, "checkpoint")["channel_versions"]:
            # the last checkpoint keeps its own value
            rewrite(made, "checkpoint", lambda stored, name=name: _with_version(stored, name))
        scene.put(made, name, value)


def _with_version(stored: dict[str, Any], name: str) -> dict[str, Any]:
    return {**stored, "channel_versions": {**stored["channel_versions"], name: "99.forged"}}


def _retype(scene: Scene, row: Row, kind: str | None) -> None:
    if isinstance(row.get("checkpoint"), dict):  # PostgreSQL keeps it as JSON: there it is the whole that is another
        row["checkpoint"] = [row["checkpoint"], kind]
    row["type"] = kind


def _wrap(scene: Scene, channel: str, wrap: Callable[[Any], Any]) -> None:
    last = scene.checkpoints("one")[-1]
    scene.put(last, channel, wrap(scene.channel(last, channel)))


def _packed(row: Row, wrap: Callable[[Any], Any]) -> None:
    row["value"] = ormsgpack.packb(wrap(decoded(row, "value")))


def _put(scene: Scene, channel: str, value: Any) -> None:
    scene.put(scene.checkpoints("one")[-1], channel, value)


def _replace_run(scene: Scene, thread: str) -> None:
    for table, rows in scene.rows.items():
        scene.rows[table] = [row for row in rows if row["thread_id"] != "one"]
    _place(scene, thread, thread_id="one")


def _change_result(scene: Scene, change: Callable[[Any, Any], Any]) -> None:
    last, other = scene.checkpoints("one")[-1], scene.checkpoints("two")[-1]
    scene.put(last, "result", change(scene.channel(last, "result"), scene.channel(other, "result")))


def _capitals(scene: Scene, part: str) -> None:
    last = scene.checkpoints("one")[-1]
    result = scene.channel(last, "result")
    scene.put(last, "result", {**result, "signature": {**result["signature"], part: result["signature"][part].upper()}})


def _without_stop_reason(stored: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in stored["channel_values"].items() if name != "stop_reason"}
    return {**stored, "channel_values": kept}


def _overwrite(row: Row) -> None:
    content = ["langgraph.types", "Overwrite", {"value": [], "type": "__other__"}]
    row["value"] = ormsgpack.packb(ormsgpack.Ext(2, ormsgpack.packb(content)))


def _rebuild(scene: Scene, *, unsigned: bool = False) -> None:
    """Change a step, and all hashes behind it."""
    (row,) = scene.writes("one", "manifest")
    manifest = seal_manifest({**decoded(row, "value"), "question": "Who?"})
    rewrite(row, "value", lambda _: manifest)
    trace = list[Any]()
    for each in scene.steps("one"):
        (step,) = decoded(each, "value")
        trace.append(seal_step({**step, "hash": None}, head_of(manifest, trace)))
        rewrite(each, "value", lambda _: trace[-1:])
    last = scene.checkpoints("one")[-1]
    result = scene.channel(last, "result")
    sealed = seal_answer(result, scene.channel(last, "stop_reason"), head_of(manifest, trace))
    scene.put(last, "result", {**sealed, "signature": None} if unsigned else sealed)


def _another_answer(scene: Scene) -> None:
    last = scene.checkpoints("one")[-1]
    result = {**scene.channel(last, "result"), "text": "999"}
    digest = hashlib.sha256(b"999").hexdigest()
    scene.put(last, "result", {**result, "hash": digest})
    scene.put(last, "answer", ["999"])


def _all_values(scene: Scene) -> None:
    last, other = scene.checkpoints("one")[-1], scene.checkpoints("two")[-1]
    for channel in CHANNELS:
        scene.put(last, channel, deepcopy(scene.channel(other, channel)))


def _place(scene: Scene, thread: str, **place: str) -> None:
    for row in (row for rows in scene.rows.values() for row in rows if row["thread_id"] == thread):
        row.update(place)


def _swap_threads(scene: Scene) -> None:
    for thread, to in (("one", "between"), ("two", "one"), ("between", "two")):
        _place(scene, thread, thread_id=to)


def _weave(scene: Scene) -> None:
    """Put the checkpoints of one run behind the last of another."""
    last = scene.checkpoints("one")[-1]
    scene.checkpoints("two")[0]["parent_checkpoint_id"] = last["checkpoint_id"]
    _place(scene, "two", thread_id="one")
    _remove(scene, scene.checkpoints("one")[2])


def _last_blob(scene: Scene, channel: str) -> Row:
    last = scene.checkpoints("one")[-1]
    version = decoded(last, "checkpoint")["channel_versions"][channel]
    return next(
        row for row in scene.rows["blobs"]
        if (row["thread_id"], row["channel"], row["version"]) == ("one", channel, version)
    )  # fmt: skip
