"""How families of models write tool calls, and how each is found in a reply.

JSON values are decoded one at a time, with Python's decoder; parameters that are written as elements get their types
from the tool's schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from specreason_graph.json_values import why_not_kept

Tools = Sequence[Mapping[str, Any]]
"""OpenAI function definitions."""


@dataclass(frozen=True)
class Found:
    """Something in a reply that is a call, or looks like one."""

    start: int
    """Where it begins in the text."""
    end: int
    """Where it ends; what is between the calls is the reply's text."""
    name: str | None
    """The tool; None where it cannot be read."""
    arguments: Any
    """Its arguments, or the text that cannot be read."""


Reader = Callable[[str, Tools], Iterator[Found]]


@dataclass(frozen=True)
class ToolFormat:
    """How a family of models writes tool calls."""

    name: str
    """Which family."""
    openings: tuple[str, ...]
    """What a call may begin with; from there on a reply is not streamed before it is whole."""
    start: str
    """Put before a reply, it forces a call."""
    named: str
    """The same for the tool ``{name}``."""
    read: Reader
    """Finds the calls in a reply to somebody with these tools."""
    controls: str = ""
    """Control tokens that a call may hold beside those of the probe call."""
    id_form: str = ""
    """How ids of calls are made of ``{name}`` and ``{index}``, where the template writes the id and not the name."""
    arguments_as_text: bool = False
    """Whether the template takes arguments as JSON text."""
    needs_null: bool = False
    """Whether the template shows the calls only of a message whose content is None."""
    one_call: bool = False
    """Whether the template shows one call a message only."""
    joint: str = ""
    """What stands between the parts of a reply that are no calls."""
    control_ids: frozenset[int] = frozenset()
    """Control tokens that a call is written with."""

    def visible(self, text: str) -> str:
        """The part of an unfinished reply that is no call, whatever comes."""
        begun = text.lstrip()[:3]
        if begun and any(begun.startswith(sign) or sign.startswith(begun) for sign in ("{", "[", "```")):
            return ""  # the whole reply may be a call without its marks, see `unmarked_calls`
        found = [at for opening in self.openings if (at := text.find(opening)) >= 0]
        return text[: min(found, default=len(text))]


@dataclass(frozen=True)
class ChannelFormat(ToolFormat):
    """Calls of models that write every message with a header (https://github.com/openai/harmony)."""

    def visible(self, text: str) -> str:
        """What an unfinished reply says to the user, whatever comes."""
        said = (text[each.body : each.body_end] for each in _channel_messages(text) if each.is_said)
        return self.joint.join(said)


def _json_value(text: str, position: int) -> tuple[Any, int]:
    """The JSON value at a position, behind white space, and where it ends; `ValueError` where there is none."""
    begin = re.compile(r"\s*").match(text, position).end()  # type: ignore[union-attr]
    try:
        return json.JSONDecoder(strict=False).raw_decode(text, begin)  # models write line breaks into strings
    except RecursionError:
        raise ValueError("nested too deep") from None


def _marked_json(opening: str, closing: str) -> Reader:
    """Reads JSON objects, or lists of them, behind a mark."""
    mark, close, shut_by = re.compile(opening + r"(?=\s*[\[{])"), re.compile(r"\s*" + closing), re.compile(closing)

    def read(text: str, tools: Tools) -> Iterator[Found]:
        position = 0
        while found := mark.search(text, position):  # from behind each call: its strings may hold the mark
            try:
                value, position = _json_value(text, found.end())
            except ValueError:
                shut = shut_by.search(text, found.end()) if closing else None
                position = shut.end() if shut else len(text)
                raw = text[found.end() : shut.start() if shut else position].strip()
                yield Found(found.start(), position, None, raw)
                continue
            position = shut.end() if (shut := close.match(text, position)) else position
            for call in value if isinstance(value, list) else [value]:
                yield call_of_object(found.start(), position, call, tools, text)

    return read


def call_of_object(start: int, end: int, call: Any, tools: Tools, text: str) -> Found:
    """A call that is written in ``text`` as an object with a name and arguments."""
    function = call.get("function", call) if isinstance(call, dict) else {}
    function = function if isinstance(function, dict) else call  # {"type": "function", "function": "name", ...}
    name = function.get("name", call.get("function") if isinstance(call, dict) else None)
    arguments = _decoded(function.get("arguments", function.get("parameters", {})))
    if isinstance(name, str) and name in names_of(tools) and isinstance(arguments, dict):
        return Found(start, end, name, arguments)
    readable = why_not_kept(call, "it") is None
    return Found(start, end, None, json.dumps(call, ensure_ascii=False) if readable else text[start:end].strip())


