"""Calls of tools as models spell them: JSON is decoded value by value, only bound tools are called, all else is text."""
# ruff: noqa: E501, RUF001 - a call stands in one line, with the signs that models write

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from specreason_graph.prompting.tool_calls import read_reply
from specreason_graph.prompting.tool_formats import FORMATS

TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}
    for name, properties in {
        "look": {"place": {"type": "string"}, "days": {"type": "integer"}, "more": {"type": "object"}},
        "stop": {},
    }.items()
]
BY_NAME = {form.name: form for form in FORMATS}
ROME = ("look", {"place": "Rome"})
DSML = "\uff5cDSML\uff5c"
SPELLED = [
    ("Llama 3", '{"name": "look", "parameters": {"place": "Rome"}}', [ROME], ""),
    ("Llama 3", '<|python_tag|>{"name": "look", "parameters": {"place": "Rome"}}', [ROME], ""),
    ("Llama 3", '{"name": "look", "parameters": {"place": "Rome"}}; {"name": "stop", "parameters": {}}', [ROME, ("stop", {})], ""),
    ("Llama 3", '{"type": "function", "name": "look", "parameters": {"place": "Rome"}}', [ROME], ""),
    ("Llama 3", '{"type": "function", "function": {"name": "look", "arguments": {"place": "Rome"}}}', [ROME], ""),
    ("Llama 3", '{"type": "function", "function": "look", "parameters": {"place": "Rome"}}', [ROME], ""),
    ("Llama 3", '{"name": "look", "parameters": {"place": "Rome"}} there', [ROME], "there"),
    ("Llama 3", '{\n  "name": "look",\n  "parameters": {\n    "place": "Rome"\n  }\n}', [ROME], ""),
    ("Llama 3", '{"name": "look", "parameters": "{\\"place\\": \\"Rome\\"}"}', [ROME], ""),
    ("Llama 3", '<function=look>{"place": "Rome"}</function>', [ROME], ""),
    ("Llama 3", 'An object is {"name": "x", "parameters": {}} or {}.', [], 'An object is {"name": "x", "parameters": {}} or {}.'),
    ("Llama 3", 'I look: {"name": "look", "parameters": {"place": "Rome"}}', [ROME], "I look:"),
    ("Llama 3", 'A set {1, 2 and {"a": 1}', [], 'A set {1, 2 and {"a": 1}'),
    ("Hermes", '<tool_call>\n{"name": "look", "arguments": {"place": "Rome"}}\n</tool_call>', [ROME], ""),
    ("Hermes", 'So:\n<tool_call>{"name": "look", "arguments": {"place": "Rome"}}</tool_call>\n<tool_call>\n{"name": "stop", "arguments": {}}', [ROME, ("stop", {})], "So:"),
    ("Hermes", 'It writes <tool_call> around calls.', [], 'It writes <tool_call> around calls.'),
    ("Mistral", '[TOOL_CALLS][{"name": "look", "arguments": {"place": "Rome"}, "id": "abcdefghi"}]', [ROME], ""),
    ("Mistral, new", '[TOOL_CALLS]look[ARGS]{"place": "Rome"}[TOOL_CALLS]stop[ARGS]{}', [ROME, ("stop", {})], ""),
    ("Mistral, new", '[TOOL_CALLS]look{"place": "Rome"}', [ROME], ""),
    ("Mistral with call ids", '[TOOL_CALLS]look[CALL_ID]abcdefghi[ARGS]{"place": "Rome"}', [ROME], ""),
    ("GLM", "<tool_call>look\n<arg_key>place</arg_key>\n<arg_value>Rome</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>", [("look", {"place": "Rome", "days": 2})], ""),
    ("GLM", "<tool_call>stop</tool_call>", [("stop", {})], ""),
    ("Qwen3-Coder", "<tool_call>\n<function=look>\n<parameter=place>\n12\n</parameter>\n<parameter=more>\n{\"a\": 1}\n</parameter>\n</function>\n</tool_call>", [("look", {"place": "12", "more": {"a": 1}})], ""),
    ("MiniMax", '<minimax:tool_call>\n<invoke name="look">\n<parameter name="place">Rome</parameter>\n</invoke>\n<invoke name="stop">\n</invoke>\n</minimax:tool_call>', [ROME, ("stop", {})], ""),
    ("DeepSeek-V3.2", f'<{DSML}function_calls>\n<{DSML}invoke name="look">\n<{DSML}parameter name="place" string="true">Rome</{DSML}parameter>\n</{DSML}invoke>\n</{DSML}function_calls>', [ROME], ""),
    ("DeepSeek-V3.1", '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>look<｜tool▁sep｜>{"place": "Rome"}<｜tool▁call▁end｜><｜tool▁call▁begin｜>stop<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>', [ROME, ("stop", {})], ""),
    ("DeepSeek-R1", '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>look\n```json\n{"place": "Rome"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>', [ROME], ""),
    ("Kimi", '<|tool_calls_section_begin|><|tool_call_begin|>functions.look:0<|tool_call_argument_begin|>{"place": "Rome"}<|tool_call_end|><|tool_calls_section_end|>', [ROME], ""),
    ("gpt-oss", '<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"place": "Rome"}<|call|>', [ROME], ""),
    ("gpt-oss", ' to=functions.look<|channel|>commentary json<|message|>{"place": "Rome"}', [ROME], ""),
    ("gpt-oss", '<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.look<|message|>{"place": "Rome"}<|call|>', [ROME], "I look."),
    ("gpt-oss", "<|channel|>final<|message|>It is\n\nRome.", [], "It is\n\nRome."),
]  # fmt: skip


