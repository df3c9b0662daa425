"""What a chat model is given: messages of any origin, their tokens, and LangChain's ways to say what is wanted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    message_chunk_to_message,
    trim_messages,
)
from langchain_core.runnables import ConfigurableField, ConfigurableFieldSingleOption
from langchain_core.tools import tool
from pydantic import BaseModel
from pytest_socket import disable_socket, enable_socket

from specreason_graph import ChatSpecReason, EnginePair, create_specreason
from specreason_graph.config import make_config
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import ConfigError, QuestionError
from specreason_graph.prompting.conversation import read_conversation
from tests.support.conversations import CONVERSATIONS, LOOK, Conversation
from tests.support.scripts import CLOSE, is_closed

CALL: Any = {"name": "look", "args": {"place": "Rome"}, "id": "1"}
RESULT = ToolMessage("It rains.", tool_call_id="1")


@tool
def look(place: str) -> str:
    """Look something up."""
    return f"{place}: it rains."


def written(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def pair_that(answer: str | Callable[[str], str]) -> EnginePair:
    """A pair that does not think, and answers."""
    reply = answer if callable(answer) else lambda _: answer
    return EnginePair(
        FakeEngine(lambda _: CLOSE, name="draft"),
        FakeEngine(lambda prompt: reply(prompt) if is_closed(prompt) else CLOSE, lambda _: 9, name="base"),
    )


@pytest.fixture(scope="module")
def pair() -> Iterator[EnginePair]:
    with pair_that("It is 3.") as opened:
        yield opened


@pytest.fixture
def chat(pair: EnginePair) -> ChatSpecReason:
    return ChatSpecReason(pair)


def prompt_of(pair: EnginePair, messages: list[Any], **settings: Any) -> str:
    """What the base is prompted with up to the opened thinking."""
    chat = ChatSpecReason(pair, **settings)
    base: Any = pair.base
    before = len(base.calls)
    chat.invoke(messages)
    return str(base.vocabulary.decode(base.calls[before].prompt_ids))


# -- messages of any origin -------------------------------------------------------------------------------------------

PASSED_OVER: list[Any] = [
    {"type": "redacted_thinking", "data": "x"},
    {"type": "reasoning_content", "reasoning_content": {"text": "Hm."}},
    {"type": "web_search_call", "id": "1", "status": "completed"},
    {"type": "code_interpreter_call", "code": "1"},
    {"type": "server_tool_call", "name": "search", "args": {}, "id": "1"},
    {"type": "server_tool_result", "tool_call_id": "1", "status": "success"},
    {"type": "non_standard", "value": {"a": 1}},
    {"type": "invalid_tool_call", "name": "f", "args": "{", "id": "1", "error": "no JSON"},
    {"type": "tool_use", "id": "1", "name": "f", "input": {}},
    {"type": "what_comes_next_year", "text": None},
    {"toolUse": {"name": "f"}},
]


@pytest.mark.parametrize("block", PASSED_OVER, ids=lambda block: str(block.get("type")))
def test_what_other_providers_put_beside_the_text_of_a_reply_is_passed_over(pair: EnginePair, block: Any) -> None:
    said = AIMessage(["It ", block, {"type": "text", "text": "rains."}])
    prompt = prompt_of(pair, [HumanMessage("What?"), said, HumanMessage("Sure?")])
    assert "<|assistant|>It rains.<|end|><|user|>Sure?<|end|>" in prompt


@pytest.mark.parametrize(
    "block",
    [
        {"type": "output_text", "text": "It rains.", "annotations": []},
        {"type": "input_text", "text": "It rains."},
        {"type": "text-plain", "text": "It rains.", "mime_type": "text/plain"},
        {"text": "It rains."},
    ],
    ids=lambda block: str(block.get("type")),
)
def test_texts_are_read_in_the_forms_of_other_providers(pair: EnginePair, block: Any) -> None:
    asked = [SystemMessage([block]), HumanMessage([block]), AIMessage([block]), HumanMessage([block])]
    assert prompt_of(pair, asked).count("It rains.") == 4


def test_a_refusal_is_what_the_assistant_said(pair: EnginePair) -> None:
    refused: Any = [{"type": "refusal", "refusal": "I will not."}]
    assert "<|assistant|>I will not.<|end|>" in prompt_of(pair, [("user", "Do."), AIMessage(refused), ("user", "Do!")])


@pytest.mark.parametrize("kind", ["image", "image_url", "input_image", "audio", "input_audio", "video", "file"])
@pytest.mark.parametrize("by", [HumanMessage, SystemMessage, AIMessage])
def test_what_is_no_text_is_refused_whoever_says_it(chat: ChatSpecReason, by: type[BaseMessage], kind: str) -> None:
    block: Any = {"type": kind, "url": "https://example.org/x"}
    with pytest.raises(QuestionError, match=f"message 0 holds '{kind}', and only text can be read"):
        chat.invoke([by([block, {"type": "text", "text": "What is it?"}]), HumanMessage("Well?")])


def test_a_user_says_nothing_but_texts(chat: ChatSpecReason) -> None:
    with pytest.raises(QuestionError, match="message 0 holds 'web_search_call', and only text can be read"):
        chat.invoke([HumanMessage([{"type": "web_search_call"}])])


def test_a_streamed_reply_with_an_unreadable_call_goes_back() -> None:
    with pair_that('Well. <tool_call>\n{"name": "look", "arguments": {"pl\n</tool_call>') as pair:
        chat = ChatSpecReason(pair, output_version="v1").bind_tools([look])
        whole: Any = None
        for chunk in chat.stream("Where?"):
            whole = chunk if whole is None else whole + chunk
        reply = message_chunk_to_message(whole)
        assert {block["type"] for block in reply.content} - {"text"}  # type: ignore[index]
        again = chat.invoke([HumanMessage("Where?"), reply, HumanMessage("Try again.")])
        assert again.text == reply.text == "Well."


THOUGHTS: list[Any] = [
    [{"type": "reasoning", "reasoning": "I had better look."}],
    [{"type": "thinking", "thinking": "I had better look.", "signature": "x"}],
    [{"type": "reasoning_content", "reasoning_content": {"text": "I had better look.", "signature": "x"}}],
    [{"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "I had better look."}]}],
]


@pytest.mark.parametrize("content", THOUGHTS, ids=range(len(THOUGHTS)))
def test_what_was_thought_before_a_call_is_read_in_the_forms_of_other_providers(content: Any) -> None:
    turns = read_conversation(None, [HumanMessage("Where?"), AIMessage(content, tool_calls=[CALL]), RESULT])
    assert turns[1].reasoning == "I had better look."


@pytest.mark.parametrize("extra", [{"reasoning_content": "I look."}, {"reasoning": {"summary": [{"text": "I look."}]}}])
def test_what_was_thought_is_read_beside_the_content_too(extra: Any) -> None:
    said = AIMessage("", tool_calls=[CALL], additional_kwargs=extra)
    assert read_conversation(None, [HumanMessage("Where?"), said, RESULT])[1].reasoning == "I look."


def test_names_of_speakers_reach_the_template() -> None:
    shown: list[Any] = []

    with pair_that("It is 3.") as pair:
        vocabulary: Any = pair.base.vocabulary
        render = vocabulary.render

        def noting(messages: Any, tools: Any = (), **more: Any) -> Any:
            shown.append(messages)
            return render(messages, tools, **more)

        vocabulary.render = noting
        asked = [
            SystemMessage("s", name="rules"), HumanMessage("Hi.", name="ada"), AIMessage("Yes?", name="helper"),
            HumanMessage("Bye.", name="<think>"),
        ]  # fmt: skip
        ChatSpecReason(pair).invoke(asked)
    (names,) = {tuple(each.get("name") for each in messages) for messages in shown if len(messages) == 4}
    assert names[:3] == ("rules", "ada", "helper")
    assert "<think>" not in names[3]  # a mark stands for what spells a control token


UNREADABLE: list[Any] = [
    ([("user", "x"), {"role": "tool", "content": "x"}], "message 1 lacks 'tool_call_id'"),
    ([("user", "x"), {"role": "assistant", "content": "", "tool_calls": [{"function": [1]}]}], "message 1 cannot be"),
    ([{"role": "poet", "content": "x"}], "message 0 cannot be read: Unexpected message type: 'poet'"),
    ([{"content": "x"}], "message 0 cannot be read: Message dict must contain"),
    ([5], "message 0 cannot be read"),
    (5, "the messages are a int"),
]


@pytest.mark.parametrize(("messages", "problem"), UNREADABLE, ids=range(len(UNREADABLE)))
async def test_messages_that_are_none_are_named(pair: EnginePair, messages: Any, problem: str) -> None:
    chat, graph = ChatSpecReason(pair), create_specreason(pair).compile()
    with pytest.raises(QuestionError, match=problem):
        chat.invoke(messages)
    with pytest.raises(QuestionError, match=problem):
        await chat.ainvoke(messages)
    with pytest.raises(QuestionError, match=problem):
        list(chat.stream(messages))
    with pytest.raises(QuestionError, match=problem):
        _ = [chunk async for chunk in chat.astream(messages)]
    with pytest.raises(QuestionError, match=problem):
        graph.invoke({"messages": messages})


# -- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", CONVERSATIONS, ids=range(len(CONVERSATIONS)))
def test_tokens_are_counted_as_a_call_sends_them(pair: EnginePair, asked: Conversation) -> None:
    chat, vocabulary = ChatSpecReason(pair), pair.base.vocabulary
    template = vocabulary.encode_template(vocabulary.render(asked.rendered, asked.tools))
    counted = chat.get_num_tokens_from_messages(asked.messages, tools=asked.tools)
    usage = chat.bind_tools(asked.tools).invoke(asked.messages).usage_metadata
    assert usage
    assert counted == len(template) == usage["input_tokens"]
    assert ChatSpecReason(pair, tools=asked.tools).get_num_tokens_from_messages(asked.messages) == counted


def test_tokens_are_counted_without_a_network_and_without_open_engines() -> None:
    closed = pair_that("x")
    disable_socket(allow_unix_socket=True)
    try:
        chat = ChatSpecReason(closed)
        assert chat.get_token_ids("<think>") == list(b"<think>")
        assert chat.get_num_tokens("four") == 4
        assert chat.get_num_tokens_from_messages([HumanMessage("four")]) > 4
        assert chat.get_num_tokens_from_messages([]) == 0
    finally:
        enable_socket()
    assert not closed.is_open


def test_tools_are_counted_in_any_form_that_can_be_bound(chat: ChatSpecReason) -> None:
    asked = [HumanMessage("Where?")]
    bare = chat.get_num_tokens_from_messages(asked)
    counts = [chat.get_num_tokens_from_messages(asked, tools=[given]) for given in (look, LOOK)]
    assert all(count > bare + 50 for count in counts)
    with pytest.raises(ConfigError, match="is no tool"):
        chat.get_num_tokens_from_messages(asked, tools=[5])  # type: ignore[list-item]


@pytest.mark.parametrize("strategy", ["first", "last"])
@pytest.mark.parametrize("asked", [CONVERSATIONS[13], CONVERSATIONS[17]], ids=["long", "with a tool"])
def test_trimmed_messages_fit(chat: ChatSpecReason, asked: Conversation, strategy: Any) -> None:
    whole = chat.get_num_tokens_from_messages(asked.messages)
    lengths = []
    for limit in (*range(40, whole, 20), whole):
        kept = trim_messages(asked.messages, max_tokens=limit, token_counter=chat, strategy=strategy)
        assert chat.get_num_tokens_from_messages(kept) <= limit
        lengths.append(len(kept))
    assert all(before <= after for before, after in pairwise(lengths))
    assert lengths[0] < lengths[-1] == len(asked.messages)


def test_what_is_sent_no_more_is_not_counted() -> None:
    thought: Any = [{"type": "reasoning", "reasoning": "hm " * 500}, {"type": "text", "text": "Two."}]
    asked = [HumanMessage("One?"), AIMessage(thought), HumanMessage("Three?")]
    with pair_that("x") as pair:
        chat = ChatSpecReason(pair)
        assert chat.get_num_tokens_from_messages(asked) < 100
        assert chat.get_num_tokens_from_messages(asked[:2]) < 100
        assert trim_messages(asked, max_tokens=100, token_counter=chat) == asked


# -- what is wanted of an answer --------------------------------------------------------------------------------------

TWICE = f"I look. {written('look', place='Rome')} And: {written('look', place='Oslo')}"


@pytest.mark.parametrize(
    ("parallel", "places"), [(None, ["Rome", "Oslo"]), (True, ["Rome", "Oslo"]), (False, ["Rome"])]
)
def test_one_call_is_made_where_no_more_are_wanted(parallel: bool | None, places: list[str]) -> None:
    with pair_that(TWICE) as pair:
        chat = ChatSpecReason(pair).bind_tools([look], parallel_tool_calls=parallel)
        whole = chat.invoke("Where?")
        assert [call["args"]["place"] for call in whole.tool_calls] == places
        assert "Oslo" not in whole.text
        merged: Any = None
        for chunk in chat.stream("Where?"):
            merged = chunk if merged is None else merged + chunk
        assert merged.tool_calls == [
            {**call, "id": merged.tool_calls[place]["id"]} for place, call in enumerate(whole.tool_calls)
        ]
        assert merged.text == whole.text
        if parallel is not None:
            made = ChatSpecReason(pair, parallel_tool_calls=parallel).bind_tools([look])
            assert len(made.invoke("Where?").tool_calls) == len(places)


def test_a_first_call_that_cannot_be_read_is_the_one() -> None:
    broken = '<tool_call>\n{"name": "look", "arguments": {"pl\n</tool_call>'
    with pair_that(broken + written("look", place="Rome")) as pair:
        message = ChatSpecReason(pair).bind_tools([look], parallel_tool_calls=False).invoke("Where?")
    assert (len(message.invalid_tool_calls), message.tool_calls) == (1, [])


class Sum(BaseModel):
    """A sum."""

    total: int


def look_first(prompt: str) -> str:
    """Calls the tool where there is one, then answers by the schema."""
    if "<tool_response>" in prompt or "Tools:" not in prompt:
        return '{"total": 42}'
    return '{"name": "look", "arguments": {"place": "Rome"}}'


@pytest.mark.parametrize("tools", [[], [look]], ids=["bare", "with a tool"])
@pytest.mark.parametrize("wanted", [ProviderStrategy(Sum), ToolStrategy(Sum), Sum], ids=["provider", "tool", "auto"])
def test_agents_answer_by_a_schema(wanted: Any, tools: list[Any]) -> None:
    def reply(prompt: str) -> str:
        if isinstance(wanted, ToolStrategy):
            done = not tools or "<tool_response>" in prompt
            call = written("Sum", total=42) if done else written("look", place="Rome")
            return (
                call.removeprefix("<tool_call>\n")
                if prompt.endswith("<tool_call>\n")
                else ('{"total": 42}}\n</tool_call>' if prompt.endswith('"arguments": ') else call)
            )
        return look_first(prompt)

    with pair_that(reply) as pair:
        agent = create_agent(ChatSpecReason(pair), tools=tools, response_format=wanted)
        outcome = agent.invoke({"messages": [HumanMessage("What is it?")]})
        assert outcome["structured_response"] == Sum(total=42)
        called = [message.name for message in outcome["messages"] if message.type == "tool" and message.name == "look"]
        assert called == ["look"] * len(tools)
        base: Any = pair.base
        held_to = {call.sampling.json_schema for call in base.calls if call.sampling and call.sampling.json_schema}
    assert bool(held_to) is not isinstance(wanted, ToolStrategy)


def test_an_answer_by_a_schema_may_be_a_call_instead() -> None:
    nested = {"$defs": {"N": {"type": "integer"}}, "type": "object", "properties": {"total": {"$ref": "#/$defs/N"}}}
    with pair_that(look_first) as pair:
        chat = ChatSpecReason(pair).bind_tools([look], response_format={
            "type": "json_schema", "json_schema": {"name": "Sum", "schema": nested},
        })  # fmt: skip
        assert [call["name"] for call in chat.invoke("What?").tool_calls] == ["look"]
        base: Any = pair.base
        schema = json.loads(base.calls[-1].sampling.json_schema)
    assert schema["$defs"] == nested["$defs"]  # what is referred to stays at the root
    answer, call = schema["anyOf"]
    assert answer == {"type": "object", "properties": nested["properties"]}
    assert call["properties"]["name"] == {"const": "look"}
    assert call["properties"]["arguments"]["required"] == ["place"]


FORMS: list[Any] = [
    ({"type": "json_schema", "json_schema": {"name": "S", "schema": {"title": "x"}, "strict": True}}, {"title": "x"}),
    ({"type": "json_object"}, {"type": "object"}),
    ({"type": "text"}, None),
]


@pytest.mark.parametrize(("given", "schema"), FORMS, ids=["schema", "object", "text"])
def test_response_formats_are_schemas(given: Any, schema: Any) -> None:
    with pair_that("{}") as pair:
        ChatSpecReason(pair).invoke("What?", response_format=given)
        ChatSpecReason(pair, response_format=given).invoke("What?")
        base: Any = pair.base
        asked = [call.sampling.json_schema for call in base.calls if call.sampling.json_schema]
    assert [json.loads(each) for each in asked] == [schema] * (2 if schema else 0)


def test_response_formats_that_are_none_are_refused(chat: ChatSpecReason) -> None:
    for wrong in ({"type": "xml"}, {"type": "json_schema"}, "json", {"type": "json_schema", "json_schema": {"a": 1}}):
        with pytest.raises(ConfigError, match=r"response_format = .* is not understood; write"):
            chat.invoke("What?", response_format=wrong)
    with pytest.raises(ConfigError, match="tool_choice = 'look' wants a call, and answer_schema an answer"):
        chat.bind_tools([look], tool_choice="look", response_format={"type": "json_object"}).invoke("What?")
    with pytest.raises(ConfigError, match="unknown setting 'treshold'"):
        chat.with_structured_output(Sum, method="json_schema", treshold=3).invoke("What?")


def test_where_no_schema_can_be_kept_to_the_way_out_is_told(abacus: EnginePair) -> None:
    chat = ChatSpecReason(abacus)
    asked = "Zoe has 25 pens. Zoe sells 6 pens. How many pens does Zoe have now?"
    with pytest.raises(
        ConfigError, match=r"cannot make an answer follow a JSON schema; use vLLM, or have a tool called"
    ):
        chat.invoke(asked, response_format={"type": "json_object"})
    assert chat.profile
    assert not chat.profile["structured_output"]


# -- the model itself -------------------------------------------------------------------------------------------------


def test_the_profile_tells_what_the_pair_can_do() -> None:
    engines = FakeEngine(context=5000), FakeEngine(context=4000, name="base")
    pair = EnginePair(*engines)
    profile = ChatSpecReason(pair).profile
    assert not pair.is_open
    assert profile
    assert profile["name"] == "base"
    assert 2000 < profile["max_input_tokens"] < 4000
    assert profile["max_output_tokens"] == 4000
    kinds = ("reasoning_output", "tool_calling", "tool_choice", "structured_output", "text_inputs")
    assert all(profile[kind] is True for kind in kinds)  # type: ignore[literal-required]
    assert profile["image_inputs"] is False
    plain = ChatSpecReason(pair, thinking="none").profile
    assert plain
    assert plain["reasoning_output"] is False
    assert ChatSpecReason(pair, profile={"max_input_tokens": 7}).profile == {"max_input_tokens": 7}


def test_a_question_as_long_as_the_profile_allows_is_answered_and_a_longer_one_is_not() -> None:
    with EnginePair(FakeEngine(lambda _: CLOSE), FakeEngine(lambda _: CLOSE, lambda _: 9, context=4000)) as pair:
        chat = ChatSpecReason(pair)
        assert chat.profile
        room = chat.profile["max_input_tokens"] - chat.get_num_tokens_from_messages([HumanMessage("")])
        assert chat.invoke("x" * room)
        with pytest.raises(QuestionError, match="the question takes"):
            chat.invoke("x" * (room + 1))


def test_the_profile_of_the_reference_pair(abacus: EnginePair) -> None:
    profile = ChatSpecReason(abacus).profile
    assert profile
    assert (profile["tool_calling"], profile["structured_output"]) == (False, False)
    assert profile["max_input_tokens"] < abacus.base.context


def test_middleware_that_needs_the_profile_works() -> None:
    base = FakeEngine(lambda prompt: "Short." if is_closed(prompt) else CLOSE, lambda _: 9, context=20_000)
    with EnginePair(FakeEngine(lambda _: CLOSE), base) as pair:
        chat = ChatSpecReason(pair)
        shorten = SummarizationMiddleware(
            chat,
            trigger=("fraction", 0.5),
            keep=("messages", 2),
            token_counter=lambda messages: chat.get_num_tokens_from_messages(list(messages)),
        )
        agent = create_agent(chat, tools=[], middleware=[shorten])
        talk: list[Any] = [each for i in range(12) for each in (HumanMessage(f"{i} " * 450), AIMessage("Yes."))]
        outcome = agent.invoke({"messages": [*talk, HumanMessage("So?")]})
    assert len(outcome["messages"]) < len(talk)


def test_settings_are_configurable_as_fields_are(pair: EnginePair) -> None:
    chat = ChatSpecReason(pair).configurable_fields(
        max_tokens=ConfigurableField(id="length", name="Length"), temperature=ConfigurableField(id="heat"),
        answer_by=ConfigurableFieldSingleOption(id="who", options={"large": "base", "small": "draft"}, default="large"),
    )  # fmt: skip
    assert chat.invoke("What?").text == "It is 3."
    assert chat.with_config(configurable={"length": 2}).invoke("What?").text == "It"
    assert chat.invoke("What?", {"configurable": {"who": "small"}}).text == ""
    specs = {spec.id: spec for spec in chat.config_specs}
    assert specs["heat"].default == 0.6
    assert "Sampling temperature" in str(specs["heat"].description)
    assert "heat" in json.dumps(chat.get_config_jsonschema())
    with pytest.raises(ConfigError, match="temperature = 9 is not allowed"):
        chat.invoke("What?", {"configurable": {"heat": 9}})
    with pytest.raises(ConfigError, match="unknown setting 'treshold'"):
        ChatSpecReason(pair).configurable_fields(treshold=ConfigurableField(id="t"))


def test_a_model_is_chosen_with_the_pair(pair: EnginePair) -> None:
    with pytest.raises(ConfigError, match="model 'gpt' cannot be chosen: the base of the pair is 'base'; open another"):
        ChatSpecReason(pair, model="gpt")
    with pytest.raises(ConfigError, match="model 'gpt' cannot be chosen"):
        ChatSpecReason(pair).bind(model="gpt").invoke("What?")
    assert ChatSpecReason(pair, model="base").invoke("What?", model="base").text == "It is 3."


def test_what_is_no_pair_is_refused_at_once() -> None:
    for wrong in ("abacus-base", None, 5):
        with pytest.raises(
            ConfigError, match=rf"pair = {wrong!r} is not a pair of engines; give open_pair\(base, draft\)"
        ):
            ChatSpecReason(wrong)  # type: ignore[arg-type]


def test_what_is_bound_wrongly_is_refused_when_it_is_bound(chat: ChatSpecReason) -> None:
    with pytest.raises(ConfigError, match="tool_choice 'jump' is no tool; tools: look"):
        chat.bind_tools([look], tool_choice="jump")
    with pytest.raises(ConfigError, match="unknown setting 'treshold'"):
        chat.bind_tools([look], treshold=3)


@pytest.mark.parametrize("tools", [[{"function": [1]}], [{"type": "function", "function": [1]}], [1], [{"a": 1}]])
def test_what_is_no_tool_is_refused(chat: ChatSpecReason, tools: Any) -> None:
    with pytest.raises(ConfigError, match=r"is no tool: .*; give a function|is not allowed: .*write each as"):
        chat.bind_tools(tools)
    with pytest.raises(ConfigError, match="tools"):
        make_config(tools=tools)
