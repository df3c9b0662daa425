"""Which run a call inside another graph's node resumes: the one that was asked the same.

LangGraph numbers the graphs that a task calls in the order of the calls, and keeps each under its number. When the task
runs again, calls that are made side by side may come in another order, and each would go on with what another was
asked. So a resumed call looks for its own question, and begins anew where there is none. The first call of a task keeps
LangGraph's number, 0; the others have numbers made of what they ask.

A human's answer is likewise kept with the run that asked, where LangGraph looks first, before any call can ask anew.

The keys and the scratchpad that this goes by are LangGraph's own affair (1.2): its version is bounded, and
``tests/test_nested_calls.py`` fails where they move.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from threading import Lock
from typing import Any, Self
from weakref import WeakKeyDictionary

from langchain_core.runnables import RunnableConfig
from langgraph._internal._config import ensure_config
from langgraph.checkpoint.base import BaseCheckpointSaver

from specreason_graph.config import CONFIG_KEY, SpecReasonConfig
from specreason_graph.errors import UsageError
from specreason_graph.prompting.conversation import read_conversation

SCRATCHPAD, TASK, RESUMING, REPLAYS, ANSWERS = (
    f"__pregel_{key}" for key in ("scratchpad", "task_id", "resuming", "replay_state", "resume_map")
)
INTERRUPT, RESUME = "__interrupt__", "__resume__"
NULL_TASK = "00000000-0000-0000-0000-000000000000"
"""Whose answer it is that names no question."""
SAVER, RUNTIME = "__pregel_checkpointer", "__pregel_runtime"
FIRST = 2**32
"""From here on numbers are made of questions: no task calls so many graphs."""
HANDING_ON = -1
"""Stands in the place of a number while a human's answer is handed on."""
LOCK = Lock()
TAKEN: WeakKeyDictionary[Any, set[tuple[int, int]]] = WeakKeyDictionary()
"""Attempts and numbers of the calls of each task, which is known by a function of its scratchpad: it dies with it."""
OPEN: set[tuple[str, str, int]] = set()
"""Thread, namespace and number of the calls under way: a task that failed may have left some of its calls running."""
PATIENCE = 60.0
"""Seconds after which a call that was left running is given up, and its question asked anew."""


def around(config: RunnableConfig | None) -> Mapping[str, Any]:
    """The ``configurable`` of a call, with what the graph or server around it adds."""
    found: Mapping[str, Any] = ensure_config(config)["configurable"]
    return found


Read = tuple[Callable[[Any], Any], Callable[[Any], Any], Any]
"""Something to read or wait for: a method, its asynchronous twin, and what they are called with."""