@pytest.mark.parametrize(("form", "text", "calls", "rest"), SPELLED)
def test_a_call_is_read_however_it_is_spelled(form: str, text: str, calls: Any, rest: str) -> None:
    reply = read_reply(text, BY_NAME[form], TOOLS, "run")
    assert [(call["name"], call["args"]) for call in reply.calls] == calls
    assert (reply.text, reply.invalid) == (rest, [])


UNMARKED = ['```json\n{"name": "look", "arguments": {"place": "Rome"}}\n```', '{"name": "look", "arguments": {"place": "Rome"}}',
            '[{"name": "look", "parameters": {"place": "Rome"}}]']  # fmt: skip


@pytest.mark.parametrize("name", ["Hermes", "GLM", "Mistral, new", "Qwen3-Coder"])
@pytest.mark.parametrize("text", UNMARKED)
def test_a_reply_that_is_nothing_but_a_call_is_one_without_its_marks(name: str, text: str) -> None:
    form = BY_NAME[name]
    reply = read_reply(text, form, TOOLS, "run")
    assert [(call["name"], call["args"]) for call in reply.calls] == [ROME]
    assert (reply.text, reply.invalid) == ("", [])
    assert [form.visible(text[:end]) for end in range(len(text))] == [""] * len(text)


@pytest.mark.parametrize("text", ['{"name": "jump", "arguments": {}}', '{"a": 1}', "[]", "3", '```json\n{"a": 1}\n```'])
def test_other_json_is_text(text: str) -> None:
    reply = read_reply(text, BY_NAME["Hermes"], TOOLS, "run")
    assert (reply.text, reply.calls, reply.invalid) == (text, [], [])


MARKED = [
    ("Hermes", '<tool_call>\n{"name": "jump", "arguments": {}}\n</tool_call>'),
    ("Hermes", '<tool_call>\n{"name": "look", "arguments": {"place": \n</tool_call>'),
    ("Mistral, new", '[TOOL_CALLS]jump[ARGS]{"place": "Rome"}'), ("Mistral", '[TOOL_CALLS][{"name": 3}]'),
    ("GLM", "<tool_call>jump\n</tool_call>"), ("gpt-oss", "<|channel|>commentary to=functions.look<|message|>{<|call|>"),
    ("Kimi", "<|tool_call_begin|>functions.jump:0<|tool_call_argument_begin|>{}<|tool_call_end|>"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "text"), MARKED)
def test_what_is_marked_as_a_call_and_is_none_is_invalid(form: str, text: str) -> None:
    reply = read_reply(text, BY_NAME[form], TOOLS, "run")
    assert (reply.text, reply.calls, len(reply.invalid)) == ("", [], 1)
    assert "tools: look, stop" in str(reply.invalid[0]["error"])


@pytest.mark.parametrize("name", BY_NAME)
def test_prose_is_no_call(name: str) -> None:
    text = 'A list [1, 2], a set {3}, an object {"a": {"b": 1}} and a <tag>.'
    reply = read_reply(text, BY_NAME[name], TOOLS, "run")
    assert (reply.text, reply.calls, reply.invalid) == (text, [], [])