def _decoded(arguments: Any) -> Any:
    """Some models write the arguments as a JSON text."""
    try:
        return json.loads(arguments, strict=False) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return arguments


def _headed_json(head: str, tail: str = "") -> Reader:
    """Reads calls whose name stands in a head, before the arguments."""
    begin, close = re.compile(head), re.compile(tail)

    def read(text: str, tools: Tools) -> Iterator[Found]:
        position = 0
        while found := begin.search(text, position):
            try:
                value, position = _json_value(text, found.end())
            except ValueError:
                value, position = None, len(text)
            position = shut.end() if (shut := close.match(text, position)) else position
            readable = found["name"] in names_of(tools) and isinstance(value, dict)
            raw = text[found.start() : position].strip()
            yield Found(found.start(), position, found["name"] if readable else None, value if readable else raw)

    return read


def _elements(call: str, parameter: str, mark: str) -> Reader:
    """Reads calls whose parameters are elements; ``call`` has groups ``name`` and ``body``.

    Without the outer ``mark``, which models forget, only a bound tool makes a call.
    """

    def read(text: str, tools: Tools) -> Iterator[Found]:
        known = names_of(tools)
        for found in re.finditer(call, text, re.DOTALL):
            name = found["name"].strip()
            if name in known:
                kinds = (known[name].get("parameters") or {}).get("properties") or {}
                pairs = re.finditer(parameter, found["body"], re.DOTALL)
                arguments = {each["key"]: _value_of(each, kinds.get(each["key"])) for each in pairs}
                yield Found(found.start(), found.end(), name, arguments)
            elif found[0].startswith(mark):
                yield Found(found.start(), found.end(), None, found[0].strip())

    return read


def _value_of(parameter: re.Match[str], schema: Any) -> Any:
    """A parameter's text as a value, by its schema, or by the mark that it is a string."""
    text, kinds = parameter["value"], _kinds(schema)
    if parameter.groupdict().get("string") == "true":
        return text
    named = {"true": True, "false": False, "none": None, "null": None}.get(text.strip().lower(), ...)
    if (named is None and "null" in kinds) or (isinstance(named, bool) and "boolean" in kinds):
        return named  # some templates write Python's names
    if kinds and kinds <= {"string", "null"}:
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    # what JSON has no number for stays the text that it is, unless the schema asks for a number
    return text if why_not_kept(value, "it") and (not kinds or "string" in kinds) else value


def _kinds(schema: Any) -> set[str]:
    """The JSON types that a schema allows; none where it does not say."""
    if not isinstance(schema, dict):
        return set()
    declared = schema.get("type") or []
    kinds = {declared} if isinstance(declared, str) else set(declared)
    for name in ("anyOf", "oneOf"):
        kinds |= {kind for choice in schema.get(name) or [] for kind in _kinds(choice)}
    return kinds


def _bare_json(text: str, tools: Tools) -> Iterator[Found]:
    """Reads objects that name a tool, or lists of them, wherever they stand: other objects are text."""
    position = 0
    begin, gap = (
        re.compile(r"<\|python_tag\|>\s*|<function=(?P<name>[\w.-]+)>|(?=\[\s*\{)|(?=\{)"),
        re.compile(r"\s*;?\s*"),
    )
    while (found := begin.search(text, position)) is not None:
        try:
            value, end = _json_value(text, found.end())
        except ValueError:
            position = found.end() + 1
            continue
        if found["name"]:
            value = {"name": found["name"], "arguments": value}
            end += len("</function>") * text.startswith("</function>", end)
        calls = [
            call_of_object(found.start(), gap.match(text, end).end(), call, tools, text)  # type: ignore[union-attr]
            for call in (value if isinstance(value, list) else [value])
        ]
        if all(call.name for call in calls):
            yield from calls
        position = end


