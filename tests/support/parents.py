"""Graphs of other people that call the loop: as a subgraph, from a node, several times at once."""

from __future__ import annotations

import operator
from typing import Annotated, Any

from langchain_core.runnables import RunnableLambda
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from typing_extensions import TypedDict


class Parent(TypedDict, total=False):
    question: str
    answer: str
    stop_reason: str
    progress: str
    pending: int
    manifest: list[int]
    result: list[str]
    answers: Annotated[list[str], operator.add]


PRIVATE: Any = {"progress": "mine", "pending": 3, "manifest": [1], "result": ["r"]}
"""Keys of the parent that are called like ours, and mean something else."""


def parent(node: Any, *, name: str = "think") -> StateGraph[Parent]:
    builder = StateGraph(Parent)
    builder.add_node(name, node)
    builder.add_edge(START, name)
    builder.add_edge(name, END)
    return builder


def nested(graph: Any, **more: Any) -> Any:
    return parent(parent(graph).compile()).compile(**more)


def twice(graph: Any) -> Any:
    """One node that asks twice, one after the other."""

    def sync(state: Parent) -> Any:
        return {"answers": [graph.invoke({"question": state["question"]})["answer"] for _ in range(2)]}

    async def concurrent(state: Parent) -> Any:
        return {"answers": [(await graph.ainvoke({"question": state["question"]}))["answer"] for _ in range(2)]}

    return parent(RunnableLambda(sync, afunc=concurrent, name="think"))


def three_sends(graph: Any) -> Any:
    """Three tasks of one node side by side, each with a question of its own."""

    def sync(state: Any) -> Any:
        return {"answers": [graph.invoke(state)["answer"]]}

    async def concurrent(state: Any) -> Any:
        return {"answers": [(await graph.ainvoke(state))["answer"]]}

    builder = StateGraph(Parent)
    builder.add_node("think", RunnableLambda(sync, afunc=concurrent, name="think"))
    builder.add_conditional_edges(
        START, lambda _: [Send("think", {"question": f"Question {i}?"}) for i in range(3)], ["think"]
    )
    return builder


WRAPS = {
    "nested": (lambda graph, saver: nested(graph, checkpointer=saver), ["What?"]),
    "twice": (lambda graph, saver: twice(graph).compile(checkpointer=saver), ["What?", "What?"]),
    "sends": (
        lambda graph, saver: three_sends(graph).compile(checkpointer=saver),
        ["Question 0?", "Question 1?", "Question 2?"],
    ),
}
"""Ways to put the loop into a graph with a checkpointer that is asked ``What?``, and the questions the loop gets."""
