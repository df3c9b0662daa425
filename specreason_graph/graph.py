"""The loop as a LangGraph state graph.

START -> prepare -> draft -> score -> accept or review or regenerate -> draft ... -> finalize -> END
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import lru_cache
from typing import Any, cast

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import get_runtime

from specreason_graph.audit.signing import Signer
from specreason_graph.config import SpecReasonConfig, make_config, overridden
from specreason_graph.engines.base import SESSION
from specreason_graph.engines.pair import CALLS, CANCELLING, EnginePair
from specreason_graph.errors import ConfigError
from specreason_graph.nodes import Accept, AskHuman, Draft, Finalize, Prepare, Regenerate, ScoreProposal
from specreason_graph.nodes.stage import Stage
from specreason_graph.prompting import Prompts
from specreason_graph.routes import ROUTES, Route, destinations
from specreason_graph.state import Outcome, Question, State
from specreason_graph.window import Overdue
from specreason_graph.windows import windows_of

RECURSION_LIMIT = 1_000_000
"""Supersteps of a run: its own limits end it, not LangGraph's, which callers set for graphs of their own."""
SETTINGS = 1024
"""Settings that are kept ready: as many as there may be runs at once with settings of their own."""
KNOBS = "specreason"
"""Key of ``config["configurable"]`` under which a call's own settings are looked for."""
STAGES: dict[str, type[Stage]] = {
    "prepare": Prepare, "draft": Draft, "score": ScoreProposal, "review": AskHuman, "accept": Accept,
    "regenerate": Regenerate, "finalize": Finalize,
}  # fmt: skip


def create_specreason(
    pair: EnginePair, *, config: SpecReasonConfig | None = None, signer: Signer | None = None, **settings: Any
) -> SpecReasonGraph:
    """Wire the loop over ``pair`` and return the graph, not yet compiled: the caller brings the checkpointer.

    ``settings`` are fields of `SpecReasonConfig`, on top of ``config``; a bad one raises `ConfigError`. Invoke the
    compiled graph with ``{"question": ...}`` or ``{"messages": [...]}``, sync or async; it returns ``answer``,
    ``stop_reason``, ``trace``, ``trace_summary`` and, to messages, ``messages``. One call may have settings of its own,
    as ``context=SpecReasonConfig(...)`` (fields not set there keep the graph's) or in
    ``config["configurable"]["specreason"]``. A ``signer`` signs the ledger of each run that ends.

    Method: SpecReason, arXiv 2504.07891.
    """
    bench = Bench(pair, overridden(config or make_config(), settings), signer)
    graph = SpecReasonGraph(State, context_schema=SpecReasonConfig, input_schema=Question, output_schema=Outcome)
    for name, stage in STAGES.items():
        graph.add_node(name, Node(name, stage, bench))
    graph.add_edge(START, "prepare")
    for name, choose in ROUTES.items():
        graph.add_conditional_edges(name, Route(choose), destinations(choose))
    graph.add_edge("finalize", END)
    return graph


class Bench:
    """Where stages work: over one pair, each call under the settings of the run it works for."""

    def __init__(self, pair: EnginePair, defaults: SpecReasonConfig, signer: Signer | None) -> None:
        self.pair, self.defaults, self.signer = pair, defaults, signer
        self._equipped = lru_cache(maxsize=SETTINGS)(self._equip)

    async def work(self, stage: Stage, state: State) -> dict[str, Any]:
        """Do a stage's work; when it ends the run, or the run is left, nothing goes on behind it."""
        run = state.get("progress", {}).get("run", "")
        try:
            changes = await stage(state)
        except Overdue as late:
            return {"pending": {}, "progress": {**state["progress"], "seconds": late.used, "stop_reason": "deadline"}}
        except BaseException:
            if ending := windows_of(self.pair).leave(run, CALLS.get()):
                await asyncio.wait(ending, timeout=CANCELLING)
            raise
        if isinstance(stage, Finalize):
            windows_of(self.pair).leave(run, CALLS.get())
        return changes

    def ready(self, stage: type[Stage], state: State, config: RunnableConfig) -> Stage:
        """The stage under the settings of the run it works for."""
        configurable = config.get("configurable", {})
        thread = configurable.get("thread_id")
        SESSION.set(str(thread) if thread is not None else None)
        if stage is Prepare:
            settings = self._asked(configurable.get(KNOBS)).model_dump_json()
        else:
            settings = SpecReasonConfig.model_validate(state["manifest"]["config"]).model_dump_json()
        return stage(self.pair, *self._equipped(settings), self.signer)

    def _asked(self, knobs: object) -> SpecReasonConfig:
        """The settings of a run that begins: the graph's, the context's over them, and the call's over both."""
        context = get_runtime().context
        given: dict[str, Any] = context.model_dump(exclude_unset=True) if isinstance(context, SpecReasonConfig) else {}
        if not isinstance(knobs, Mapping | None):
            raise ConfigError(
                f'config["configurable"]["{KNOBS}"] is a {type(knobs).__name__}', hint="write a mapping of settings"
            )
        return overridden(self.defaults, given, knobs or {})

    def _equip(self, settings: str) -> tuple[SpecReasonConfig, Prompts]:
        config = SpecReasonConfig.model_validate_json(settings)
        return config, Prompts(self.pair, config)