ONE = [
    ("Mistral, new", '[TOOL_CALLS]look[ARGS]{"place": "write [TOOL_CALLS]stop[ARGS]{} here"}', "write [TOOL_CALLS]stop[ARGS]{} here"),
    ("Mistral", '[TOOL_CALLS][{"name": "look", "arguments": {"place": "[TOOL_CALLS][{}]"}}]', "[TOOL_CALLS][{}]"),
    ("Hermes", '<tool_call>{"name": "look", "arguments": {"place": "say <tool_call>{} ok"}}</tool_call>', "say <tool_call>{} ok"),
    ("Hermes", '<tool_call>{"name": "look", "arguments": {"place": "say\nline"}}</tool_call>', "say\nline"),
    ("Kimi", '<|tool_call_begin|>functions.look:0<|tool_call_argument_begin|>{"place": "<|tool_call_begin|>functions.stop:0<|tool_call_argument_begin|>{}"}<|tool_call_end|>', "<|tool_call_begin|>functions.stop:0<|tool_call_argument_begin|>{}"),
    ("GLM", "<tool_call>look\n<arg_key>place</arg_key>\n<arg_value>a </tool_call> b</arg_value>\n</tool_call>", "a </tool_call> b"),
    ("Qwen3-Coder", "<tool_call>\n<function=look>\n<parameter=place>\na </function> b\n</parameter>\n</function>\n</tool_call>", "a </function> b"),
    ("MiniMax", '<minimax:tool_call>\n<invoke name="look">\n<parameter name="place">a <invoke name="stop"></invoke> b</parameter>\n</invoke>\n</minimax:tool_call>', 'a <invoke name="stop"></invoke> b'),
]  # fmt: skip


@pytest.mark.parametrize(("form", "text", "place"), ONE)
def test_a_mark_inside_an_argument_begins_no_second_call(form: str, text: str, place: str) -> None:
    reply = read_reply(text, BY_NAME[form], TOOLS, "run")
    assert [(call["name"], call["args"]) for call in reply.calls] == [("look", {"place": place})]
    assert (reply.text, reply.invalid) == ("", [])


@pytest.mark.parametrize("form", BY_NAME)
@pytest.mark.parametrize(
    "text",
    [
        '{"name": ["Anna"]}',
        '<tool_call>{"name": {"a": 1}}</tool_call>',
        'A person: {"name": {"first": "A"}}',
        "[" * 3000,
        '{"a":' * 3000,
    ],
)
def test_no_reply_raises(form: str, text: str) -> None:
    reply = read_reply(text, BY_NAME[form], TOOLS, "run")
    assert reply.calls == []


def test_prose_about_calls_is_text() -> None:
    text = "In C++ write <function=f> often.\n\nThat is all."
    reply = read_reply(text, BY_NAME["Qwen3-Coder"], TOOLS, "run")
    assert (reply.text, reply.calls, reply.invalid) == (text, [], [])


TYPED: Any = [{"type": "function", "function": {"name": "set", "parameters": {"properties": {
    "on": {"type": "boolean"}, "at": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "text": {"type": "string"}}}}}]  # fmt: skip


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("Qwen3-Coder", "<function=set>\n<parameter=on>\nTrue\n</parameter>\n<parameter=at>\nNone\n</parameter>\n<parameter=text>\ntrue\n</parameter>\n</function>"),
        ("GLM", "<tool_call>set<arg_key>on</arg_key><arg_value>true</arg_value><arg_key>at</arg_key><arg_value>null</arg_value><arg_key>text</arg_key><arg_value>true</arg_value></tool_call>"),
    ],
)  # fmt: skip
def test_parameters_have_the_types_of_their_schema(form: str, text: str) -> None:
    (call,) = read_reply(text, BY_NAME[form], TYPED, "run").calls
    assert call["args"] == {"on": True, "at": None, "text": "true"}


MESSAGES = [
    ("<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final<|message|>It is Rome.", "I look.\n\nIt is Rome."),
    ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>It is Rome.", "It is Rome."),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), MESSAGES)
def test_what_messages_in_channels_say_is_streamed_as_it_is_read(text: str, said: str) -> None:
    form = BY_NAME["gpt-oss"]
    assert read_reply(text, form, TOOLS, "run").text == said
    shown = [form.visible(text[:end]) for end in range(len(text) + 1)]
    assert all(later.startswith(earlier.rstrip("<|end")) for earlier, later in pairwise(shown))
    assert shown[-1] == said
