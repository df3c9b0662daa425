"""Tool calls in a model's reply: which format its chat template writes them in, and reading them back.

A format counts as known only if a probe call, rendered by the model's own template, is read back.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.messages import InvalidToolCall, ToolCall
from langchain_core.utils.json_schema import dereference_refs

from specreason_graph.engines.base import Message, Vocabulary
from specreason_graph.errors import ConfigError, ModelError
from specreason_graph.json_values import why_not_kept
from specreason_graph.prompting.tool_formats import FORMATS, Found, ToolFormat, Tools, call_of_object, names_of
from specreason_graph.record.manifest import ThinkingFormat

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
DEFINITIONS = ("$defs", "definitions")
"""Where a JSON schema has the parts that it refers to."""


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
    check_choice(choice, tools)
    if choice in (None, "auto", "none"):
        return ""
    names = list(names_of(tools))
    if choice in ("any", "required"):
        return form.named.format(name=names[0]) if len(names) == 1 else form.start
    return form.named.format(name=choice)


def check_choice(choice: str | None, tools: Tools) -> None:
    """`ConfigError` for a choice that is neither a word for it nor one of the tools."""
    names = list(names_of(tools))
    if choice not in (None, "auto", "none", "any", "required", *names):
        raise ConfigError(
            f"tool_choice {choice!r} is no tool; tools: {', '.join(names)}", hint="or write auto, any or none"
        )


def answer_schema(wanted: Mapping[str, Any], tools: Tools) -> dict[str, Any]:
    """The schema that an answer is held to: the one that is wanted, or else a call of one of the tools.

    A call is then written as bare JSON, which `unmarked_calls` reads. Empty where none is wanted.
    """
    if not wanted or not tools:
        return dict(wanted)
    shared = {name: wanted[name] for name in DEFINITIONS if name in wanted}  # references are read from the root
    answer = {name: value for name, value in wanted.items() if name not in shared}
    return {**shared, "anyOf": [answer, *(_call_schema(tool["function"]) for tool in tools)]}


def _call_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    whole = dereference_refs(function.get("parameters") or {"type": "object"})
    arguments = {name: value for name, value in whole.items() if name not in DEFINITIONS}
    return {
        "type": "object", "properties": {"name": {"const": function["name"]}, "arguments": arguments},
        "required": ["name", "arguments"], "additionalProperties": False,
    }  # fmt: skip


def read_reply(text: str, form: ToolFormat, tools: Tools, run: str, *, several: bool = True) -> Reply:
    """Take an answer apart; the ids of its calls are made of ``run`` and their position.

    Without ``several`` only its first call counts, and no others are in the text either.

    A call whose arguments a record cannot keep unchanged is invalid: see `why_not_kept`. White space next to a call is
    how the call is written; all else is the text, as it is.
    """
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    parts, position, behind_call = list[str](), 0, False
    marked = sorted(form.read(text, tools), key=lambda found: found.start)
    for index, found in enumerate(unmarked_calls(text, tools) or marked):
        is_call = found.name != ""
        parts.append(_between_calls(text[position : found.start], behind=behind_call, before=is_call))
        position, behind_call = max(position, found.end), is_call
        if is_call and (several or not (calls or invalid)):
            call = _checked(found, text, _call_id(run, index), tools)
            (calls if call["type"] == "tool_call" else invalid).append(call)  # type: ignore[arg-type]
    parts.append(_between_calls(text[position:], behind=behind_call, before=False))
    said = filter(None, parts)
    return Reply(text=form.joint.join(said), calls=calls, invalid=invalid)


def _between_calls(part: str, *, behind: bool, before: bool) -> str:
    """A part of a reply, behind or before a call, without the white space that belongs to calls."""
    part = part.lstrip() if behind else part
    return part.rstrip() if before else part


def _checked(found: Found, text: str, name: str, tools: Tools) -> ToolCall | InvalidToolCall:
    """The call that was found in ``text``, which is invalid if it cannot be read or kept."""
    problem = why_not_kept(found.arguments, "arguments") if found.name else None
    if found.name and not problem:
        return ToolCall(name=found.name, args=found.arguments, id=name, type="tool_call")
    return InvalidToolCall(
        name=found.name, args=text[found.start : found.end].strip() if problem else found.arguments, id=name,
        error=problem or f"this is no call of a tool; tools: {', '.join(names_of(tools))}", type="invalid_tool_call",
    )  # fmt: skip


def unmarked_calls(text: str, tools: Tools) -> list[Found]:
    """The calls in a reply that is nothing but their JSON, perhaps in a code fence: small models forget the marks."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", text, re.DOTALL)
    try:
        value = json.loads(fenced[1] if fenced else text, strict=False)
    except (ValueError, RecursionError):
        return []
    found = [
        call_of_object(0, len(text), call, tools, text) for call in (value if isinstance(value, list) else [value])
    ]
    return found if all(each.name for each in found) else []


def _call_id(run: str, index: int) -> str:
    """Nine letters and digits: templates of Mistral take no other ids."""
    return hashlib.sha256(f"{run}/{index}".encode()).hexdigest()[:9]