class Node(Runnable[State, dict[str, Any]]):
    """A stage as LangGraph calls it: one asynchronous core, on the engines' loop, for sync and async callers.

    A ``RunnableLambda`` would do, but tells tracers of each node twice and looks up its signature in every call.
    """

    def __init__(self, name: str, stage: type[Stage], bench: Bench) -> None:
        self.name, self._stage, self._bench = name, stage, bench

    def invoke(self, input: State, config: RunnableConfig | None = None, **_: Any) -> dict[str, Any]:  # noqa: A002
        """The channels that the stage changes."""
        stage = self._bench.ready(self._stage, input, config or {})
        return self._bench.pair.run(lambda: self._bench.work(stage, input))

    async def ainvoke(self, input: State, config: RunnableConfig | None = None, **_: Any) -> dict[str, Any]:  # noqa: A002
        """The channels that the stage changes."""
        stage = self._bench.ready(self._stage, input, config or {})
        return await self._bench.pair.arun(lambda: self._bench.work(stage, input))


class CompiledSpecReason(CompiledStateGraph[State, SpecReasonConfig, Question, Outcome]):
    """The compiled loop. It does not run into recursion limits that callers set, or LangChain sets for them."""

    def stream(self, input: Any, config: RunnableConfig | None = None, **more: Any) -> Iterator[Any]:  # noqa: A002
        """Run, and yield what the stream modes ask for; who leaves the stream ends the engines' work."""
        calls: set[Any] = set()
        parts = super().stream(input, _unlimited(config), **more)
        try:
            while True:
                token = CALLS.set(calls)  # the threads of the nodes inherit it
                try:
                    part = next(parts)
                except StopIteration:
                    return
                finally:
                    CALLS.reset(token)
                yield part
        finally:
            for call in list(calls):
                call.cancel()
            parts.close()  # type: ignore[attr-defined]

    async def astream(self, input: Any, config: RunnableConfig | None = None, **more: Any) -> AsyncIterator[Any]:  # noqa: A002
        """Run, and yield what the stream modes ask for; who leaves the stream ends the engines' work."""
        calls: set[Any] = set()
        parts = super().astream(input, _unlimited(config), **more)
        try:
            while True:
                token = CALLS.set(calls)
                try:
                    part = await anext(parts)
                except StopAsyncIteration:
                    return
                finally:
                    CALLS.reset(token)
                yield part
        finally:
            for call in list(calls):
                call.cancel()
            await parts.aclose()  # type: ignore[attr-defined]

    def as_tool(self, *, name: str = "think", description: str | None = None, **more: Any) -> BaseTool:  # type: ignore[override]
        """A tool that takes a ``question`` and gives the answer."""

        def think(question: str, config: RunnableConfig) -> str:
            return _answer(self.invoke({"question": question}, config))

        async def athink(question: str, config: RunnableConfig) -> str:
            return _answer(await self.ainvoke({"question": question}, config))

        text = description or "Thinks about a question step by step and gives the answer."
        return StructuredTool.from_function(think, athink, name=name, description=text, **more)


class SpecReasonGraph(StateGraph[State, SpecReasonConfig, Question, Outcome]):
    """The loop before it is compiled."""

    def compile(self, *arguments: Any, **more: Any) -> CompiledSpecReason:
        """Compile, as LangGraph does; nothing is needed, and a ``checkpointer`` makes runs resumable."""
        compiled = super().compile(*arguments, **{"name": "specreason", **more})
        compiled.__class__ = CompiledSpecReason
        return cast("CompiledSpecReason", compiled)


def _answer(outcome: Mapping[str, Any]) -> str:
    if not outcome.get("stop_reason"):
        raise ConfigError("a human is asked, and nothing can wait for the reply", hint="give the agent a checkpointer")
    return str(outcome["answer"])


def _unlimited(config: RunnableConfig | None) -> RunnableConfig:
    limit = (config or {}).get("recursion_limit", 0)
    return {**(config or {}), "recursion_limit": max(RECURSION_LIMIT, limit)}
