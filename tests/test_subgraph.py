"""The loop in other people's graphs and chains: two hundred steps, however it is called."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, AgentState
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from typing_extensions import TypedDict

from specreason_graph import EnginePair, SpecReasonConfig, create_specreason
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import ConfigError
from specreason_graph.graph import CompiledSpecReason
from tests.support.parents import PRIVATE, Parent, nested, parent, three_sends, twice
from tests.support.scripts import CLOSE, done, is_closed

STEPS = 200


def think(prompt: str) -> str:
    return f"This is step number {done(prompt)}.\n\n" if done(prompt) < STEPS else CLOSE


def base(prompt: str) -> str:
    return f"Thought for {prompt.count('step number')} steps." if is_closed(prompt) else CLOSE


@pytest.fixture(scope="module")
def pair() -> Iterator[EnginePair]:
    with EnginePair(FakeEngine(think, context=10**6), FakeEngine(base, lambda _: 9, context=10**6)) as pair:
        yield pair


@pytest.fixture
def graph(pair: EnginePair) -> CompiledSpecReason:
    return create_specreason(pair, max_steps=1000).compile()


either = pytest.mark.parametrize("concurrent", [False, True], ids=["sync", "async"])
LIMIT: Any = {"recursion_limit": 25}
THREAD: Any = {"configurable": {"thread_id": "t"}}
WAYS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "direct": (lambda g: g, None),
    "direct under a limit": (lambda g: g, LIMIT),
    "in a chain": (lambda g: RunnableLambda(lambda x: x) | g, None),
    "in a RunnableLambda": (lambda g: RunnableLambda(g.invoke, afunc=g.ainvoke), None),
    "in a RunnableParallel": (lambda g: RunnableParallel(a=g) | (lambda both: both["a"]), None),
    "as a subgraph": (lambda g: parent(g).compile(), None),
    "as a subgraph under a limit": (lambda g: parent(g).compile(), LIMIT),
    "as a checkpointed subgraph": (lambda g: parent(g).compile(checkpointer=InMemorySaver()), {**LIMIT, **THREAD}),
    "as a subgraph of a subgraph": (nested, LIMIT),
    "nested and checkpointed": (lambda g: nested(g, checkpointer=InMemorySaver()), {**LIMIT, **THREAD}),
    "twice in one node": (lambda g: twice(g).compile(), LIMIT),
    "twice in one node, checkpointed": (lambda g: twice(g).compile(checkpointer=InMemorySaver()), THREAD),
    "in three Sends": (lambda g: three_sends(g).compile(), LIMIT),
    "in three Sends, checkpointed": (lambda g: three_sends(g).compile(checkpointer=InMemorySaver()), THREAD),
}


@pytest.mark.parametrize("way", WAYS)
@either
async def test_two_hundred_steps(graph: CompiledSpecReason, way: str, concurrent: bool) -> None:
    wrap, config = WAYS[way]
    runnable, asked = wrap(graph), {"question": "How far?", **(PRIVATE if "subgraph" in way else {})}
    outcome = await runnable.ainvoke(asked, config) if concurrent else runnable.invoke(asked, config)
    answers = outcome.get("answers") or [outcome["answer"]]
    assert answers == [f"Thought for {STEPS} steps."] * len(answers)
    assert len(answers) == {"twice": 2, "in three": 3}.get(" ".join(way.split()[: 1 + way.startswith("in")]), 1)
    if "subgraph" in way:
        assert {key: outcome[key] for key in PRIVATE} == PRIVATE


@either
async def test_batches(graph: CompiledSpecReason, concurrent: bool) -> None:
    asked: Any = [{"question": f"Question {i}?"} for i in range(3)]
    outcomes = await graph.abatch(asked) if concurrent else graph.batch(asked)
    assert [len(outcome["trace"]) for outcome in outcomes] == [STEPS + 1] * 3


@either
async def test_a_tool_and_a_middleware_of_an_agent(graph: CompiledSpecReason, concurrent: bool) -> None:
    call = AIMessage(
        "", tool_calls=[{"name": "think", "args": {"question": "How far?"}, "id": "1", "type": "tool_call"}]
    )

    class Planner(AgentMiddleware):
        def before_agent(self, state: AgentState[Any], runtime: Any) -> dict[str, Any]:
            plan = graph.invoke({"messages": state["messages"]})
            return {"messages": plan["messages"]}

    class Scripted(GenericFakeChatModel):
        def bind_tools(self, tools: Any, **_: Any) -> Any:
            return self

    agent = create_agent(
        Scripted(messages=iter([call, AIMessage("done")])), tools=[graph.as_tool()], middleware=[Planner()]
    )
    asked: Any = {"messages": [HumanMessage("Go.")]}
    outcome = await agent.ainvoke(asked) if concurrent else agent.invoke(asked)
    texts = [(type(message), message.text) for message in outcome["messages"]]
    told = f"Thought for {STEPS} steps."
    assert texts == [
        (HumanMessage, "Go."),
        (AIMessage, told),
        (AIMessage, ""),
        (ToolMessage, told),
        (AIMessage, "done"),
    ]


def test_messages_are_answered_with_one_message(graph: CompiledSpecReason) -> None:
    builder = StateGraph(MessagesState)
    builder.add_node("think", graph)
    builder.add_edge(START, "think")
    outcome = builder.compile().invoke({"messages": [HumanMessage("How far?")]})
    assert [message.type for message in outcome["messages"]] == ["human", "ai"]
    reply = outcome["messages"][-1]
    assert reply.text == f"Thought for {STEPS} steps."
    assert len([block for block in reply.content_blocks if block["type"] == "reasoning"]) == STEPS
    assert reply.usage_metadata["output_token_details"]["reasoning"] > STEPS


def test_a_question_leaves_the_messages_of_the_parent_alone(graph: CompiledSpecReason) -> None:
    class Chatty(TypedDict, total=False):
        question: str
        messages: Annotated[list[str], operator.add]
        answer: str

    builder = StateGraph(Chatty)
    builder.add_node("think", graph)
    builder.add_edge(START, "think")
    outcome = builder.compile().invoke({"question": "How far?", "messages": ["mine"]})
    assert outcome["messages"] == ["mine"]
    assert outcome["answer"] == f"Thought for {STEPS} steps."


def test_a_call_has_settings_of_its_own(graph: CompiledSpecReason) -> None:
    question: Any = {"question": "How far?"}
    knobs: Any = {"configurable": {"specreason": {"max_steps": 3}}}
    assert len(graph.invoke(question, knobs)["trace"]) == 3
    assert len(graph.invoke(question, context=SpecReasonConfig(max_steps=4))["trace"]) == 4
    assert len(graph.invoke(question, knobs, context=SpecReasonConfig(max_steps=4))["trace"]) == 3
    with pytest.raises(ConfigError, match="threshold = 11 is not allowed"):
        graph.invoke(question, {"configurable": {"specreason": {"threshold": 11}}})
    with pytest.raises(ConfigError, match="is a str; write a mapping"):
        graph.invoke(question, {"configurable": {"specreason": "threshold"}})


def test_a_context_of_the_parent_is_not_taken_for_settings(graph: CompiledSpecReason) -> None:
    class Mine(TypedDict):
        threshold: str

    builder = StateGraph(Parent, context_schema=Mine)
    builder.add_node("think", graph)
    builder.add_edge(START, "think")
    outcome = builder.compile().invoke({"question": "How far?"}, context={"threshold": "high"})
    assert outcome["answer"] == f"Thought for {STEPS} steps."