def _mistral(text: str, tools: Tools) -> Iterator[Found]:
    """Reads a list behind the mark, as old models write it, or a name and arguments, as new ones do."""
    head = r"\[TOOL_CALLS\]\s*(?P<name>[\w.-]+)(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?(?=\s*\{)"
    is_old = re.match(r".*?\[TOOL_CALLS\]\s*[\[{]", text, re.DOTALL) and not re.match(rf".*?{head}", text, re.DOTALL)
    yield from (_marked_json(r"\[TOOL_CALLS\]", "") if is_old else _headed_json(head))(text, tools)


MESSAGE, RECIPIENT = "<|message|>", re.compile(r"to=functions\.(?P<name>[\w.-]+)")
MESSAGE_END = re.compile(r"<\|(?:end|call|return)\|>|(?=<\|start\|>)")


@dataclass(frozen=True)
class _ChannelMessage:
    """A message of a reply in channels, and where its parts are."""

    head: str
    start: int
    body: int
    body_end: int
    end: int

    @property
    def is_said(self) -> bool:
        """Whether it is for the user: neither thinking nor a call."""
        return "<|channel|>analysis" not in self.head and not RECIPIENT.search(self.head)


def _channel_messages(text: str) -> Iterator[_ChannelMessage]:
    position = 0
    while (at := text.find(MESSAGE, position)) >= 0:
        body = at + len(MESSAGE)
        ends = MESSAGE_END.search(text, body)
        body_end, end = (ends.start(), ends.end()) if ends else (len(text), len(text))
        yield _ChannelMessage(text[position:at], position, body, body_end, end)
        position = end


def _channels(text: str, tools: Tools) -> Iterator[Found]:
    """Reads messages to functions; the headers and the thinking of other messages are left out of the text."""
    for message in _channel_messages(text):
        to = RECIPIENT.search(message.head)
        if to:
            value = _decoded(text[message.body : message.body_end])
            readable = to["name"] in names_of(tools) and isinstance(value, dict)
            raw = text[message.start : message.end]
            yield Found(message.start, message.end, to["name"] if readable else None, value if readable else raw)
        elif message.is_said:
            yield Found(message.start, message.body, "", None)
            yield Found(message.body_end, message.end, "", None)
        else:
            yield Found(message.start, message.end, "", None)


def names_of(tools: Tools) -> dict[str, Mapping[str, Any]]:
    """The functions of tools by their names."""
    return {tool["function"]["name"]: tool["function"] for tool in tools}


