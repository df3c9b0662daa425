"""The loop as a chat: a conversation that grows on a thread, and a reply that streams once at every depth."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langgraph.channels import EphemeralValue
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, RetryPolicy
from typing_extensions import TypedDict

from specreason_graph import ChatSpecReason, EnginePair, create_specreason, find_runs, open_pair
from specreason_graph.audit.fork import fork, plan_fork
from specreason_graph.audit.keep.prune import prune
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import EngineError, QuestionError
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.record.channels import converse
from tests.support.scripts import ANSWER, CLOSE, stepwise

STEPS = ["Step 0 of the draft.\n\n", "Step 1 of the base.\n\n", "Step 2 of the draft.\n\n"]
THREAD: Any = {"configurable": {"thread_id": "t"}}
NO_THREAD: Any = {}
LOOK = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}}


def ask(text: str, **more: Any) -> Any:
    return {"messages": [HumanMessage(text, **more)]}


def said(messages: Sequence[BaseMessage]) -> list[tuple[str, str]]:
    return [(message.type, message.text) for message in messages]


@pytest.fixture
def pair() -> Iterator[EnginePair]:
    with stepwise(3, (9, 2)) as pair:
        yield pair


def build(pair: EnginePair, saver: Any = None, **settings: Any) -> Any:
    return create_specreason(pair, temperature=0, **settings).compile(checkpointer=saver)


either = pytest.mark.parametrize("concurrent", [False, True], ids=["sync", "async"])


# The conversation


@either
async def test_a_conversation_grows_over_turns(pair: EnginePair, concurrent: bool) -> None:
    graph = build(pair, saver := InMemorySaver())
    for turn, text in enumerate(["How far?", "And then?", "Why?"]):
        outcome = await graph.ainvoke(ask(text), THREAD) if concurrent else graph.invoke(ask(text), THREAD)
        assert len(outcome["messages"]) == 2 * (turn + 1)
    told = [
        ("human", "How far?"),
        ("ai", ANSWER),
        ("human", "And then?"),
        ("ai", ANSWER),
        ("human", "Why?"),
        ("ai", ANSWER),
    ]
    assert said(graph.get_state(THREAD).values["messages"]) == told
    runs = find_runs(saver, "t")
    replies = [message for message in outcome["messages"] if message.type == "ai"]
    assert [message.id for message in replies] == [run.run for run in reversed(runs)], "a reply names its run"
    (last, *_) = read_runs(saver, "t")
    spoken = [(turn.speaker, turn.text, turn.reasoning) for turn in last.typed_manifest.turns]
    assert spoken == [("user" if kind == "human" else "assistant", text, "") for kind, text in told[:-1]]


def test_another_process_goes_on_with_the_conversation(pair: EnginePair, tmp_path: Path) -> None:
    for text in ("How far?", "And then?"):
        with SqliteSaver.from_conn_string(str(tmp_path / "runs.sqlite")) as saver:
            outcome = build(pair, saver).invoke(ask(text), THREAD)
    assert said(outcome["messages"]) == [("human", "How far?"), ("ai", ANSWER), ("human", "And then?"), ("ai", ANSWER)]


def test_messages_are_known_again_by_their_ids(pair: EnginePair) -> None:
    graph = build(pair, InMemorySaver())
    graph.invoke(ask("How far?", id="1"), THREAD)
    again: Any = {"messages": [HumanMessage("How near?", id="1"), {"role": "user", "content": "And then?", "id": "2"}]}
    assert said(graph.invoke(again, THREAD)["messages"])[0] == ("human", "How near?")
    less: Any = {"messages": [RemoveMessage("1"), ("user", "Why?")]}
    texts = [text for kind, text in said(graph.invoke(less, THREAD)["messages"]) if kind == "human"]
    assert texts == ["And then?", "Why?"]


def test_the_caller_keeps_its_messages_as_they_were(pair: EnginePair) -> None:
    asked = HumanMessage("How far?")
    build(pair, InMemorySaver()).invoke({"messages": [asked]}, THREAD)
    assert asked.id is None


def test_a_question_leaves_the_conversation_alone(pair: EnginePair) -> None:
    graph = build(pair, InMemorySaver())
    assert "messages" not in graph.invoke({"question": "What?"}, THREAD)
    graph.invoke(ask("How far?"), THREAD)
    graph.invoke({"question": "What?", "messages": [HumanMessage("Not this.")]}, THREAD)
    assert said(graph.get_state(THREAD).values["messages"]) == [("human", "How far?"), ("ai", ANSWER)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": [HumanMessage([{"type": "image_url", "image_url": {"url": "x"}}])]},
        {"messages": [HumanMessage("half \ud83d")]},
        {"quesiton": "How far?"},
    ],
)
def test_what_is_refused_leaves_no_message_behind(pair: EnginePair, wrong: Any) -> None:
    graph = build(pair, InMemorySaver())
    graph.invoke(ask("How far?"), THREAD)
    with pytest.raises(QuestionError):
        graph.invoke(wrong, THREAD)
    assert len(graph.invoke(ask("And then?"), THREAD)["messages"]) == 4


def test_the_built_in_pair_refuses_small_talk_before_it_is_kept() -> None:
    graph = create_specreason(open_pair("abacus-base", "abacus-draft")).compile(checkpointer=InMemorySaver())
    with pytest.raises(QuestionError, match="the built-in models only do arithmetic"):
        graph.invoke(ask("hi"), THREAD)
    assert graph.get_state(THREAD).created_at is None


def test_the_built_in_pair_refuses_a_second_problem(abacus: EnginePair) -> None:
    graph = create_specreason(abacus, max_steps=1, answer_tokens=1).compile(checkpointer=InMemorySaver())
    problem = held_out()[4].question
    graph.invoke(ask(problem), THREAD)
    with pytest.raises(
        QuestionError, match="one problem in a conversation, and this one has 2 messages of the user; begin"
    ):
        graph.invoke(ask(problem), THREAD)


def test_a_message_is_edited_by_time_travel(pair: EnginePair) -> None:
    graph = build(pair, InMemorySaver())
    graph.invoke(ask("How far?"), THREAD)
    graph.invoke(ask("And then?"), THREAD)
    before = next(each for each in graph.get_state_history(THREAD) if len(each.values.get("messages", [])) == 2)
    assert said(graph.invoke(ask("And later?"), before.config)["messages"]) == [
        ("human", "How far?"), ("ai", ANSWER), ("human", "And later?"), ("ai", ANSWER),
    ]  # fmt: skip
    assert said(graph.get_state(THREAD).values["messages"])[2] == ("human", "And later?")


def test_another_reply_comes_from_the_checkpoint_before_prepare(pair: EnginePair) -> None:
    graph = build(pair, saver := InMemorySaver())
    graph.invoke(ask("How far?"), THREAD)
    before = next(each for each in graph.get_state_history(THREAD) if each.next == ("prepare",))
    outcome = graph.invoke(None, before.config, context={"seed": 5})
    assert said(outcome["messages"]) == [("human", "How far?"), ("ai", ANSWER)]
    assert {run.typed_manifest.config.seed for run in read_runs(saver, "t")} == {0, 5}


def test_a_fork_takes_the_conversation_along(pair: EnginePair) -> None:
    graph = build(pair, saver := InMemorySaver())
    graph.invoke(ask("How far?"), THREAD)
    graph.invoke(ask("And then?"), THREAD)
    outcome = graph.invoke(None, fork(graph, "fork", plan_fork(read_runs(saver, "t")[0], pair, at=1)))
    assert said(outcome["messages"]) == [("human", "How far?"), ("ai", ANSWER), ("human", "And then?"), ("ai", ANSWER)]


def test_pruning_keeps_the_conversation(pair: EnginePair, place: str) -> None:
    from tests.support.databases import opened

    at: Any = {"configurable": {"thread_id": f"pruned {place}"}}
    with opened(place) as saver:
        graph = build(pair, saver)
        graph.invoke(ask("How far?"), at)
        graph.invoke(ask("And then?"), at)
        kept = graph.get_state(at).values["messages"]
        prune(saver, at["configurable"]["thread_id"])
        assert graph.get_state(at).values["messages"] == kept
        assert said(graph.invoke(ask("Why?"), at)["messages"])[:4] == said(kept)


def test_a_thread_of_a_release_before_goes_on(pair: EnginePair, monkeypatch: pytest.MonkeyPatch) -> None:
    """That kept the input for one superstep, and the reply behind the end; each call had the whole conversation."""
    older = create_specreason(pair, temperature=0)
    older.channels["messages"] = EphemeralValue(list[Any])
    monkeypatch.setattr("specreason_graph.nodes.prepare.hash_of_messages", lambda _: None)
    saver = InMemorySaver()
    old, new = older.compile(checkpointer=saver), build(pair, saver)
    first = old.invoke(ask("How far?", id="1"), THREAD)["messages"]
    assert said(first) == [("ai", ANSWER)]
    whole: Any = {"messages": [HumanMessage("How far?", id="1"), *first, HumanMessage("And then?")]}
    assert said(new.invoke(whole, THREAD)["messages"]) == [
        ("human", "How far?"), ("ai", ANSWER), ("human", "And then?"), ("ai", ANSWER),
    ]  # fmt: skip
    for after in ("prepare", "accept"):
        at: Any = {"configurable": {"thread_id": after}}
        old.invoke(ask("How far?"), at, interrupt_after=[after])
        assert said(new.invoke(None, at)["messages"]) == [("human", "How far?"), ("ai", ANSWER)]
    at = {"configurable": {"thread_id": "asked"}}
    old.invoke(ask("How far?"), at, interrupt_before=["prepare"])
    assert said(new.invoke(None, at)["messages"]) == [("human", "How far?"), ("ai", ANSWER)]


def test_a_message_is_stored_once_and_with_what_each_run_was_asked(pair: EnginePair, tmp_path: Path) -> None:
    with SqliteSaver.from_conn_string(str(tmp_path / "runs.sqlite")) as saver:
        graph = build(pair, saver)
        for text in ("What is xyzzy?", "And then?", "Why?"):
            graph.invoke(ask(text), THREAD)
        rows = saver.conn.execute("select checkpoint from checkpoints").fetchall()
        assert sum(b"xyzzy" in checkpoint for (checkpoint,) in rows) == 1, "the question that waits"
        writes = saver.conn.execute("select channel, value from writes").fetchall()
    assert sorted(channel for channel, value in writes if value and b"xyzzy" in value) == ["manifest"] * 3 + [
        "messages"
    ]


def test_the_reducer_is_pure_and_takes_batches() -> None:
    one: Any = [HumanMessage("a"), {"role": "user", "content": "b"}]
    two: Any = [[("user", "c"), RemoveMessage("x")], AIMessage("d", id="d"), AIMessage("D", id="d")]
    state: list[BaseMessage] = [HumanMessage("0", id="0"), HumanMessage("x", id="x")]
    apart = converse(converse(state, [one]), two)
    assert apart == converse(state, [one, *two]) == converse(converse(state, [one, two[0]]), two[1:])
    assert [message.text for message in apart] == ["0", "a", "b", "c", "D"]
    assert len({message.id for message in apart}) == 5
    assert len(state) == 2


# As a node of another graph


def test_a_parent_gets_the_reply_alone(pair: EnginePair) -> None:
    class Listed(TypedDict, total=False):
        messages: Annotated[list[Any], operator.add]

    class Last(TypedDict, total=False):
        question: str
        messages: list[Any]

    for state, kept in ((Listed, ["human", "ai"]), (Last, ["ai"])):
        builder: Any = StateGraph(state)
        builder.add_node("think", build(pair))
        builder.add_edge(START, "think")
        assert [message.type for message in builder.compile().invoke(ask("How far?"))["messages"]] == kept
    assert builder.compile().invoke({"question": "What?", "messages": ["mine"]}) == {
        "question": "What?",
        "messages": ["mine"],
    }


def test_a_node_that_keeps_its_state_is_given_the_whole_conversation(pair: EnginePair) -> None:
    builder = StateGraph(MessagesState)
    builder.add_node("think", create_specreason(pair, temperature=0).compile(checkpointer=True))
    builder.add_edge(START, "think")
    app: Any = builder.compile(checkpointer=InMemorySaver())
    for text in ("How far?", "And then?"):
        outcome = app.invoke(ask(text), THREAD)
    assert said(outcome["messages"]) == [("human", "How far?"), ("ai", ANSWER), ("human", "And then?"), ("ai", ANSWER)]


# Streams


def as_node(graph: Any) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("think", graph)
    builder.add_edge(START, "think")
    return builder


def in_function(graph: Any) -> Any:
    def sync(state: Any) -> Any:
        return {"messages": graph.invoke({"messages": state["messages"]})["messages"]}

    async def concurrent(state: Any) -> Any:
        return {"messages": (await graph.ainvoke({"messages": state["messages"]}))["messages"]}

    return as_node(RunnableLambda(sync, afunc=concurrent))


DEPTHS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "root": (lambda graph: graph, 0),
    "node": (lambda graph: as_node(graph).compile(), 1),
    "node of a node": (lambda graph: as_node(as_node(graph).compile()).compile(), 2),
    "in a function": (lambda graph: in_function(graph).compile(), 1),
    "checkpointed node": (lambda graph: as_node(graph).compile(checkpointer=InMemorySaver()), 1),
}
"""Where the loop is, and how many graphs are around it."""


async def parts_of(graph: Any, asked: Any, config: Any, *, concurrent: bool, **more: Any) -> list[Any]:
    if concurrent:
        return [part async for part in graph.astream(asked, config, **more)]
    return list(graph.stream(asked, config, **more))


def whole(chunks: Sequence[Any]) -> Any:
    """What chunks of one message add up to."""
    assert len({chunk.id for chunk in chunks}) == 1
    return reduce(operator.add, chunks)


def blocks(message: Any) -> list[str]:
    return [block.get("reasoning") or block.get("text") for block in message.content]


@pytest.mark.parametrize("depth", DEPTHS)
@either
async def test_the_reply_streams_once_at_every_depth(pair: EnginePair, depth: str, concurrent: bool) -> None:
    wrap, around = DEPTHS[depth]
    app = wrap(build(pair))
    config = THREAD if "checkpointed" in depth else NO_THREAD
    more = {"stream_mode": "messages", "subgraphs": True}
    parts = await parts_of(app, ask("How far?"), config, concurrent=concurrent, **more)
    assert {len(namespace) for namespace, _ in parts} == {around}
    chunks = [chunk for _, (chunk, _) in parts]
    assert all(isinstance(chunk, AIMessageChunk) for chunk in chunks)
    assert len(chunks) > 3 + 5, "steps, tokens, and the end"
    reply = whole(chunks)
    assert blocks(reply) == [*STEPS, ANSWER]
    assert [block["extras"]["author"] for block in reply.content[:3]] == ["draft", "base", "draft"]
    assert reply.usage_metadata["output_token_details"]["reasoning"] > 0
    assert [meta["langgraph_node"] for _, (_, meta) in parts[:3]] == ["accept", "regenerate", "accept"]
    assert {meta["langgraph_node"] for _, (_, meta) in parts[3:]} == {"finalize"}


@pytest.mark.parametrize("depth", DEPTHS)
async def test_without_subgraphs_a_parent_streams_the_message_whole(pair: EnginePair, depth: str) -> None:
    wrap, around = DEPTHS[depth]
    config = THREAD if "checkpointed" in depth else NO_THREAD
    parts = list(wrap(build(pair)).stream(ask("How far?"), config, stream_mode="messages"))
    assert whole([chunk for chunk, _ in parts]).text == ANSWER
    assert (len(parts) == 1) == bool(around)


def test_a_second_turn_streams_its_own_reply_alone(pair: EnginePair) -> None:
    graph = build(pair, InMemorySaver())
    replies = [
        whole([chunk for chunk, _ in graph.stream(ask(text), THREAD, stream_mode="messages")])
        for text in ("How far?", "And then?")
    ]
    assert [reply.text for reply in replies] == [ANSWER, ANSWER]
    kept = [message for message in graph.get_state(THREAD).values["messages"] if message.type == "ai"]
    assert [reply.id for reply in replies] == [message.id for message in kept]
    assert [blocks(reply) for reply in replies] == [blocks(message) for message in kept]


def test_the_answer_to_a_question_streams_too(pair: EnginePair) -> None:
    parts = list(build(pair).stream({"question": "What?"}, stream_mode=["messages", "custom"]))
    assert blocks(whole([part[0] for mode, part in parts if mode == "messages"])) == [*STEPS, ANSWER]


def test_a_reply_without_thinking_streams_as_text() -> None:
    text = "One is odd.\n\nTwo is even.\n\nThree is odd."
    with EnginePair(FakeEngine(lambda _: text), FakeEngine(lambda _: text, lambda _: 9)) as pair:
        graph = build(pair, InMemorySaver(), thinking="none", max_steps=3)
        chunks = [chunk for chunk, _ in graph.stream(ask("Which?"), THREAD, stream_mode="messages")]
        answer = graph.get_state(THREAD).values["answer"]
    assert whole(chunks).content == [{"type": "text", "text": answer, "index": 0}]
    assert len(chunks) > 2


def test_calls_of_tools_are_in_the_stream() -> None:
    call = 'I look.\n<tool_call>\n{"name": "look", "arguments": {"at": 5}}\n</tool_call>'
    with EnginePair(FakeEngine([CLOSE]), FakeEngine([CLOSE, call], [9])) as pair:
        graph = build(pair, InMemorySaver(), tools=[LOOK])
        reply = whole([chunk for chunk, _ in graph.stream(ask("What?"), THREAD, stream_mode="messages")])
        (asked, kept) = graph.get_state(THREAD).values["messages"]
        result = ToolMessage("A cat.", tool_call_id=kept.tool_calls[0]["id"])
        with pytest.raises(QuestionError, match="the last message is the assistant's"):
            graph.invoke({"messages": []}, THREAD)
    assert [(each["name"], each["args"]) for each in reply.tool_calls] == [("look", {"at": 5})]
    assert reply.tool_calls == kept.tool_calls
    assert (reply.text, asked.text, result.tool_call_id) == ("I look.", "What?", reply.tool_calls[0]["id"])


def test_the_result_of_a_tool_goes_on_with_the_turn() -> None:
    call = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
    with EnginePair(FakeEngine([CLOSE] * 2), FakeEngine([CLOSE, call, CLOSE, "A cat."], [9])) as pair:
        graph = build(pair, InMemorySaver(), tools=[LOOK])
        reply = graph.invoke(ask("What?"), THREAD)["messages"][-1]
        result: Any = {"messages": [ToolMessage("cat", tool_call_id=reply.tool_calls[0]["id"])]}
        kinds = [message.type for message in graph.invoke(result, THREAD)["messages"]]
    assert kinds == ["human", "ai", "tool", "ai"]


def test_a_resumed_run_streams_the_whole_message(pair: EnginePair) -> None:
    for after in ("prepare", "accept", "regenerate"):
        graph, at = build(pair, InMemorySaver()), THREAD
        early = [
            chunk for chunk, _ in graph.stream(ask("How far?"), at, stream_mode="messages", interrupt_after=[after])
        ]
        assert [block for chunk in early for block in blocks(chunk)] == STEPS[
            : {"prepare": 0, "accept": 1}.get(after, 2)
        ]
        later = [chunk for chunk, _ in graph.stream(None, at, stream_mode="messages")]
        assert blocks(whole(later)) == [*STEPS, ANSWER]
        assert {chunk.id for chunk in early} <= {chunk.id for chunk in later}


def test_a_human_in_the_loop_streams_the_message_once_it_is_answered(pair: EnginePair) -> None:
    graph = build(pair, InMemorySaver(), review={"low": 2, "high": 3})
    early = list(graph.stream(ask("How far?"), THREAD, stream_mode="messages"))
    assert [block for chunk, _ in early for block in blocks(chunk)] == STEPS[:1]
    later = [chunk for chunk, _ in graph.stream(Command(resume="reject"), THREAD, stream_mode="messages")]
    assert blocks(whole(later)) == [*STEPS, ANSWER]


def test_a_node_that_is_tried_again_streams_what_is_new() -> None:
    left = [2]

    def fails(prompt: str) -> EngineError | None:
        left[0] -= "Step 1" in prompt
        return EngineError("gone", engine="draft") if left[0] == 0 else None

    with stepwise(3, (9, 2)) as pair:
        base: Any = pair.base
        base.failure = fails
        builder = StateGraph(MessagesState)
        policy = RetryPolicy(initial_interval=0.001, jitter=False, retry_on=EngineError)
        builder.add_node("think", build(pair), retry_policy=policy)
        builder.add_edge(START, "think")
        app: Any = builder.compile(checkpointer=InMemorySaver())
        parts = list(app.stream(ask("How far?"), THREAD, stream_mode="messages", subgraphs=True))
    assert left[0] < 0
    by_run: dict[str, list[Any]] = {}
    for _, (chunk, _) in parts:
        by_run.setdefault(chunk.id, []).append(chunk)
    assert blocks(whole(list(by_run.values())[-1])) == [*STEPS, ANSWER]
    assert all(len(set(blocks(whole(chunks)))) == len(blocks(whole(chunks))) for chunks in by_run.values())


# LangGraph's event streams (version 3)


@pytest.fixture(autouse=True)
def _beta() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*v3.*")
        yield


def test_an_event_stream_has_one_message_with_blocks(pair: EnginePair) -> None:
    graph = build(pair, InMemorySaver())
    for text in ("How far?", "And then?"):
        (message,) = list(graph.stream_events(ask(text), THREAD, version="v3").messages)
        kept = graph.get_state(THREAD).values["messages"][-1]
        assert str(message.text) == ANSWER
        assert str(message.reasoning) == "".join(STEPS)
        whole_one = message.output
        assert [block["type"] for block in whole_one.content_blocks] == ["reasoning"] * 3 + ["text"]
        assert whole_one.usage_metadata == kept.usage_metadata
        assert whole_one.response_metadata["finish_reason"] == "stop"


async def test_events_come_while_the_answer_is_written(pair: EnginePair) -> None:
    run = await build(pair, InMemorySaver()).astream_events(ask("How far?"), THREAD, version="v3")
    pieces, thought = [], []
    async for message in run.messages:
        thought = [piece async for piece in message.reasoning]
        pieces = [piece async for piece in message.text]
    assert thought == STEPS
    assert "".join(pieces) == ANSWER
    assert len(pieces) > 5


def test_in_a_subgraph_the_message_is_the_subgraphs(pair: EnginePair) -> None:
    run = as_node(build(pair)).compile().stream_events(ask("How far?"), version="v3")
    events = [event for event in run if event["method"] == "messages"]
    kinds = [event["params"]["data"][0]["event"] for event in events]
    assert (kinds.count("message-start"), kinds.count("message-finish"), kinds.count("content-block-finish")) == (
        1,
        1,
        4,
    )
    assert {len(event["params"]["namespace"]) for event in events} == {1}
    texts = [event["params"]["data"][0].get("delta", {}).get("text", "") for event in events]
    assert "".join(texts) == ANSWER


def test_an_event_stream_ends_when_a_human_is_asked(pair: EnginePair) -> None:
    graph = build(pair, InMemorySaver(), review={"low": 2, "high": 3})
    run = graph.stream_events(ask("How far?"), THREAD, version="v3")
    kinds = [event["params"]["data"][0]["event"] for event in run if event["method"] == "messages"]
    assert kinds == ["message-start", "content-block-start", "content-block-delta", "content-block-finish"]
    (message,) = list(graph.stream_events(Command(resume="reject"), THREAD, version="v3").messages)
    assert (str(message.reasoning), str(message.text)) == ("".join(STEPS), ANSWER)


# The chat model in a graph


@either
async def test_the_chat_model_streams_once(pair: EnginePair, concurrent: bool) -> None:
    chat = ChatSpecReason(pair, temperature=0, config_file=None)

    def sync(state: Any) -> Any:
        return {"messages": [chat.invoke(state["messages"])]}

    async def asynchronous(state: Any) -> Any:
        return {"messages": [await chat.ainvoke(state["messages"])]}

    app = as_node(RunnableLambda(sync, afunc=asynchronous)).compile()
    for subgraphs in (False, True):
        more = {"stream_mode": "messages", "subgraphs": subgraphs}
        parts = await parts_of(app, ask("How far?"), NO_THREAD, concurrent=concurrent, **more)
        chunks = [part[1][0] if subgraphs else part[0] for part in parts]
        assert blocks(whole(chunks)) == [*STEPS, ANSWER]
        assert {part[0] for part in parts if subgraphs} <= {()}
