"""Calls side by side in one node of another graph: resumed in any order, each goes on with what it was asked."""

from __future__ import annotations

import asyncio
import operator
import random
import re
import time
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_config
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, RetryPolicy
from typing_extensions import TypedDict

from specreason_graph import ChatSpecReason, EnginePair, create_specreason, find_runs
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import ConfigError, EngineError, ThreadError
from tests.support.parents import parent
from tests.support.reviewed import BAND, pair
from tests.support.scripts import ANSWER, CLOSE, done, is_closed

STEPS, NAMES = 4, "ABC"
THREAD: Any = {"configurable": {"thread_id": "t"}}
either = pytest.mark.parametrize("concurrent", [False, True], ids=["sync", "async"])


def asked(prompt: str) -> str:
    return str(re.findall(r"Question (\w)", prompt)[0])


def answering(failure: Callable[[str], Exception | None] | None = None) -> EnginePair:
    """A pair whose answers name the question."""

    def think(prompt: str) -> str:
        return f"Step number {done(prompt)}.\n\n" if done(prompt) < STEPS else CLOSE

    def base(prompt: str) -> str:
        return f"Answer {asked(prompt)}." if is_closed(prompt) else CLOSE

    return EnginePair(FakeEngine(think), FakeEngine(base, lambda _: 9, failure=failure))


def saver_of(app: Any) -> Any:
    return app.checkpointer


def tools_of(graph: Any, delay: Callable[[], float] = lambda: 0.0) -> Any:
    """A graph that calls the loop as a tool, three times at once, each after a delay."""
    inner: Any = graph.as_tool()

    def think(question: str) -> str:
        time.sleep(delay())
        return str(inner.func(question, get_config()))

    async def athink(question: str) -> str:
        await asyncio.sleep(delay())
        return str(await inner.coroutine(question, get_config()))

    tool = StructuredTool.from_function(think, athink, name="think", description="Thinks.")
    builder = StateGraph(MessagesState)
    builder.add_node("tools", ToolNode([tool], handle_tool_errors=False))
    builder.add_edge(START, "tools")
    builder.add_edge("tools", END)
    return builder.compile(checkpointer=InMemorySaver())


CALLS: Any = [
    {"name": "think", "args": {"question": f"Question {name}?"}, "id": name, "type": "tool_call"} for name in NAMES
]
MESSAGES: Any = {"messages": [HumanMessage("Go."), AIMessage("", tool_calls=CALLS)]}


def told(outcome: Any) -> dict[str, str]:
    return {message.tool_call_id: message.text for message in outcome["messages"] if message.type == "tool"}


@pytest.mark.parametrize("number", range(20))
@either
async def test_a_tool_call_that_is_resumed_gets_its_own_answer(number: int, concurrent: bool) -> None:
    rng, fails = random.Random(number), [True]

    def failure(prompt: str) -> Exception | None:
        struck = fails[0] and asked(prompt) == NAMES[number % 3] and done(prompt) >= 3
        return EngineError("it broke", engine="base") if struck else None

    with answering(failure) as engines:
        app = tools_of(create_specreason(engines).compile(), lambda: rng.uniform(0, 0.02))
        with pytest.raises(EngineError, match="it broke"):
            await app.ainvoke(MESSAGES, THREAD) if concurrent else app.invoke(MESSAGES, THREAD)
        fails[0] = False
        outcome = await app.ainvoke(None, THREAD) if concurrent else app.invoke(None, THREAD)
        assert told(outcome) == {name: f"Answer {name}." for name in NAMES}
        runs = [run for run in read_runs(saver_of(app), "t") if run.finished]
        assert all(verify(run).ok for run in runs)
        assert all(run.answer and run.answer.text == f"Answer {asked(run.question)}." for run in runs)


class Asked(TypedDict, total=False):
    answers: Annotated[list[str], operator.add]


def failed_or(graph: Any, question: Any, config: Any = None) -> Any:
    try:
        return graph.invoke(question, config)
    except EngineError as error:
        return error


def answers(outcomes: list[Any], told_of: Callable[[Any], str] = lambda outcome: outcome["answer"]) -> Any:
    """What calls side by side came to, or the first of their errors."""
    if failed := [each for each in outcomes if isinstance(each, Exception)]:
        raise failed[0]
    return {"answers": [told_of(each) for each in outcomes]}