DSML = "\uff5cDSML\uff5c"
CALLS, CALL, SEP = (
    "<\uff5ctool\u2581calls\u2581{}\uff5c>",
    "<\uff5ctool\u2581call\u2581{}\uff5c>",
    "<\uff5ctool\u2581sep\uff5c>",
)
_BEGUN = CALLS.format("begin") + CALL.format("begin")
_DEEPSEEK = rf"(?:{re.escape(CALLS.format('begin'))})?\s*{re.escape(CALL.format('begin'))}"
_DEEPSEEK_END = rf"\s*(?:{re.escape(CALL.format('end'))})?\s*(?:{re.escape(CALLS.format('end'))})?"
_KIMI = r"(?:<\|tool_calls_section_begin\|>)?\s*<\|tool_call_begin\|>\s*(?:functions\.)?(?P<name>[\w.-]+?)(?::\d+)?\s*"
FORMATS = (
    ChannelFormat(
        "gpt-oss", ("<|channel|>commentary to=", " to=functions."), " to=functions.",
        " to=functions.{name}<|channel|>commentary json<|message|>", _channels, "<|constrain|><|end|>", joint="\n\n",
    ),
    ToolFormat(
        "Qwen3-Coder", ("<tool_call>", "<function="), "<tool_call>\n<function=", "<tool_call>\n<function={name}>\n",
        _elements(
            r"(?:<tool_call>\s*)?<function=(?P<name>[^>\n]+)>(?P<body>(?:\s*<parameter=[^>\n]+>.*?"
            r"(?:</parameter>|(?=\s*<parameter=)|(?=\s*</function>\s*(?:</tool_call>|\Z))))*)"
            r"\s*(?:</function>\s*(?:</tool_call>)?|\Z)",
            r"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>.*?)\n?(?:</parameter>|(?=<parameter=)|\Z)", "<tool_call>",
        ),
    ),
    ToolFormat(
        "GLM", ("<tool_call>",), "<tool_call>", "<tool_call>{name}\n",
        _elements(
            r"<tool_call>\s*(?P<name>[\w.-]+)\s*(?P<body>(?:<arg_key>.*?</arg_key>\s*<arg_value>.*?</arg_value>\s*)*)"
            r"(?:</tool_call>|\Z)",
            r"<arg_key>(?P<key>.*?)</arg_key>\s*<arg_value>(?P<value>.*?)</arg_value>", "<tool_call>",
        ),
    ),
    ToolFormat(
        "MiniMax", ("<minimax:tool_call>", "<invoke name="), '<minimax:tool_call>\n<invoke name="',
        '<minimax:tool_call>\n<invoke name="{name}">\n',
        _elements(
            r'(?:<minimax:tool_call>\s*)?<invoke name="(?P<name>[^"]+)">'
            r'(?P<body>(?:\s*<parameter name="[^"]+">.*?</parameter>)*)\s*(?:</invoke>|\Z)\s*(?:</minimax:tool_call>)?',
            r'<parameter name="(?P<key>[^"]+)">(?P<value>.*?)</parameter>', "<minimax:tool_call>",
        ),
    ),
    ToolFormat(
        "DeepSeek-V3.2", (f"<{DSML}function_calls>", f"<{DSML}invoke"),
        f'\n\n<{DSML}function_calls>\n<{DSML}invoke name="',
        f'\n\n<{DSML}function_calls>\n<{DSML}invoke name="{{name}}">\n',
        _elements(
            rf'(?:<{DSML}function_calls>\s*)?<{DSML}invoke name="(?P<name>[^"]+)">'
            rf'(?P<body>(?:\s*<{DSML}parameter name="[^"]+"[^>]*>.*?</{DSML}parameter>)*)\s*'
            rf"(?:</{DSML}invoke>|\Z)\s*(?:</{DSML}function_calls>)?",
            rf'<{DSML}parameter name="(?P<key>[^"]+)"(?: string="(?P<string>true|false)")?[^>]*>'
            rf"(?P<value>.*?)</{DSML}parameter>",
            f"<{DSML}function_calls>",
        ),
    ),
    ToolFormat(
        "DeepSeek-R1", (CALLS.format("begin"), CALL.format("begin")), f"{_BEGUN}function{SEP}",
        f"{_BEGUN}function{SEP}{{name}}\n```json\n",
        _headed_json(
            rf"{_DEEPSEEK}\s*function{SEP}(?P<name>[\w.-]+)\s*```(?:json)?", rf"\s*(?:```)?{_DEEPSEEK_END}",
        ),
    ),
    ToolFormat(
        "DeepSeek-V3.1", (CALLS.format("begin"), CALL.format("begin")), _BEGUN, f"{_BEGUN}{{name}}{SEP}",
        _headed_json(rf"{_DEEPSEEK}\s*(?P<name>[\w.-]+)\s*{SEP}", _DEEPSEEK_END),
    ),
    ToolFormat(
        "Kimi", ("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>",
        _headed_json(
            _KIMI + r"<\|tool_call_argument_begin\|>",
            r"\s*(?:<\|tool_call_end\|>)?\s*(?:<\|tool_calls_section_end\|>)?",
        ),
        id_form="functions.{name}:{index}",
    ),
    ToolFormat(
        "Mistral", ("[TOOL_CALLS]",), "[TOOL_CALLS]", '[TOOL_CALLS][{{"name": "{name}", "arguments": ',
        _marked_json(r"\[TOOL_CALLS\]", ""),
    ),
    ToolFormat(
        "Mistral with call ids", ("[TOOL_CALLS]",), "[TOOL_CALLS]", "[TOOL_CALLS]{name}[CALL_ID]",
        _headed_json(r"\[TOOL_CALLS\]\s*(?P<name>[\w.-]+)\[CALL_ID\]\w*\[ARGS\]"),
    ),
    ToolFormat("Mistral, new", ("[TOOL_CALLS]",), "[TOOL_CALLS]", "[TOOL_CALLS]{name}[ARGS]", _mistral),
    ToolFormat(
        "Hermes", ("<tool_call>",), "<tool_call>\n", '<tool_call>\n{{"name": "{name}", "arguments": ',
        _marked_json("<tool_call>", "</tool_call>"),
    ),
    ToolFormat(
        "Llama 3", ("<|python_tag|>", "<function=", "{", "["), '{"name": "', '{{"name": "{name}", "parameters": ',
        _bare_json,
    ),
)  # fmt: skip
"""The formats in which a probe call is looked for, in this order."""
