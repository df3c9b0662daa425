"""Which node is next, and how the graph is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args, get_type_hints

from langchain_core.runnables import Runnable, RunnableConfig

from specreason_graph.state import State


class Route(Runnable[State, str]):
    """Chooses the next node in the same turn of the event loop in which the last one's changes are written.

    LangGraph gives a plain function to another thread. A run that was cancelled meanwhile kept the node's changes
    without what comes next: for LangGraph the node had finished, and a resume ended there, without an answer.
    """

    def __init__(self, choose: Callable[[State], str]) -> None:
        self.name, self._choose = choose.__name__, choose

    def invoke(self, input: State, config: RunnableConfig | None = None, **_: Any) -> str:  # noqa: A002, ARG002
        """The name of the next node."""
        return self._choose(input)

    async def ainvoke(self, input: State, config: RunnableConfig | None = None, **_: Any) -> str:  # noqa: A002, ARG002
        """The name of the next node, without letting anything else run first."""
        return self._choose(input)


def destinations(choose: Callable[[State], str]) -> list[str]:
    """The nodes that a choice may name."""
    return list(get_args(get_type_hints(choose)["return"]))


def route(state: State) -> Literal["draft", "regenerate", "finalize"]:
    """Who writes next, or the end of the thinking."""
    progress = state["progress"]
    if progress["stop_reason"]:
        return "finalize"
    by_base = progress["steps"] < state["manifest"]["config"]["first_steps_by_base"]
    alone = progress["draft_failed"] or by_base or progress.get("goodput")
    return "regenerate" if alone else "draft"


def after_draft(state: State) -> Literal["score", "regenerate", "finalize"]:
    """No proposal, one without text, or one too long for the judge is not scored: the base model settles it."""
    if state["progress"]["stop_reason"]:
        return "finalize"
    return "score" if state["pending"]["judgeable"] else "regenerate"


def after_score(state: State) -> Literal["accept", "review", "regenerate", "finalize"]:
    """A human where the score is in the band, else as the decision says."""
    if state["progress"]["stop_reason"]:
        return "finalize"
    return "review" if state["pending"]["uncertain"] else after_review(state)


def after_review(state: State) -> Literal["accept", "regenerate"]:
    """As the decision says; a step that a human wrote is there already."""
    decision = state["pending"]["decision"]
    return "accept" if decision["accepted"] or decision["reason"] == "written_by_reviewer" else "regenerate"


ROUTES: dict[str, Callable[[State], str]] = {
    "prepare": route, "draft": after_draft, "score": after_score, "review": after_review, "accept": route,
    "regenerate": route,
}  # fmt: skip
"""What follows each node, but for the last."""
