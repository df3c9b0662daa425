"""The prompts of one engine, as token ids: the opened thinking, the closed one, a question behind a trace.

Nothing is rendered twice. A prompt is a fixed head, the token ids of the committed steps, and perhaps a fixed suffix,
so every prompt extends one that the engine has seen, and its prefix cache is hit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from specreason_graph.config import SpecReasonConfig
from specreason_graph.engines.base import THINK_TAGS, Vocabulary
from specreason_graph.errors import ConfigError, ModelError
from specreason_graph.prompting.chat_template import (
    Piece,
    alternating,
    encode_pieces,
    knows_tools,
    one_call_each,
    render_pieces,
)
from specreason_graph.prompting.thinking_format import HEADER, find_format, opens
from specreason_graph.prompting.tool_calls import find_tool_format, forced_start
from specreason_graph.prompting.tool_formats import ChannelFormat, ToolFormat
from specreason_graph.record.manifest import ThinkingFormat, Turn
from specreason_graph.record.records import Engine as Role

BLANK_LINE = "\n\n"
BEHIND_TAG = re.compile(r"\A[^\S\n]*(?:\n(?:[^\S\n]*\n)*)?")
"""What stands between a closing tag and the reply behind it: the rest of the tag's line, and blank lines."""


def as_step(text: str) -> str:
    """A human's text as a step: as it is, but for the line ends behind it, which become a blank line."""
    return text.rstrip("\r\n") + BLANK_LINE


