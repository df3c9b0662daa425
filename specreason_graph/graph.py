"""The loop as a LangGraph state graph.

START -> prepare -> draft -> score -> accept or regenerate -> draft ... -> finalize -> END
"""

from __future__ import annotations

from typing import Any, Literal

from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.graph import END, START, StateGraph

from specreason_graph.config import SpecReasonConfig, make_config
from specreason_graph.engines.base import SESSION
from specreason_graph.engines.pair import EnginePair
from specreason_graph.nodes import Accept, Draft, Finalize, Prepare, Regenerate, ScoreProposal
from specreason_graph.nodes.stage import Stage
from specreason_graph.prompting import Prompts
from specreason_graph.state import Outcome, Question, State


def create_specreason(
    pair: EnginePair, *, config: SpecReasonConfig | None = None, **settings: Any
) -> StateGraph[State, None, Question, Outcome]:
    """Wire the loop over ``pair`` and return the graph, not yet compiled: the caller brings the checkpointer.

    ``settings`` are fields of `SpecReasonConfig`, on top of ``config``; a bad one raises `ConfigError`. Invoke the
    compiled graph with ``{"question": ...}``, sync or async; it returns ``answer``, ``stop_reason`` and ``steps``.

    Method: SpecReason, arXiv 2504.07891.
    """
    config = make_config(**{**(config.model_dump() if config else {}), **settings})
    shared = (pair, config, Prompts(pair, config))
    graph = StateGraph(State, input_schema=Question, output_schema=Outcome)
    stages = (Prepare, Draft, ScoreProposal, Accept, Regenerate, Finalize)
    names = ("prepare", "draft", "score", "accept", "regenerate", "finalize")
    for name, stage in zip(names, stages, strict=True):
        graph.add_node(name, _runnable(stage(*shared)))
    route = _router(config)
    graph.add_edge(START, "prepare")
    graph.add_conditional_edges("prepare", route)
    graph.add_conditional_edges("draft", after_draft)
    graph.add_conditional_edges("score", after_score)
    graph.add_conditional_edges("accept", route)
    graph.add_conditional_edges("regenerate", route)
    graph.add_edge("finalize", END)
    return graph


def after_draft(state: State) -> Literal["score", "regenerate"]:
    """No proposal, one without text, or one too long for the judge is not scored: the base model settles it."""
    return "score" if state["pending"]["judgeable"] else "regenerate"


def after_score(state: State) -> Literal["accept", "regenerate"]:
    """As the decision says."""
    return "accept" if state["pending"]["decision"]["accepted"] else "regenerate"


def _router(config: SpecReasonConfig) -> Any:
    def route(state: State) -> Literal["draft", "regenerate", "finalize"]:
        """Who writes next, or the end of the thinking."""
        progress = state["progress"]
        if progress["stop_reason"]:
            return "finalize"
        by_base = progress["draft_failed"] or progress["steps"] < config.first_steps_by_base
        return "regenerate" if by_base else "draft"

    return route


def _runnable(stage: Stage) -> RunnableLambda[State, dict[str, Any]]:
    """A node with one asynchronous core, on the engines' loop, for sync and async callers."""

    def sync(state: State, config: RunnableConfig) -> dict[str, Any]:
        SESSION.set(_thread(config))
        return stage.pair.run(lambda: stage(state))

    async def concurrent(state: State, config: RunnableConfig) -> dict[str, Any]:
        SESSION.set(_thread(config))
        return await stage.pair.arun(lambda: stage(state))

    return RunnableLambda(sync, afunc=concurrent, name=type(stage).__name__.lower())


def _thread(config: RunnableConfig) -> str | None:
    thread = config.get("configurable", {}).get("thread_id")
    return str(thread) if thread is not None else None
