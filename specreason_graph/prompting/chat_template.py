"""How a conversation becomes a prompt: the model's own chat template, with contents that stay contents.

The template is rendered around marks that stand for the contents; the pieces between them are encoded as template text
and the contents as plain text, so no content can speak as the template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from specreason_graph.engines.base import Message, Vocabulary
from specreason_graph.errors import ModelError
from specreason_graph.record.manifest import ToolCall, Turn

Mark = Callable[[str], str]
"""Puts something in the place of a text while a template is rendered."""
MARK = "\u2063content {}\u2063"
"""Stands for a content while the template is rendered; made of characters no template trims."""
MARKS = re.compile(MARK.format(r"(\d+)"))


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
        self.contents: set[int] = set()
        self._control_texts = (MARK[0], *control_texts)

    def content(self, text: str) -> str:
        """A mark for a message's text."""
        self.contents.add(len(self.texts))
        return self._mark(text)

    def argument(self, text: str) -> str:
        """A text in a tool or call: as it is, unless it spells a control token; then a mark for it, as JSON has it."""
        if any(control in text for control in self._control_texts):
            return self._mark(json.dumps(text, ensure_ascii=False)[1:-1])
        return text

    def _mark(self, text: str) -> str:
        self.texts.append(text)
        return MARK.format(len(self.texts) - 1)


def render_pieces(vocabulary: Vocabulary, turns: Sequence[Turn], tools: Sequence[dict[str, Any]]) -> list[Piece]:
    """The template's text around the contents, in order; it begins and ends with template text.

    `ModelError` for a template that leaves a message out, or shows it twice.
    """
    marks = Marks(vocabulary.control_texts)
    messages = [_message(turn, marks.content, marks.argument) for turn in turns]
    text = vocabulary.render(messages, [_marked(tool, marks.argument) for tool in tools])
    first, *rest = MARKS.split(text)  # template, number, template, number, ..., template
    shown = [int(number) for number in rest[::2]]
    if sorted(set(shown) & marks.contents) != sorted(marks.contents) or len(set(shown)) != len(shown):
        raise ModelError(
            f"the chat template shows {len(set(shown) & marks.contents)} of {len(marks.contents)} messages once",
            hint="use another chat template, or leave out what it does not show",
        )
    pieces = [Piece(first)]
    for number, template in zip(shown, rest[1::2], strict=True):
        pieces += [Piece(marks.texts[number], plain=True), Piece(template)]
    return pieces


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


def _message(turn: Turn, content: Mark, argument: Mark) -> Message:
    """A turn as chat templates take it, with a mark in the place of each text that must stay text."""
    message: Message = {"role": turn.speaker, "content": content(turn.text) if turn.text else ""}
    if turn.calls:
        message["tool_calls"] = [_call(call, argument) for call in turn.calls]
    named = {"tool_call_id": turn.call_id, "name": turn.name}
    return message | {key: argument(value) for key, value in named.items() if value}


def _call(call: ToolCall, mark: Mark) -> dict[str, Any]:
    function = {"name": mark(call.name), "arguments": _marked(call.arguments, mark)}
    return {"id": mark(call.id), "type": "function", "function": function}


def _marked(value: Any, mark: Mark) -> Any:
    """A JSON value with its texts, keys included, as ``mark`` gives them."""
    if isinstance(value, str):
        return mark(value)
    if isinstance(value, list | tuple):
        return [_marked(item, mark) for item in value]
    if isinstance(value, dict):
        return {mark(key): _marked(item, mark) for key, item in value.items()}
    return value