@dataclass(frozen=True)
class EnginePrompts:
    """The prompts of one engine."""

    vocabulary: Vocabulary
    """How the engine's text becomes tokens."""
    config: SpecReasonConfig
    """Thinking, tools and template arguments."""
    role: Role = "base"
    """What the engine is asked for."""
    name: str = "the model"
    """Its name, for messages."""
    follows: str = ""
    """How the base thinks, for the draft."""

    @cached_property
    def format(self) -> ThinkingFormat:
        """How the model thinks."""
        return find_format(self.vocabulary, self.config, self.role, follows=self.follows)

    @cached_property
    def close_ids(self) -> list[int]:
        """The tokens of the text that ends the thinking; none where there is no thinking."""
        return self.vocabulary.encode_template(self.format.tags[1]) if self.format.tags else []

    @property
    def textual_close(self) -> str | None:
        """The closing text where it must be looked for in what is written, as no control token stands for it."""
        special = len(self.close_ids) == 1 and self.close_ids[0] in self.vocabulary.special_ids
        return self.format.tags[1] if self.format.tags and not special else None

    def closing_ids(self, *, within_line: bool = False) -> list[int]:
        """What is put behind the last step to start the answer.

        ``within_line``: whether the thinking is cut within a line; families that close it on a line of its own do so.
        """
        if self.format.tags is None:
            return []
        # with tools a model of channels writes the header of its message itself: an answer, or a call of a tool
        answer = HEADER if self.format.kind == "channels" and self.tool_format else self.format.answer_start
        glue = self.format.before_close if within_line else ""
        return self.vocabulary.encode_template(glue + self.format.tags[1] + answer)

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the chat template shows tools to the model."""
        return knows_tools(self.vocabulary)

    @cached_property
    def reads_calls(self) -> bool:
        """Whether calls of tools, as the chat template writes them, can be read."""
        try:
            return bool(self._call_format)
        except (ConfigError, ModelError):
            return False

    @cached_property
    def tool_format(self) -> ToolFormat | None:
        """How an answer may call tools; None where it may not. `ModelError` for a format that cannot be read back."""
        return self._call_format if self._tools else None

    @cached_property
    def _call_format(self) -> ToolFormat:
        found = find_tool_format(self.vocabulary, self.name, self.format)
        if isinstance(found, ChannelFormat) and self.format.kind == "none":
            raise ConfigError(f"{self.name!r} calls tools only where it may think", hint="leave out thinking=none")
        return found

    @cached_property
    def answer_start(self) -> str:
        """What an answer is made to begin with, as a call is forced; `ConfigError` for one of an unknown tool."""
        form = self.tool_format
        return forced_start(form, self.config.tool_choice, self.config.tools) if form else ""

    @cached_property
    def call_ids(self) -> frozenset[int]:
        """Control tokens that begin a call of a tool; a plain reply ends there, and the answer goes on."""
        openings = self.tool_format.openings if self.tool_format and self.format.kind == "none" else ()
        first = [self.vocabulary.encode_template(text)[0] for text in openings]
        return frozenset(token for token in first if self.vocabulary.decode([token]) in self.vocabulary.control_texts)

    @cached_property
    def call_control_ids(self) -> frozenset[int]:
        """Control tokens that an answer may hold, as calls are written with them."""
        return self.tool_format.control_ids if self.tool_format else frozenset()

    def head_ids(self, turns: Sequence[Turn]) -> list[int]:
        """The prompt up to and with the opened thinking, or up to where the reply starts."""
        shown = [self._shown(turn) for turn in turns]
        calls = any(turn.calls for turn in turns)
        form = self._call_format if calls else None
        shown = one_call_each(shown) if form and form.one_call else shown
        try:
            *pieces, last = render_pieces(self.vocabulary, shown, self._tools, self.format, form)
        except ModelError:
            if (joined := alternating(shown)) == shown:
                raise
            *pieces, last = render_pieces(self.vocabulary, joined, self._tools, self.format, form)
        return encode_pieces(self.vocabulary, [*pieces, Piece(self._opened(last.text))])

    def question_ids(self, question: str) -> list[int]:
        """The same for a single question."""
        return self.head_ids([Turn(speaker="user", text=question)])

    def follow_up_ids(self, instruction: str, prefill: str) -> list[int]:
        """What is put behind a trace to ask about it: the turn's end, ``instruction``, a reply begun by ``prefill``.

        It is cut out of a rendered conversation and spliced behind the trace by ids: rendered with the trace in it, the
        templates of reasoning models would leave the thinking of the earlier turn out.
        """
        speakers = ("user", "assistant", "user")
        turns = [Turn(speaker=speaker, text=str(number)) for number, speaker in enumerate(speakers)]
        pieces = render_pieces(self.vocabulary, turns, [], self.format)
        _, _, turn_end, reply = (piece for piece in pieces if not piece.plain)
        asked = [turn_end, Piece(instruction, plain=True), Piece(self._opened(reply.text)), Piece(prefill, plain=True)]
        return encode_pieces(self.vocabulary, asked)

    def _opened(self, start: str) -> str:
        """A template's start of a reply with what the format opens it with, where the template has not opened it."""
        opened = self.format.tags is not None and opens(start, self.format.tags)
        return start if opened else start + self.format.opening

    @property
    def _tools(self) -> list[dict[str, Any]]:
        return [] if self.config.tool_choice == "none" else self.config.tools

    def _shown(self, turn: Turn) -> Turn:
        """An earlier reply without the thinking that its text begins with; the template sees no text to cut."""
        if turn.speaker != "assistant":
            return turn
        own = self.format.tags
        for opening, closing in dict.fromkeys((*([own] if own else []), *THINK_TAGS)):
            thinking, closed, rest = turn.text.partition(closing)
            prefilled = own and closing == own[1] and self._template_cuts_thinking  # the opening was in the prompt
            if closed and (thinking.lstrip().startswith(opening.strip()) or prefilled):
                return turn.model_copy(update={"text": BEHIND_TAG.sub("", rest)})
        return turn

    @cached_property
    def _template_cuts_thinking(self) -> bool:
        """Whether the template leaves out of an earlier reply what comes before a closing tag."""
        closing = self.format.tags[1] if self.format.tags else ""
        speakers = {"user": "x", "assistant": f"hidden{closing}shown"}
        messages = [{"role": role, "content": text} for role, text in speakers.items()]
        return "hidden" not in self.vocabulary.render([*messages, messages[0]], **self.format.arguments)
