"""The loop as a LangGraph state graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.graph import END, START, StateGraph

from specreason_graph.config import SpecReasonConfig, make_config, overridden
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import ConfigError
from specreason_graph.nodes import Accept, AskHuman, Draft, Finalize, Prepare, Regenerate, ScoreProposal
from specreason_graph.record.progress import Pending, Progress
from specreason_graph.record.signing import Signer
from specreason_graph.record.state import Outcome, Question, State
from specreason_graph.runtime import Node, Route, StageRunner, UnlimitedGraph


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
    runner = StageRunner(pair, overridden(config or make_config(), settings), signer)
    graph = SpecReasonGraph(State, context_schema=SpecReasonConfig, input_schema=Question, output_schema=Outcome)

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
    graph.add_conditional_edges("review", Route(after_review), ["accept", "regenerate"])
    graph.add_conditional_edges("accept", Route(route), ["draft", "regenerate", "finalize"])
    graph.add_conditional_edges("regenerate", Route(route), ["draft", "regenerate", "finalize"])
    graph.add_edge("finalize", END)
    return graph


def route(state: State) -> Literal["draft", "regenerate", "finalize"]:
    """Who writes next, or the end of the thinking."""
    progress = Progress.load(state["progress"])
    if progress.stop_reason:
        return "finalize"
    # the manifest's own setting: the graph may have been compiled with another one since the run began
    first_steps = progress.steps < state["manifest"]["config"]["first_steps_by_base"]
    return "regenerate" if progress.base_only or first_steps else "draft"


def after_draft(state: State) -> Literal["score", "regenerate", "finalize"]:
    """No proposal, one without text, or one too long for the judge is not scored: the base model settles it."""
    if state["progress"]["stop_reason"]:
        return "finalize"
    return "score" if Pending.load(state["pending"]).scorable else "regenerate"


def after_score(state: State) -> Literal["accept", "review", "regenerate", "finalize"]:
    """A human where the score is in the band, else as the decision says."""
    if state["progress"]["stop_reason"]:
        return "finalize"
    return "review" if Pending.load(state["pending"]).needs_review else after_review(state)


def after_review(state: State) -> Literal["accept", "regenerate"]:
    """As the decision says; a step that a human wrote is there already."""
    decision = state["pending"]["decision"]
    return "accept" if decision["accepted"] or decision["reason"] == "written_by_reviewer" else "regenerate"


class SpecReasonGraph(StateGraph[State, SpecReasonConfig, Question, Outcome]):
    """The loop before it is compiled."""

    def compile(self, *arguments: Any, **more: Any) -> CompiledSpecReason:
        """Compile, as LangGraph does; nothing is needed, and a ``checkpointer`` makes runs resumable."""
        compiled = super().compile(*arguments, **{"name": "specreason", **more})
        compiled.__class__ = CompiledSpecReason  # LangGraph builds its own class and has no setting for another
        return cast("CompiledSpecReason", compiled)


class CompiledSpecReason(UnlimitedGraph):
    """The compiled loop."""

    def as_tool(self, *, name: str = "think", description: str | None = None, **more: Any) -> BaseTool:  # type: ignore[override]
        """A tool that takes a ``question`` and gives the answer."""

        def think(question: str, config: RunnableConfig) -> str:
            return _answer(self.invoke({"question": question}, config))

        async def athink(question: str, config: RunnableConfig) -> str:
            return _answer(await self.ainvoke({"question": question}, config))

        text = description or "Thinks about a question step by step and gives the answer."
        return StructuredTool.from_function(think, athink, name=name, description=text, **more)


def _answer(outcome: Mapping[str, Any]) -> str:
    if not outcome.get("stop_reason"):
        raise ConfigError("a human is asked, and nothing can wait for the reply", hint="give the agent a checkpointer")
    return str(outcome["answer"])
