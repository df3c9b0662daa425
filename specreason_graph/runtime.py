"""How LangGraph calls a stage: under its run's settings, on the engines' loop, stopped when the caller leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from functools import lru_cache
from traceback import walk_tb
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel._loop import AsyncPregelLoop
from langgraph.runtime import get_runtime

from specreason_graph.config import CONFIG_KEY, STREAM_KEY, SpecReasonConfig, overridden
from specreason_graph.engines.base import SESSION
from specreason_graph.engines.pair import CALLS, CANCELLING, EnginePair, StreamCalls
from specreason_graph.errors import ConfigError
from specreason_graph.lookahead.lookahead import DeadlinePassed
from specreason_graph.lookahead.registry import LookaheadRegistry
from specreason_graph.lookahead.step_sampler import StepSampler
from specreason_graph.nodes import Finalize, Prepare
from specreason_graph.nodes.stage import Stage
from specreason_graph.record.claim import Holder, aclaimed, claimed
from specreason_graph.record.manifest import with_todays_names
from specreason_graph.record.progress import Progress
from specreason_graph.record.signing import Signer
from specreason_graph.record.state import Outcome, Question, State

Work = Callable[[], Coroutine[Any, Any, dict[str, Any]]]
CHECKPOINTER, TASK = "__pregel_checkpointer", "__pregel_task_id"
"""Keys under which LangGraph gives a graph the checkpointer of its server, and a node the task that it works for."""
RECURSION_LIMIT = 1_000_000
"""Supersteps of a run: its own limits end it, not LangGraph's, which callers set for graphs of their own."""
SETTINGS = 1024
"""Settings that are kept ready: as many as there may be runs at once with settings of their own."""


class StageRunner:
    """Runs stages over one pair, each call under the settings of the run it works for."""

    def __init__(
        self, pair: EnginePair, defaults: SpecReasonConfig, signer: Signer | None, *, accept_changes: bool = False
    ) -> None:
        self.pair, self._defaults, self._signer, self._accept_changes = pair, defaults, signer, accept_changes
        self._registry = LookaheadRegistry.of(pair)
        self._sampler = lru_cache(maxsize=SETTINGS)(self._make_sampler)

    def work(self, stage: type[Stage] | type[Prepare], state: State, config: RunnableConfig) -> Work:
        """What a stage does for a run, to be awaited on the engines' loop; settings are checked here, in the caller."""
        configurable = config.get("configurable", {})
        thread = configurable.get("thread_id")
        SESSION.set(None if thread is None else str(thread))  # by it a router in front of servers keeps a run together
        if issubclass(stage, Prepare):
            settings = self.settings_of(get_runtime().context, configurable.get(CONFIG_KEY)).model_dump_json()
            return lambda: stage(self._sampler(settings), self._registry)(state)
        # the manifest's settings and not today's: a resumed run goes on under those it began with
        manifest = state["manifest"]
        recorded = with_todays_names(manifest["config"])
        if not manifest.get("thinking"):  # a run of schema version 4 and before: all models thought between tags
            recorded = {**recorded, "thinking": "tags"}
        settings = SpecReasonConfig.model_validate(recorded).model_dump_json()
        streams = configurable.get(STREAM_KEY) is True
        return lambda: self._run(stage, settings, state, streams=streams)

    async def _run(self, kind: type[Stage], settings: str, state: State, *, streams: bool) -> dict[str, Any]:
        """Do a stage's work; when it ends the run, or the run is left, nothing goes on behind it."""
        progress = Progress.load(state["progress"])
        try:
            # made here and not in the caller, whose event loop must not wait for a tokenizer to load
            stage = kind(self._sampler(settings), self._registry, self._signer)
            lookahead = self._registry.find(state, stage.sampler, accept_changes=self._accept_changes)
            lookahead.streams = streams
            changes = await stage(state, lookahead)
        except DeadlinePassed as late:
            # What is pending stays: `finalize` puts it into the record of the answer.
            stopped = progress.model_copy(update={"seconds": late.seconds_used, "stop_reason": "deadline"})
            return {"progress": stopped.dump()}
        except BaseException:
            if ending := self._registry.leave(progress.run, CALLS.get()):
                await asyncio.wait(ending, timeout=CANCELLING)
            raise
        if kind is Finalize:
            self._registry.leave(progress.run, CALLS.get())
        return changes

    def settings_of(self, context: object, given: object) -> SpecReasonConfig:
        """The settings of a run that begins: the graph's, the context's over them, and the call's over both."""
        own: dict[str, Any] = context.model_dump(exclude_unset=True) if isinstance(context, SpecReasonConfig) else {}
        if not isinstance(given, Mapping | None):
            raise ConfigError(
                f'config["configurable"]["{CONFIG_KEY}"] is a {type(given).__name__}',
                hint="write a mapping of settings",
            )
        return overridden(self._defaults, own, given or {})

    def _make_sampler(self, settings: str) -> StepSampler:
        return StepSampler.create(self.pair, SpecReasonConfig.model_validate_json(settings))


class Node(Runnable[State, dict[str, Any]]):
    """A stage as LangGraph calls it: one asynchronous core, on the engines' loop, for sync and async callers.

    A ``RunnableLambda`` would do, but tells tracers of each node twice and looks up its signature in every call.
    """

    def __init__(self, name: str, stage: type[Stage] | type[Prepare], runner: StageRunner) -> None:
        self.name, self._stage, self._runner = name, stage, runner

    def invoke(self, input: State, config: RunnableConfig | None = None, **_: Any) -> dict[str, Any]:  # noqa: A002
        """The channels that the stage changes."""
        return self._runner.pair.run(self._runner.work(self._stage, input, config or {}))

    async def ainvoke(self, input: State, config: RunnableConfig | None = None, **_: Any) -> dict[str, Any]:  # noqa: A002
        """The channels that the stage changes."""
        return await self._runner.pair.arun(self._runner.work(self._stage, input, config or {}))


