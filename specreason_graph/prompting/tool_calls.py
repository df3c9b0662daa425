"""Tool calls in a model's reply: how its chat template writes them, and reading them back.

A format counts as known only if a probe call, rendered by the model's own template, is read back. JSON values are
decoded one at a time, with Python's decoder; parameters that are written as elements get their types from the tool's
schema.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.messages import InvalidToolCall, ToolCall

from specreason_graph.engines.base import Message, Vocabulary
from specreason_graph.errors import ConfigError, ModelError
from specreason_graph.record.manifest import ThinkingFormat

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
                yield _of_object(found.start(), position, call, tools)

    return read


def _of_object(start: int, end: int, call: Any, tools: Tools) -> Found:
    """A call that is written as an object with a name and arguments."""
    function = call.get("function", call) if isinstance(call, dict) else {}
    function = function if isinstance(function, dict) else call  # {"type": "function", "function": "name", ...}
    name = function.get("name", call.get("function") if isinstance(call, dict) else None)
    arguments = _decoded(function.get("arguments", function.get("parameters", {})))
    if isinstance(name, str) and name in _names(tools) and isinstance(arguments, dict):
        return Found(start, end, name, arguments)
    return Found(start, end, None, json.dumps(call, ensure_ascii=False))


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
            readable = found["name"] in _names(tools) and isinstance(value, dict)
            raw = text[found.start() : position].strip()
            yield Found(found.start(), position, found["name"] if readable else None, value if readable else raw)

    return read


def _elements(call: str, parameter: str, mark: str) -> Reader:
    """Reads calls whose parameters are elements; ``call`` has groups ``name`` and ``body``.

    Without the outer ``mark``, which models forget, only a bound tool makes a call.
    """

    def read(text: str, tools: Tools) -> Iterator[Found]:
        known = _names(tools)
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
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


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
            _of_object(found.start(), gap.match(text, end).end(), call, tools)  # type: ignore[union-attr]
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
            readable = to["name"] in _names(tools) and isinstance(value, dict)
            raw = text[message.start : message.end]
            yield Found(message.start, message.end, to["name"] if readable else None, value if readable else raw)
        elif message.is_said:
            yield Found(message.start, message.body, "", None)
            yield Found(message.body_end, message.end, "", None)
        else:
            yield Found(message.start, message.end, "", None)


def _names(tools: Tools) -> dict[str, Mapping[str, Any]]:
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
PROBE_ARGUMENTS = {"city": "Rome", "days": 2, "now": True}
PROBE: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "probe",
        "description": "x",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "now": {"type": "boolean"}},
            "required": ["city", "days", "now"],
        },
    },
}
"""A tool whose call is rendered and read back."""


@dataclass(frozen=True)
class Reply:
    """An answer taken apart."""

    text: str
    """What is not a call."""
    calls: list[ToolCall]
    """The calls that could be read."""
    invalid: list[InvalidToolCall]
    """What looks like a call and cannot be read, or is one of a tool that there is not."""


def find_tool_format(vocabulary: Vocabulary, model: str, thinking: ThinkingFormat) -> ToolFormat:
    """How the chat template writes calls; `ModelError` when a call that it renders is not read back."""
    for texts, null in ((False, False), (True, False), (True, True)):
        rendered: dict[str, str] = {}
        for form in (replace(each, arguments_as_text=texts, needs_null=null) for each in FORMATS):
            if form.id_form not in rendered:
                rendered[form.id_form] = _rendered_calls(vocabulary, form, thinking, 1)
            text = rendered[form.id_form]
            found = _calls_in(text, form)
            if [(each.name, each.arguments) for each in found] == [("probe", PROBE_ARGUMENTS)]:
                written = vocabulary.encode_template(text[found[0].start : found[0].end] + form.controls)
                written += [vocabulary.encode_template(opening)[0] for opening in form.openings]
                control = (frozenset(written) & vocabulary.special_ids) - vocabulary.eos_ids
                both = _calls_in(_rendered_calls(vocabulary, form, thinking, 2), form)
                return replace(form, control_ids=control, one_call=len(both) < 2)
    raise ModelError(
        f"the chat template of {model!r} writes no tool calls that can be read here",
        hint=f"known formats: {', '.join(form.name for form in FORMATS)}",
    )


def _calls_in(text: str, form: ToolFormat) -> list[Found]:
    return [each for each in form.read(text, [PROBE]) if each.name != ""]


def _rendered_calls(vocabulary: Vocabulary, form: ToolFormat, thinking: ThinkingFormat, count: int) -> str:
    """The turn in which the template writes calls of the probe; empty where the template fails."""
    asked, result = "\u2063asked\u2063", "\u2063result\u2063"
    # nine characters: Mistral's templates take no other ids
    names = [form.id_form.format(name="probe", index=index) or f"abcdefgh{index}" for index in range(count)]
    function = {"name": "probe", "arguments": PROBE_ARGUMENTS}
    calls = [{"id": name, "type": "function", "function": function} for name in names]
    turn: Message = {"role": "assistant", "content": "", "tool_calls": calls}
    results = [{"role": "tool", "content": result, "tool_call_id": name, "name": "probe"} for name in names]
    messages = [{"role": "user", "content": asked}, as_template_takes_it(turn, form), *results]
    try:
        text = vocabulary.render(messages, **thinking.arguments)
    except Exception:  # a template is code of its author, which some messages are not made for
        return ""
    return text.partition(asked)[2].partition(result)[0]


def as_template_takes_it(message: Message, form: ToolFormat) -> Message:
    """An assistant's message whose calls are as the template needs them."""
    calls = [{**call, "function": dict(call["function"])} for call in message["tool_calls"]]
    for call in calls:
        if form.arguments_as_text:
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    content = message["content"]
    return {**message, "tool_calls": calls, "content": None if form.needs_null and not content else content}


