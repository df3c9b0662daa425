"""How a conversation becomes a prompt: the model's own chat template, with contents that stay contents.

The template is rendered around marks that stand for the contents; the pieces between them are encoded as template text
and the contents as plain text, so no content can speak as the template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from specreason_graph.engines.base import Message, Vocabulary
from specreason_graph.errors import ModelError
from specreason_graph.prompting.thinking_format import BLOCKS
from specreason_graph.prompting.tool_calls import as_template_takes_it
from specreason_graph.prompting.tool_formats import ToolFormat
from specreason_graph.record.manifest import ThinkingFormat, ToolCall, Turn

Mark = Callable[[str], str]
"""Puts something in the place of a text while a template is rendered."""
MARK = '\u2063content {}"\u2063'
"""Stands for a content while the template is rendered; made of characters no template trims, and a quotation mark."""
MARKS = re.compile(MARK.format(r"(\d+)(\\*)"))
"""Finds a mark: its number, and the backslashes that a template put before the quotation mark."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a prompt."""

    text: str
    """What it says."""
    plain: bool = False
    """Whether it is content and not the template's."""


class Marks:
    """Puts numbered marks in the place of contents, and keeps the contents."""

    def __init__(self, control_texts: Iterable[str]) -> None:
        self.texts: list[str] = []
        self.around: list[tuple[str, str]] = []
        self.contents: set[int] = set()
        self._control_texts = (MARK[0], *control_texts)

    def content(self, text: str) -> str:
        """A mark for a message's text."""
        if text.strip():
            self.contents.add(len(self.texts))
        return self.thought(text)

    def thought(self, text: str) -> str:
        """A mark for a text that the template may leave out; white space around it is the template's to trim."""
        bare = text.strip()
        if not bare:
            return text
        before, _, behind = text.partition(bare)
        return before + self._mark(bare, before, behind) + behind

    def _mark(self, text: str, before: str = "", behind: str = "") -> str:
        self.texts.append(text)
        self.around.append((before, behind))
        return MARK.format(len(self.texts) - 1)

    def argument(self, text: str) -> str:
        """A text in a tool or call: as it is, unless it spells a control token; then a mark for it."""
        return self._mark(text) if any(control in text for control in self._control_texts) else text

    def read(self, number: str, backslashes: str) -> str:
        """The text of a mark; where the template wrote it as JSON, so is the text, as often as the template did."""
        text = self.texts[int(number)]
        for _ in range(len(backslashes).bit_length()):  # 1 backslash where it was encoded once, 3 where twice
            text = json.dumps(text, ensure_ascii=False)[1:-1]
        return text


def render_pieces(
    vocabulary: Vocabulary, turns: Sequence[Turn], tools: Sequence[dict[str, Any]], thinking: ThinkingFormat,
    calling: ToolFormat | None = None,
) -> list[Piece]:  # fmt: skip
    """The template's text around the contents, in order; it begins and ends with template text.

    ``thinking`` has the arguments of the template, and where it takes the reasoning between calls; ``calling`` how it
    takes the calls themselves. `ModelError` for a template that leaves a message out, or shows it twice.
    """
    marks = Marks(vocabulary.control_texts)
    ids = _call_ids(turns, calling.id_form) if calling else {}
    messages = [_message(turn, marks, thinking, calling, ids) for turn in turns]
    text = vocabulary.render(messages, [_marked(tool, marks.argument) for tool in tools], **thinking.arguments)
    first, *rest = MARKS.split(text)  # template, number, backslashes, template, number, ..., template
    shown = [int(number) for number in rest[::3]]
    if sorted(set(shown) & marks.contents) != sorted(marks.contents) or len(set(shown)) != len(shown):
        raise ModelError(
            f"the chat template shows {len(set(shown) & marks.contents)} of {len(marks.contents)} messages once",
            hint="use another chat template, or leave out what it does not show",
        )
    pieces = [Piece(first)]
    for number, backslashes, template in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        # white space that the template has kept is encoded with its text, as a tokenizer would do it
        before, behind = marks.around[int(number)]
        before = before if pieces[-1].text.endswith(before) else ""
        behind = behind if template.startswith(behind) else ""
        pieces[-1] = Piece(pieces[-1].text.removesuffix(before))
        pieces += [
            Piece(before + marks.read(number, backslashes) + behind, plain=True), Piece(template.removeprefix(behind)),
        ]  # fmt: skip
    return pieces


