"""A graph for the server's test: scripted engines that take their time and write down how many calls are running."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

from langgraph.graph import START, MessagesState, StateGraph
from langgraph_sdk.runtime import ServerRuntime

from specreason_graph import EnginePair, create_specreason
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import EngineDeadError
from specreason_graph.graph import CompiledSpecReason
from specreason_graph.langgraph_app import check_settings
from tests.support.counting import Counting
from tests.support.scripts import stepwise

STEPS = 12


class Noting(Counting):
    """Notes its running calls in a file of its own."""

    @asynccontextmanager
    async def counted(self, prompt_ids: Any) -> AsyncIterator[None]:
        try:
            async with super().counted(prompt_ids):
                self.note()
                yield
        finally:
            self.note()

    def note(self) -> None:
        file = os.open(Path(os.environ["SPECREASON_TEST_FOLDER"]) / self.name, os.O_CREAT | os.O_WRONLY)
        os.pwrite(file, f"{self.running:3}".encode(), 0)
        os.close(file)


@cache
def slow() -> CompiledSpecReason:
    return create_specreason(stepwise(STEPS, engine=Noting, draft=0.1, base=0.1), lookahead=2).compile()


@cache
def dead() -> CompiledSpecReason:
    """Its base engine is gone."""
    pair = EnginePair(FakeEngine(["one.\n\n"]), FakeEngine([], [9]))
    base: Any = pair.base
    base.failure = lambda _: EngineDeadError("the base engine is gone", engine="base", hint="start it")
    return create_specreason(pair).compile()


@cache
def around() -> Any:
    """A graph of somebody else, with that one as a node."""
    builder = StateGraph(MessagesState)
    builder.add_node("think", dead())
    builder.add_edge(START, "think")
    return builder.compile()


def make_graph(runtime: ServerRuntime[Any]) -> CompiledSpecReason:
    check_settings(slow(), runtime)
    return slow()
