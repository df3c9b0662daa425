"""The loop as a LangGraph state graph."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.graph import END, START, StateGraph
from typing_extensions import Unpack

from specreason_graph.call import Call, told_to_clients
from specreason_graph.config import SpecReasonConfig, make_config, overridden
from specreason_graph.display import ShownOutcome
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import ConfigError
from specreason_graph.nodes import Accept, AskHuman, Draft, Finalize, Prepare, Regenerate, ScoreProposal
from specreason_graph.policies.routing import after_draft, after_review, after_score, route
from specreason_graph.record.signing import Signer
from specreason_graph.record.state import Outcome, Question, State
from specreason_graph.runtime import Node, Route, StageRunner, UnlimitedGraph
from specreason_graph.settings import RunSettings


def create_specreason(
    pair: EnginePair, *, config: SpecReasonConfig | None = None, signer: Signer | None = None,
    accept_changes: bool = False, **settings: Unpack[RunSettings],
) -> SpecReasonGraph:  # fmt: skip
    """Wire the loop over ``pair`` and return the graph, not yet compiled: the caller brings the checkpointer.

    ``settings`` are fields of `SpecReasonConfig`, on top of ``config``; a bad one raises `ConfigError`. Invoke the
    compiled graph with ``{"question": ...}`` or ``{"messages": [...]}``, sync or async; it returns ``answer``,
    ``stop_reason``, ``trace``, ``trace_summary`` and, to messages, ``messages``. One call may have settings of its own,
    as ``context=SpecReasonConfig(...)`` (fields not set there keep the graph's) or in
    ``config["configurable"]["specreason"]``. A ``signer`` signs the ledger of each run that ends.

    A run that is resumed is held to its manifest: other weights, tokenizers, number formats, engine options that change
    tokens, thinking formats or judge's prompts raise `ThreadError`. With ``accept_changes`` such a run goes on, and the
    change is sealed with its next step.

    Method: SpecReason, arXiv 2504.07891.
    """
    if not isinstance(pair, EnginePair):
        raise ConfigError(
            f"create_specreason needs a pair of engines, and got a {type(pair).__name__}",
            hint="create_specreason(open_pair(base, draft)), or EnginePair(draft, base) of engines of your own",
        )
    if not isinstance(config, SpecReasonConfig | None):
        raise ConfigError(f"config is a {type(config).__name__}", hint="write SpecReasonConfig(...), or name settings")
    runner = StageRunner(pair, overridden(config or make_config(), settings), signer, accept_changes=accept_changes)
    graph = SpecReasonGraph(State, context_schema=SpecReasonConfig, input_schema=Question, output_schema=Outcome)
    graph.runner = runner

    graph.add_node("prepare", Node("prepare", Prepare, runner))
    graph.add_node("draft", Node("draft", Draft, runner))
    graph.add_node("score", Node("score", ScoreProposal, runner))
    graph.add_node("review", Node("review", AskHuman, runner))
    graph.add_node("accept", Node("accept", Accept, runner))
    graph.add_node("regenerate", Node("regenerate", Regenerate, runner))
    graph.add_node("finalize", Node("finalize", Finalize, runner))

    graph.add_edge(START, "prepare")
    graph.add_conditional_edges("prepare", Route(route), ["draft", "regenerate", "finalize"])
    graph.add_conditional_edges("draft", Route(after_draft), ["score", "regenerate", "finalize"])
    graph.add_conditional_edges("score", Route(after_score), ["accept", "review", "regenerate", "finalize"])
    graph.add_conditional_edges("review", Route(after_review), ["review", "accept", "regenerate"])
    graph.add_conditional_edges("accept", Route(route), ["draft", "regenerate", "finalize"])
    graph.add_conditional_edges("regenerate", Route(route), ["draft", "regenerate", "finalize"])
    graph.add_edge("finalize", END)
    return graph


class SpecReasonGraph(StateGraph[State, SpecReasonConfig, Question, Outcome]):
    """The loop before it is compiled."""

    runner: StageRunner
    """Runs the stages; it knows the settings that those of a call go over."""

    def compile(self, *arguments: Any, **more: Any) -> CompiledSpecReason:
        """Compile, as LangGraph does; nothing is needed, and a ``checkpointer`` makes runs resumable."""
        compiled = super().compile(*arguments, **{"name": "specreason", **more})
        compiled.__class__ = CompiledSpecReason  # LangGraph builds its own class and has no setting for another
        return cast("CompiledSpecReason", compiled)


class CompiledSpecReason(UnlimitedGraph):
    """The compiled loop."""

    if not TYPE_CHECKING:  # type checkers know LangGraph's own signatures, which tell more

        def invoke(self, *asked: Any, **more: Any) -> Any:
            """Run, and return what the run ends with; notebooks show it as a table of the steps."""
            return _shown(super().invoke(*asked, **more))

        async def ainvoke(self, *asked: Any, **more: Any) -> Any:
            """Run, and return what the run ends with; notebooks show it as a table of the steps."""
            return _shown(await super().ainvoke(*asked, **more))

    def stream(self, input: Any, config: RunnableConfig | None = None, **more: Any) -> Iterator[Any]:  # noqa: A002
        """Run, and yield what the stream modes ask for; a call in a node that is resumed finds its own run again."""
        with told_to_clients(config):
            call = self._read(input, config, more)
            if call.nested is None:
                yield from super().stream(call.asked, call.config, **more)
                return
            search = call.nested.choose(self)
            try:
                read, _, where = next(search)
                while True:
                    read, _, where = search.send(read(where))
            except StopIteration as found:
                number, hears = found.value
            with call.nested.placed(number, hears=hears) as placed:
                yield from super().stream(call.asked, {**call.config, **placed}, **more)

    async def astream(self, input: Any, config: RunnableConfig | None = None, **more: Any) -> AsyncIterator[Any]:  # noqa: A002
        """Run, and yield what the stream modes ask for; a call in a node that is resumed finds its own run again."""
        with told_to_clients(config):
            call = self._read(input, config, more)
            if call.nested is None:
                async with aclosing(_closable(super().astream(call.asked, call.config, **more))) as parts:
                    async for part in parts:
                        yield part
                return
            search = call.nested.choose(self)
            try:
                _, read, where = next(search)
                while True:
                    _, read, where = search.send(await read(where))
            except StopIteration as found:
                number, hears = found.value
            with call.nested.placed(number, hears=hears) as placed:
                async with aclosing(_closable(super().astream(call.asked, {**call.config, **placed}, **more))) as parts:
                    async for part in parts:
                        yield part

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """`ConfigError` for settings of a call that cannot be, over those of the graph."""
        self._runner.settings_of(None, settings)

    @property
    def _runner(self) -> StageRunner:
        return cast("SpecReasonGraph", self.builder).runner

    def _read(self, asked: Any, config: RunnableConfig | None, more: dict[str, Any]) -> Call:
        """The call, checked; ``more`` has its context, and gets what LangGraph is to take for it."""
        call = Call.read(self._runner, asked, config, more.get("context"))
        more["context"] = call.context
        return call

    def as_tool(self, *, name: str = "think", description: str | None = None, **more: Any) -> BaseTool:  # type: ignore[override]
        """A tool that takes a ``question`` and gives the answer."""

        def think(question: str, config: RunnableConfig) -> str:
            return _answer(self.invoke({"question": question}, config))

        async def athink(question: str, config: RunnableConfig) -> str:
            return _answer(await self.ainvoke({"question": question}, config))

        text = description or "Thinks about a question step by step and gives the answer."
        return StructuredTool.from_function(think, athink, name=name, description=text, **more)


def _closable(parts: AsyncIterator[Any]) -> AsyncGenerator[Any]:
    return cast("AsyncGenerator[Any]", parts)


def _shown(found: Any) -> Any:
    """An outcome that notebooks can show; what other stream modes and versions give is as it is."""
    return ShownOutcome(found) if isinstance(found, dict) and "trace" in found else found


def _answer(outcome: Mapping[str, Any]) -> str:
    if not outcome.get("stop_reason"):
        raise ConfigError("a human is asked, and nothing can wait for the reply", hint="give the agent a checkpointer")
    return str(outcome["answer"])