def forced_start(form: ToolFormat, choice: str | None, tools: Tools) -> str:
    """The text that makes the model call as ``choice`` says; empty where it may do as it likes."""
    if choice in (None, "auto", "none"):
        return ""
    names = list(_names(tools))
    if choice in ("any", "required"):
        return form.named.format(name=names[0]) if len(names) == 1 else form.start
    if choice not in names:
        raise ConfigError(
            f"tool_choice {choice!r} is no tool; tools: {', '.join(names)}", hint="or write auto, any or none"
        )
    return form.named.format(name=choice)


def read_reply(text: str, form: ToolFormat, tools: Tools, run: str) -> Reply:
    """Take an answer apart; the ids of its calls are made of ``run`` and their position."""
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    parts, position = [], 0
    marked = sorted(form.read(text, tools), key=lambda found: found.start)
    for index, found in enumerate(unmarked_calls(text, tools) or marked):
        parts.append(text[position : found.start])
        position = max(position, found.end)
        if found.name:
            calls.append(ToolCall(name=found.name, args=found.arguments, id=_call_id(run, index), type="tool_call"))
        elif found.name is None:
            known = ", ".join(_names(tools))
            invalid.append(
                InvalidToolCall(
                    name=None, args=found.arguments, id=_call_id(run, index), type="invalid_tool_call",
                    error=f"this is no call of a tool; tools: {known}",
                )
            )  # fmt: skip
    said = [part for part in (*parts, text[position:]) if part]
    return Reply(text=form.joint.join(said).strip(), calls=calls, invalid=invalid)


def unmarked_calls(text: str, tools: Tools) -> list[Found]:
    """The calls in a reply that is nothing but their JSON, perhaps in a code fence: small models forget the marks."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", text, re.DOTALL)
    try:
        value = json.loads(fenced[1] if fenced else text, strict=False)
    except (ValueError, RecursionError):
        return []
    found = [_of_object(0, len(text), call, tools) for call in (value if isinstance(value, list) else [value])]
    return found if all(each.name for each in found) else []


def _call_id(run: str, index: int) -> str:
    """Nine letters and digits: templates of Mistral take no other ids."""
    return hashlib.sha256(f"{run}/{index}".encode()).hexdigest()[:9]