def alternating(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with what one speaker says in several messages as one: some templates take no two in a row.

    A question that was cancelled, or failed, stays in its conversation, and the next one comes behind it.
    """
    joined: list[Turn] = []
    for turn in turns:
        last = joined[-1] if joined else None
        same = last and (last.speaker, last.name) == (turn.speaker, turn.name) and not last.calls
        if last and same and turn.speaker in ("user", "assistant"):
            text = "\n\n".join(filter(None, (last.text, turn.text)))
            joined[-1] = turn.model_copy(update={"text": text, "reasoning": last.reasoning or turn.reasoning})
        else:
            joined.append(turn)
    return joined


def one_call_each(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with each call in a message of its own, followed by its result: some templates take no more."""
    results = {turn.call_id: turn for turn in turns if turn.speaker == "tool"}
    split: list[Turn] = []
    moved: set[str | None] = set()
    for turn in turns:
        if len(turn.calls) < 2:
            split += [turn] if turn.call_id not in moved or turn.speaker != "tool" else []
            continue
        for index, call in enumerate(turn.calls):
            said = {} if index == 0 else {"text": "", "reasoning": ""}
            split.append(turn.model_copy(update={"calls": [call], **said}))
            split += [results[call.id]] if call.id in results else []
            moved.add(call.id)
    return split


def encode_pieces(vocabulary: Vocabulary, pieces: Sequence[Piece]) -> list[int]:
    """Token ids: contents without control tokens, the template's text with them."""
    ids = []
    for piece in pieces:
        ids += (vocabulary.encode if piece.plain else vocabulary.encode_template)(piece.text)
    return ids


def knows_tools(vocabulary: Vocabulary) -> bool:
    """Whether the chat template shows tools to the model."""
    # with a parameter: some templates raise where a tool has none
    schema = {"type": "object", "properties": {"text": {"type": "string", "description": "x"}}, "required": ["text"]}
    probe = {"type": "function", "function": {"name": "probe", "description": "x", "parameters": schema}}
    turns = [{"role": "user", "content": "x"}]
    return vocabulary.render(turns, [probe]) != vocabulary.render(turns)


def _call_ids(turns: Sequence[Turn], form: str) -> dict[str, str]:
    """The ids of all calls as the template needs them, by the ids that they have."""
    calls = [call for turn in turns for call in turn.calls] if form else []
    return {call.id: form.format(name=call.name, index=index) for index, call in enumerate(calls)}


def _message(
    turn: Turn, marks: Marks, thinking: ThinkingFormat, calling: ToolFormat | None, ids: Mapping[str, str]
) -> Message:
    """A turn as chat templates take it, with a mark in the place of each text that must stay text."""
    message: Message = {"role": turn.speaker, **_contents(turn, marks, thinking)}
    named = {"tool_call_id": ids.get(turn.call_id or "", turn.call_id), "name": turn.name}
    message |= {key: marks.argument(value) for key, value in named.items() if value}
    if not turn.calls:
        return message
    message["tool_calls"] = [_call(call, ids.get(call.id, call.id)) for call in turn.calls]
    if calling:
        message = as_template_takes_it(message, calling)
    return {**message, "tool_calls": _marked(message["tool_calls"], marks.argument)}


def _contents(turn: Turn, marks: Marks, form: ThinkingFormat) -> Message:
    """What is said in a turn, and the reasoning before it in the field in which the template takes it."""
    shown = marks.thought if turn.calls else marks.content  # some templates leave out what is said before a call
    if not (turn.reasoning and form.reasoning_field):
        return {"content": shown(turn.text) if turn.text else ""}
    if form.kind == "channels":  # a call has one message before it, in the channel of the thinking
        return {"content": "", "thinking": marks.thought("\n\n".join(filter(None, (turn.reasoning, turn.text))))}
    thought = marks.thought(turn.reasoning)
    said = shown(turn.text) if turn.text else ""
    if form.reasoning_field == BLOCKS:
        blocks = [{"type": "thinking", "thinking": thought}, {"type": "text", "text": said}]
        return {"content": blocks if said else blocks[:1]}
    return {"content": said, form.reasoning_field: thought}


def _call(call: ToolCall, name: str) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": name, "type": "function", "function": function}


def _marked(value: Any, mark: Mark) -> Any:
    """A JSON value with its texts, keys included, as ``mark`` gives them."""
    if isinstance(value, str):
        return mark(value)
    if isinstance(value, list | tuple):
        return [_marked(item, mark) for item in value]
    if isinstance(value, dict):
        return {mark(key): _marked(item, mark) for key, item in value.items()}
    return value