@dataclass(frozen=True)
class NestedCall:
    """A call of a graph with a question, from a task of another graph."""

    asked: list[Any]
    """The conversation, as a manifest has it."""
    settings: Mapping[str, Any]
    """Settings of this call alone."""
    conf: Mapping[str, Any]
    """The call's ``configurable``."""

    @classmethod
    def find(cls, asked: Any, config: RunnableConfig | None, context: Any) -> Self | None:
        """The nested call; None where the graph is a root, nothing is kept, or what is asked cannot be read."""
        conf = around(config)
        known = all(conf.get(key) is not None for key in (SCRATCHPAD, TASK, "thread_id"))
        if not known or not isinstance(conf.get(SAVER), BaseCheckpointSaver) or not isinstance(asked, Mapping):
            return None
        given = conf.get(CONFIG_KEY)
        own = context.model_dump(exclude_unset=True) if isinstance(context, SpecReasonConfig) else {}
        own |= given if isinstance(given, Mapping) else {}
        try:  # what is wrong is said by the run itself
            settings = SpecReasonConfig(**own).model_dump(mode="json", include=set(own))
            return cls(_turns(asked), settings, conf)
        except (UsageError, ValueError):
            return None

    @property
    def resumes(self) -> bool:
        """Whether the task runs again; of a thread that is replayed from an older step LangGraph takes care itself."""
        return bool(self.conf.get(RESUMING)) and not self.conf.get(REPLAYS)

    @contextmanager
    def placed(self, number: int, *, hears: bool) -> Iterator[RunnableConfig]:
        """The config under which the call is made while it is open; ``hears``: whether a human's answer is for it."""
        scratchpad = replace(self.conf[SCRATCHPAD], subgraph_counter=lambda: number)
        if not hears:
            scratchpad = replace(scratchpad, get_null_resume=lambda *_, **__: None)
        with LOCK:
            OPEN.add(self._key(number))
        try:
            yield {"configurable": {**self.conf, SCRATCHPAD: scratchpad}}
        finally:
            with LOCK:
                OPEN.discard(self._key(number))

    def choose(self, graph: Any) -> Generator[Read, Any, tuple[int, bool]]:
        """The call's number, and whether a human's answer that names no question is for it; yields what to do first."""
        order = self.conf[SCRATCHPAD].subgraph_counter()
        if not self.resumes:
            return self._claim(None if order else 0), True
        hears = yield from self._hand_on_answers()
        first = yield graph.get_state, graph.aget_state, self._config(0)
        usable = self._is_own(first.values) or not (first.created_at or order)
        number = self._claim(0 if usable else None, waits=True)
        yield self.released, self.areleased, number
        if self._key(number) in OPEN:
            number = self._claim(None)
        return number, hears

    def _hand_on_answers(self) -> Generator[Read, Any, bool]:
        """Keep a human's answer with the run that asked; whether one that is still there may be for this call.

        Any call of the task does it, before it can ask itself: another question ends the task and is kept in place of
        the one that was answered, and the call that asked may come after that, or be cut off.
        """
        saver, waiting, answers = self.conf[SAVER], self.conf[SCRATCHPAD].get_null_resume, self.conf.get(ANSWERS) or {}
        if waiting(consume=False) is None and not answers:
            return True
        above = yield saver.get_tuple, saver.aget_tuple, self._config(None)
        told = [each for name, each in _interrupts(above) if name == self.conf[TASK]]
        for each in told:
            place = each.value.get("checkpoint_ns", "") if isinstance(each.value, Mapping) else ""
            if not place.startswith(self.conf.get("checkpoint_ns", "")):  # the node itself has asked
                continue
            with LOCK:
                answer = answers[each.id] if each.id in answers else waiting(consume=True)
                if answer is not None:
                    OPEN.add(self._key(HANDING_ON))
            if answer is None:
                yield self.released, self.areleased, HANDING_ON
                continue
            try:
                namespace, _, task = place.rpartition("|")
                yield from self._write_answer(namespace, task.rpartition(":")[2], [answer])
                if each.id not in answers:  # or a later question would get it when the thread goes on without one
                    yield from self._write_answer("", NULL_TASK, None)
            finally:
                with LOCK:
                    OPEN.discard(self._key(HANDING_ON))
        return not told

    def _write_answer(self, namespace: str, task: str, answer: Any) -> Generator[Read, Any, None]:
        saver = self.conf[SAVER]
        if latest := (yield saver.get_tuple, saver.aget_tuple, self._at(namespace)):
            to = latest.config, [(RESUME, answer)]
            yield partial(saver.put_writes, *to), partial(saver.aput_writes, *to), task

    def released(self, number: int) -> None:
        """Wait for a call that a failed attempt has left running: this one goes on with what comes of it."""
        until = time.monotonic() + PATIENCE
        while self._key(number) in OPEN and time.monotonic() < until:
            time.sleep(0.01)

    async def areleased(self, number: int) -> None:
        """Do the same as `released`, without keeping the event loop."""
        until = time.monotonic() + PATIENCE
        while self._key(number) in OPEN and time.monotonic() < until:
            await asyncio.sleep(0.01)

    def _claim(self, number: int | None, *, waits: bool = False) -> int:
        """A number that this attempt has not used, if need be another: a question that is asked twice has two runs.

        ``waits``: whether it may be one that another attempt has open.
        """
        runtime, scratchpad = self.conf.get(RUNTIME), self.conf[SCRATCHPAD]
        attempt = getattr(getattr(runtime, "execution_info", None), "node_attempt", 1)
        with LOCK:
            taken = TAKEN.setdefault(scratchpad.get_null_resume, set())
            numbers = ([] if number is None else [number], (self._number(index) for index in count()))
            for each in (each for some in numbers for each in some):
                if (attempt, each) not in taken and (waits or self._key(each) not in OPEN):
                    taken.add((attempt, each))
                    return each
        raise AssertionError("there is always another number")

    def _number(self, index: int) -> int:
        text = json.dumps([self.asked, self.settings, index], sort_keys=True)
        return FIRST + int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])

    def _is_own(self, values: Mapping[str, Any]) -> bool:
        """Whether a run that has come to these values was asked the same."""
        manifest = values.get("manifest")
        if not manifest:  # it has not come as far as that
            try:
                return _turns(values) == self.asked
            except UsageError:
                return False
        same = all(manifest["config"].get(name) == value for name, value in self.settings.items())
        return same and manifest["turns"] == self.asked

    def _config(self, number: int | None) -> RunnableConfig:
        """Where the run with a number is kept; without one, the graph that calls."""
        namespace = self.conf.get("checkpoint_ns", "")
        if number is None:
            return self._at(namespace.rpartition("|")[0])
        return self._at(f"{namespace}|{number}" if number else namespace)

    def _at(self, namespace: str) -> RunnableConfig:
        return {
            "configurable": {"thread_id": self.conf["thread_id"], "checkpoint_ns": namespace, SAVER: self.conf[SAVER]}
        }

    def _key(self, number: int) -> tuple[str, str, int]:
        return str(self.conf["thread_id"]), self.conf.get("checkpoint_ns", ""), number


def _turns(asked: Mapping[str, Any]) -> list[Any]:
    return [turn.dump() for turn in read_conversation(asked.get("question"), asked.get("messages"))]


def _interrupts(found: Any) -> Iterator[tuple[str, Any]]:
    """The questions to humans that are kept with a checkpoint, by the task that asked."""
    for task, channel, value in (found.pending_writes or ()) if found else ():
        if channel == INTERRUPT:
            yield from ((task, each) for each in (value if isinstance(value, list | tuple) else [value]))