@either
async def test_what_was_thought_before_a_failure_is_found_by_its_question(concurrent: bool) -> None:
    order, failing = [*NAMES], [True]
    calls = dict.fromkeys(NAMES, 0)

    def failure(prompt: str) -> Exception | None:
        calls[asked(prompt)] += not failing[0] and not is_closed(prompt)
        return EngineError("it broke", engine="base") if failing[0] and done(prompt) >= 3 else None

    with answering(failure) as engines:
        graph = create_specreason(engines, lookahead=0).compile()

        async def one(name: str) -> Any:
            return await graph.ainvoke({"question": f"Question {name}?"})

        async def many(_: Asked) -> Any:
            return answers(await asyncio.gather(*map(one, order), return_exceptions=True))

        def in_turn(_: Asked) -> Any:
            return answers([failed_or(graph, {"question": f"Question {name}?"}) for name in order])

        builder = StateGraph(Asked)
        builder.add_node("think", RunnableLambda(in_turn, afunc=many, name="think"))
        builder.add_edge(START, "think")
        app = builder.compile(checkpointer=InMemorySaver())
        with pytest.raises(EngineError):
            await app.ainvoke({}, THREAD) if concurrent else app.invoke({}, THREAD)
        order.reverse()
        failing[0] = False
        outcome = await app.ainvoke(None, THREAD) if concurrent else app.invoke(None, THREAD)
        assert outcome["answers"] == ["Answer C.", "Answer B.", "Answer A."]
        assert len(find_runs(saver_of(app), "t")) == 3
        assert all(count <= STEPS for count in calls.values())  # the first steps were not thought again


@either
async def test_the_same_question_with_other_settings_is_another_call(concurrent: bool) -> None:
    order, failing = [1, 2, 3], [True]

    def failure(prompt: str) -> Exception | None:
        return EngineError("it broke", engine="base") if failing[0] and is_closed(prompt) else None

    with answering(failure) as engines:
        graph = create_specreason(engines).compile()

        def config(limit: int) -> Any:
            return {"configurable": {"specreason": {"max_steps": limit}}}

        def steps(_: Any) -> Any:
            asked_for: Any = {"question": "Question A?"}
            found = [failed_or(graph, asked_for, config(limit)) for limit in order]
            return answers(found, lambda outcome: str(len(outcome["trace"])))

        builder = StateGraph(Asked)
        builder.add_node("think", RunnableLambda(steps))
        builder.add_edge(START, "think")
        app = builder.compile(checkpointer=InMemorySaver())
        with pytest.raises(EngineError):
            await app.ainvoke({}, THREAD) if concurrent else app.invoke({}, THREAD)
        order.reverse()
        failing[0] = False
        outcome = await app.ainvoke(None, THREAD) if concurrent else app.invoke(None, THREAD)
    assert outcome["answers"] == ["3", "2", "1"]


def test_chat_models_side_by_side_begin_anew_and_answer_their_own_questions() -> None:
    order, failing = [*NAMES], [True]

    def failure(prompt: str) -> Exception | None:
        struck = failing[0] and asked(prompt) == "B" and is_closed(prompt)
        return EngineError("it broke", engine="base") if struck else None

    with answering(failure) as engines:
        chat = ChatSpecReason(engines)

        async def many(_: Asked) -> Any:
            replies = await asyncio.gather(*(chat.ainvoke(f"Question {name}?") for name in order))
            return {"answers": [reply.text for reply in replies]}

        builder = StateGraph(Asked)
        builder.add_node("think", RunnableLambda(many))
        builder.add_edge(START, "think")
        app = builder.compile(checkpointer=InMemorySaver())

        async def resumed() -> Any:
            with pytest.raises(EngineError):
                await app.ainvoke({}, THREAD)
            order.reverse()
            failing[0] = False
            return await app.ainvoke(None, THREAD)

        assert asyncio.run(resumed())["answers"] == ["Answer C.", "Answer B.", "Answer A."]


def test_a_call_that_is_tried_again_goes_on_with_its_run() -> None:
    failing = [True, True]

    def failure(prompt: str) -> Exception | None:
        struck = done(prompt) >= 3 and failing and failing.pop()
        return EngineError("it broke", engine="base") if struck else None

    with answering(failure) as engines:
        builder = StateGraph(Asked)
        graph = create_specreason(engines, lookahead=0).compile()
        builder.add_node(
            "think", lambda _: {"answers": [graph.invoke({"question": "Question A?"})["answer"]]},
            retry_policy=RetryPolicy(initial_interval=0.001, jitter=False, retry_on=EngineError),
        )  # fmt: skip
        builder.add_edge(START, "think")
        app = builder.compile(checkpointer=InMemorySaver())
        assert app.invoke({}, THREAD)["answers"] == ["Answer A."]
        assert [run.stop_reason for run in find_runs(saver_of(app), "t")] == ["answered"]


