"""Runs broken off inside another graph go on where they were: cancelled, drained, or failed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphDrained
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.runtime import RunControl

from specreason_graph import ChatSpecReason, EnginePair, create_specreason, find_runs, read_event
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import EngineError
from specreason_graph.record.events import AnswerToken, Drafted
from tests.support.parents import parent
from tests.support.scripts import ANSWER, judging, stepwise, writing

STEPS = 6
THREAD: Any = {"configurable": {"thread_id": "t"}}
QUESTION: Any = {"question": "How far?"}


async def test_a_cancelled_subgraph_goes_on() -> None:
    saver = InMemorySaver()
    with stepwise(STEPS, draft=0.03) as engines:
        app = parent(create_specreason(engines).compile()).compile(checkpointer=saver)
        task = asyncio.ensure_future(app.ainvoke(QUESTION, THREAD, durability="sync"))
        while not (runs := find_runs(saver, "t")) or len(runs[0].steps) < 2:
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        before = find_runs(saver, "t")[0]
        assert before.stop_reason is None
        assert (await app.ainvoke(None, THREAD))["answer"] == ANSWER
    (after,) = find_runs(saver, "t")
    assert after.run == before.run
    assert after.steps[: len(before.steps)] == before.steps
    assert len(after.steps) == STEPS + 1


class Cut(EnginePair):
    """Cancels its caller some turns of the event loop after a node's work has ended."""

    def __init__(self, works: int, turns: int) -> None:
        super().__init__(FakeEngine(writing("draft", STEPS)), FakeEngine(writing("base", STEPS), judging([9])))
        self.left, self.turns = works, turns
        self.caller: asyncio.Task[Any] | None = None
        self.cutting: asyncio.Task[None] | None = None

    async def arun(self, work: Any) -> Any:
        outcome = await super().arun(work)
        self.left -= 1
        if self.left == 0:
            self.cutting = asyncio.create_task(self.cut())
        return outcome

    async def cut(self) -> None:
        for _ in range(self.turns):
            await asyncio.sleep(0)
        if self.caller:
            self.caller.cancel()


async def listen(app: Any) -> None:
    """Work as a server does for a client that streams: each node is a task of its own, and what it wrote is kept."""
    async for _ in app.astream(QUESTION, THREAD, stream_mode="custom"):
        pass


@pytest.mark.parametrize("works", [2, 3, 4, 5])  # the first is the opening of the pair
async def test_a_run_cancelled_between_a_nodes_end_and_the_next_node_goes_on(works: int) -> None:
    for turns in range(16):
        saver = InMemorySaver()
        async with Cut(works, turns) as engines:
            app = create_specreason(engines).compile(checkpointer=saver)
            engines.caller = asyncio.ensure_future(listen(app))
            await asyncio.gather(engines.caller, return_exceptions=True)
            assert engines.caller.cancelled()
            outcome = await app.ainvoke(None, THREAD)
            assert (outcome["answer"], len(outcome["trace"])) == (ANSWER, STEPS + 1), turns


def test_a_drained_subgraph_goes_on() -> None:
    saver, control = InMemorySaver(), RunControl()
    with stepwise(STEPS) as engines:
        app = parent(create_specreason(engines).compile()).compile(checkpointer=saver)
        parts = app.stream(QUESTION, THREAD, stream_mode="custom", subgraphs=True, control=control)

        def watch() -> None:
            for _, part in parts:
                if isinstance(event := read_event(part), Drafted) and event.index == 3:
                    control.request_drain("sigterm")

        with pytest.raises(GraphDrained):
            watch()
        (before,) = find_runs(saver, "t")
        assert before.stop_reason is None
        assert app.invoke(None, THREAD)["answer"] == ANSWER
    (after,) = find_runs(saver, "t")
    assert (after.run, len(after.steps)) == (before.run, STEPS + 1)


def test_a_chat_models_call_begins_anew_when_its_graph_is_resumed() -> None:
    saver = InMemorySaver()
    with stepwise(STEPS) as engines:
        chat = ChatSpecReason(engines, continue_without_draft=False, lookahead=0)
        draft: Any = engines.draft
        calls = iter(range(100))
        draft.failure = lambda _: EngineError("gone", engine="draft") if next(calls) == 3 else None
        graph = StateGraph(MessagesState)
        graph.add_node("model", lambda state: {"messages": [chat.invoke(state["messages"])]})
        graph.add_edge(START, "model")
        graph.add_edge("model", END)
        app = graph.compile(checkpointer=saver)
        with pytest.raises(EngineError, match="gone"):
            app.invoke({"messages": [HumanMessage("How far?")]}, THREAD, durability="sync")
        message = app.invoke(None, THREAD)["messages"][-1]
    assert next(calls) == 4 + STEPS + 1
    assert find_runs(saver, "t") == []
    assert [block.get("type") for block in message.content_blocks] == ["reasoning"] * STEPS + ["text"]
    assert message.text == ANSWER


def test_events_are_the_same_at_the_root_and_in_a_subgraph() -> None:
    def told(parts: Any) -> list[tuple[str, str]]:
        events = [read_event(part) for part in parts]
        return [(event.event, event.text if isinstance(event, AnswerToken) else "") for event in events if event]

    with stepwise(STEPS) as engines:
        loop = create_specreason(engines).compile()
        root = told(loop.stream(QUESTION, stream_mode="custom"))
        inner = told(part for _, part in parent(loop).compile().stream(QUESTION, stream_mode="custom", subgraphs=True))
    assert root == inner
    assert [name for name, _ in root[:4]] == ["started", "drafted", "scored", "accepted"]
    assert "".join(text for _, text in root) == ANSWER
    assert root[-1][0] == "finished"
