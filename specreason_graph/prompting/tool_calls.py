"""Tool calls in a model's reply: how its chat template writes them, and reading them with transformers' parser.

The parser is that of `transformers.utils.chat_parsing`, with response templates for the formats of common models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import InvalidToolCall, ToolCall

from specreason_graph.config import SpecReasonConfig
from specreason_graph.engines.base import Vocabulary
from specreason_graph.errors import ConfigError, ModelError

_JSON = {"content": "json", "content_args": {"allow_non_json": True}, "repeats": True}


@dataclass(frozen=True)
class ToolFormat:
    """How a family of models writes tool calls."""

    sign: str
    """What shows in a rendered call."""
    opening: str
    """What a call begins with."""
    field: Mapping[str, Any]
    """The calls as a field of a response template of transformers."""
    start: str
    """Put before a reply, it forces a call."""
    named: str
    """The same for the tool ``{name}``."""


FORMATS = (
    ToolFormat(
        sign="<function=", opening="<tool_call>", start="<tool_call>\n<function=",
        named="<tool_call>\n<function={name}>\n",
        field={
            "open_pattern": r"<tool_call>\s*<function=(?P<name>[^>\n]+)>",
            "close_pattern": r"</function>\s*</tool_call>", "content": "xml-inline", "repeats": True,
            "content_args": {"tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>.*?)\n?</parameter>"},
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
    ),
    ToolFormat(
        sign="<tool_call>", opening="<tool_call>", start="<tool_call>\n",
        named='<tool_call>\n{{"name": "{name}", "arguments": ',
        field={"open": "<tool_call>", "close": "</tool_call>", **_JSON},
    ),
    ToolFormat(
        sign="[TOOL_CALLS]", opening="[TOOL_CALLS]", start="[TOOL_CALLS]",
        named='[TOOL_CALLS][{{"name": "{name}", "arguments": ',
        field={"open": "[TOOL_CALLS]", "content": "json", "content_args": {"allow_non_json": True}},
    ),
    ToolFormat(
        sign='"parameters"', opening='{"name"', start='{"name": "', named='{{"name": "{name}", "parameters": ',
        field={"open_pattern": r'(?=\{"name")', **_JSON},
    ),
)  # fmt: skip
"""Qwen3-Coder; Hermes, Qwen2.5 and Qwen3; Mistral; Llama 3. The first whose sign is in a rendered call is taken."""


@dataclass(frozen=True)
class Reply:
    """An answer taken apart."""

    text: str
    """What is not a call."""
    calls: list[ToolCall]
    """The calls that could be read."""
    invalid: list[InvalidToolCall]
    """What looks like a call and cannot be read."""


def find_format(vocabulary: Vocabulary, model: str) -> ToolFormat:
    """How the chat template writes calls; `ModelError` when it is in none of the known ways."""
    # Mistral's template takes ids of nine characters only, and needs the tool's reply behind the call
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "probe", "arguments": {"a": "b"}}}
    rendered = vocabulary.render(
        [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "y", "tool_call_id": "abcdefghi", "name": "probe"},
        ]
    )
    for form in FORMATS:
        if form.sign in rendered:
            return form
    raise ModelError(
        f"the chat template of {model!r} writes tool calls in a way that is not known here",
        hint=f"known signs: {', '.join(form.sign for form in FORMATS)}",
    )


def plan_calls(vocabulary: Vocabulary, model: str, config: SpecReasonConfig) -> tuple[ToolFormat | None, str]:
    """How an answer may call tools, and what it is made to begin with; None and nothing where it may not."""
    if not config.tools or config.tool_choice == "none":
        return None, ""
    form = find_format(vocabulary, model)
    return form, forced_start(form, config.tool_choice, config.tools)


def forced_start(form: ToolFormat, choice: str | None, tools: Sequence[Mapping[str, Any]]) -> str:
    """The text that makes the model call as ``choice`` says; empty where it may do as it likes."""
    if choice in (None, "auto", "none"):
        return ""
    names = [tool["function"]["name"] for tool in tools]
    if choice in ("any", "required"):
        return form.named.format(name=names[0]) if len(names) == 1 else form.start
    if choice not in names:
        raise ConfigError(
            f"tool_choice {choice!r} is no tool; tools: {', '.join(names)}", hint="or write auto, any or none"
        )
    return form.named.format(name=choice)


def read_reply(text: str, form: ToolFormat, tools: Sequence[Mapping[str, Any]], run: str) -> Reply:
    """Take an answer apart; the ids of its calls are made of ``run`` and their position."""
    from transformers.utils.chat_parsing import parse_response

    template = {
        "start_anchor": "\0",
        "fields": {"content": {"repeats": True, "join": ""}, "tool_calls": dict(form.field)},
    }
    parsed = parse_response(text, template, prefix="", tools=[dict(tool) for tool in tools])
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    found = parsed.get("tool_calls") or []
    for index, call in enumerate(found if isinstance(found, list) else [found]):
        _sort(call, _call_id(run, index), calls, invalid)
    return Reply(text=parsed.get("content") or "", calls=calls, invalid=invalid)


def _decoded(arguments: Any) -> Any:
    """Some models write the arguments as a JSON text."""
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def _call_id(run: str, index: int) -> str:
    """Nine letters and digits: templates of Mistral take no other ids."""
    return hashlib.sha256(f"{run}/{index}".encode()).hexdigest()[:9]


def _sort(call: Any, name: str, calls: list[ToolCall], invalid: list[InvalidToolCall]) -> None:
    function = call.get("function", call) if isinstance(call, dict) else {}
    arguments = _decoded(function.get("arguments", function.get("parameters", {})))
    if isinstance(function.get("name"), str) and isinstance(arguments, dict):
        calls.append(ToolCall(name=function["name"], args=arguments, id=name, type="tool_call"))
        return
    raw = call if isinstance(call, str) else json.dumps(call, ensure_ascii=False)
    invalid.append(
        InvalidToolCall(name=None, args=raw, id=name, error="this is no call of a tool", type="invalid_tool_call")
    )