@pytest.mark.parametrize("number", range(4))
@either
async def test_each_verdict_goes_to_the_call_whose_step_was_shown(number: int, concurrent: bool) -> None:
    rng, given = random.Random(number), dict[str, str]()
    with pair() as engines:
        app = tools_of(create_specreason(engines, review=BAND).compile(), lambda: rng.uniform(0, 0.02))
        outcome = await app.ainvoke(MESSAGES, THREAD) if concurrent else app.invoke(MESSAGES, THREAD)
        while "__interrupt__" in outcome:
            (shown,) = outcome["__interrupt__"]
            name = asked(shown.value["question"])
            assert name not in given
            given[name] = f"Step for {name}."
            answer: Any = Command(resume={"verdict": "edit", "text": given[name]})
            outcome = await app.ainvoke(answer, THREAD) if concurrent else app.invoke(answer, THREAD)
            await asyncio.sleep(0.05)
    assert told(outcome) == dict.fromkeys(NAMES, ANSWER)
    runs = [run for run in read_runs(saver_of(app), "t") if run.finished]
    edits = {asked(run.question): run.steps[1].text for run in runs}
    assert edits == {name: f"{text}\n\n" for name, text in given.items()}


@pytest.mark.parametrize("by_id", [False, True], ids=["plain", "by id"])
def test_a_verdict_is_kept_where_another_call_asks_first(by_id: bool) -> None:
    order, given = [*NAMES], dict[str, str]()
    with pair() as engines:
        graph = create_specreason(engines, review=BAND).compile()

        def in_turn(_: Asked) -> Any:
            return answers([graph.invoke({"question": f"Question {name}?"}) for name in order])

        builder = StateGraph(Asked)
        builder.add_node("think", RunnableLambda(in_turn))
        builder.add_edge(START, "think")
        app = builder.compile(checkpointer=InMemorySaver())
        outcome = app.invoke({}, THREAD)
        while "__interrupt__" in outcome:
            (shown,) = outcome["__interrupt__"]
            name = asked(shown.value["question"])
            assert name not in given
            given[name] = f"Step for {name}."
            order.reverse()
            verdict = {"verdict": "edit", "text": given[name]}
            outcome = app.invoke(Command(resume={shown.id: verdict} if by_id else verdict), THREAD)
    edits = {asked(run.question): run.steps[1].text for run in read_runs(saver_of(app), "t") if run.finished}
    assert edits == {name: f"{text}\n\n" for name, text in given.items()}


@either
async def test_a_verdict_is_used_once(concurrent: bool) -> None:
    def think(prompt: str) -> str:
        return f"Doubtful thing {done(prompt)}.\n\n" if done(prompt) < 3 else CLOSE

    def base(prompt: str) -> str:
        return ANSWER if is_closed(prompt) else CLOSE

    with EnginePair(FakeEngine(think), FakeEngine(base, lambda _: 6)) as engines:
        app: Any = parent(create_specreason(engines, review=BAND).compile()).compile(checkpointer=InMemorySaver())

        async def asked_about(given: Any) -> Any:
            outcome = await app.ainvoke(given, THREAD) if concurrent else app.invoke(given, THREAD)
            return outcome["__interrupt__"][0].value["index"]

        assert await asked_about({"question": "What?"}) == 0
        assert await asked_about(Command(resume="accept")) == 1
        assert await asked_about(None) == 1  # to this one nobody has said anything yet
        assert await asked_about(Command(resume="accept")) == 2


def test_a_review_in_a_subgraph_needs_more_than_the_end_of_a_run() -> None:
    with pair() as engines:
        graph = create_specreason(engines, review=BAND).compile()
        app = parent(graph).compile(checkpointer=InMemorySaver())
        with pytest.raises(ConfigError, match='durability="exit"; use "sync" or "async"'):
            app.invoke({"question": "What?"}, THREAD, durability="exit")
        with pytest.raises(ThreadError, match="holds no run"):
            read_runs(saver_of(app), "t")
        other: Any = {"configurable": {"thread_id": "o"}}
        app.invoke({"question": "What?"}, other)
        with pytest.raises(ConfigError, match='durability="exit"'):
            app.invoke(Command(resume="accept"), other, durability="exit")
        root = create_specreason(engines, review=BAND).compile(checkpointer=InMemorySaver())
        root.invoke({"question": "What?"}, THREAD, durability="exit")
        assert root.invoke(Command(resume="accept"), THREAD, durability="exit")["answer"] == ANSWER