class Route(Runnable[State, str]):
    """Chooses the next node in the same turn of the event loop in which the last one's changes are written.

    LangGraph gives a plain function to another thread. A run that was cancelled meanwhile kept the node's changes
    without what comes next: for LangGraph the node had finished, and a resume ended there, without an answer.
    """

    def __init__(self, choose: Callable[[Mapping[str, Any]], str]) -> None:
        self.name, self._choose = choose.__name__, choose

    def invoke(self, input: State, config: RunnableConfig | None = None, **_: Any) -> str:  # noqa: A002, ARG002
        """The name of the next node."""
        return self._choose(input)

    async def ainvoke(self, input: State, config: RunnableConfig | None = None, **_: Any) -> str:  # noqa: A002, ARG002
        """The name of the next node, without letting anything else run first."""
        return self._choose(input)


class UnlimitedGraph(CompiledStateGraph[State, SpecReasonConfig, Question, Outcome]):
    """A compiled graph that no recursion limit of a caller cuts short, and whose work ends with its stream.

    While a stream is read nobody else may work on its thread: `ThreadError`. One that nobody reads is taken over.
    """

    def stream(self, input: Any, config: RunnableConfig | None = None, **more: Any) -> Iterator[Any]:  # noqa: A002
        """Run, and yield what the stream modes ask for; who leaves the stream ends the engines' work."""
        held = self._held(config)
        with claimed(*held) if held else nullcontext(Holder()) as holder:
            calls = StreamCalls()
            parts = super().stream(input, _unlimited(config), **more)
            try:
                while True:
                    with _noted_in(calls):
                        try:
                            part = next(parts)
                        except StopIteration:
                            return
                    holder.idle = True
                    yield _spoken(part)
                    holder.goes_on()
            finally:
                holder.idle = False  # what was begun is still being written
                calls.cancel()
                parts.close()  # type: ignore[attr-defined]

    async def astream(self, input: Any, config: RunnableConfig | None = None, **more: Any) -> AsyncIterator[Any]:  # noqa: A002
        """Run, and yield what the stream modes ask for; who leaves the stream ends the engines' work."""
        held = self._held(config)
        async with aclaimed(*held) if held else nullcontext(Holder()) as holder, _all_written():
            calls = StreamCalls()
            parts = super().astream(input, _unlimited(config), **more)
            try:
                while True:
                    with _noted_in(calls):
                        try:
                            part = await anext(parts)
                        except StopAsyncIteration:
                            return
                    holder.idle = True
                    yield _spoken(part)
                    holder.goes_on()
            finally:
                holder.idle = False  # what was begun is still being written
                calls.cancel()
                await parts.aclose()  # type: ignore[attr-defined]

    def _held(self, config: RunnableConfig | None) -> tuple[BaseCheckpointSaver[Any], str] | None:
        """The saver and thread that this stream works on; None without them, and inside another graph's node."""
        bound, given = ((each or {}).get("configurable") or {} for each in (self.config, config))
        place = {**bound, **given}
        saver = self.checkpointer or place.get(CHECKPOINTER)
        if not isinstance(saver, BaseCheckpointSaver) or "thread_id" not in place or TASK in place:
            return None
        return saver, str(place["thread_id"])


@contextmanager
def _noted_in(calls: StreamCalls) -> Iterator[None]:
    """Note the engines' work that is begun meanwhile; the threads of nodes inherit that."""
    token = CALLS.set(calls)
    try:
        yield
    finally:
        CALLS.reset(token)


@asynccontextmanager
async def _all_written() -> AsyncIterator[None]:
    """Hold a cancellation back until LangGraph has written what it began, or the next caller reads an older state.

    LangGraph waits for its writes itself, but one that comes during that wait ends it and leaves them running. They are
    only to be found through its loop: ``tests/test_one_writer.py`` fails where that moves.
    """
    try:
        yield
    except asyncio.CancelledError as cancelled:
        # a loop that is cancelled while it reads the thread has not begun to write
        begun = [loop.submit for loop in _loops(cancelled) if hasattr(loop, "submit")]
        writes = {task for submit in begun for task in submit.__self__.tasks}
        while writes := {task for task in writes if not task.done()}:
            with suppress(asyncio.CancelledError):
                await asyncio.wait(writes)
        raise


def _spoken(part: Any) -> Any:
    """A part of a stream, without a conversation where there is none: it would take the place of a parent's."""
    values = part[-1] if isinstance(part, tuple) else part
    if isinstance(values, dict) and values.get("type") == "values":  # the form of LangGraph's streaming version 2
        values = values["data"]
    if isinstance(values, dict) and values.get("messages") == []:
        del values["messages"]
    return part


def _loops(error: BaseException | None) -> Iterator[Any]:
    """LangGraph's loops that an error has come through, or those before it that it came upon."""
    while error is not None:
        for frame, _ in walk_tb(error.__traceback__):
            if isinstance(loop := frame.f_locals.get("self"), AsyncPregelLoop):
                yield loop
        error = error.__context__


def _unlimited(config: RunnableConfig | None) -> RunnableConfig:
    limit = (config or {}).get("recursion_limit", 0)
    return {**(config or {}), "recursion_limit": max(RECURSION_LIMIT, limit)}
