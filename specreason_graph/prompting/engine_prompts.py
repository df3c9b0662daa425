"""The prompts of one engine, as token ids: the opened thinking, the closed one, a question behind a trace.

Nothing is rendered twice. A prompt is a fixed head, the token ids of the committed steps, and perhaps a fixed suffix,
so every prompt extends one that the engine has seen, and its prefix cache is hit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from specreason_graph.config import SpecReasonConfig
from specreason_graph.engines.base import THINK_TAGS, Vocabulary
from specreason_graph.prompting.chat_template import Piece, encode_pieces, knows_tools, render_pieces
from specreason_graph.record.manifest import Turn

BLANK_LINE = "\n\n"


@dataclass(frozen=True)
class EnginePrompts:
    """The prompts of one engine."""

    vocabulary: Vocabulary
    """How the engine's text becomes tokens."""
    config: SpecReasonConfig
    """Think tags and tools."""

    @cached_property
    def tags(self) -> tuple[str, str]:
        """The tags around the thinking: configured, else found in the template, else in the vocabulary."""
        template = self.vocabulary.render([{"role": "user", "content": "?"}])
        found = next((tags for tags in THINK_TAGS if tags[0] in template), None)
        found = found or next((tags for tags in THINK_TAGS if self._is_token(tags[1])), THINK_TAGS[0])
        return self.config.think_open or found[0], self.config.think_close or found[1]

    @cached_property
    def close_ids(self) -> list[int]:
        """The tokens of the tag that ends the thinking."""
        return self.vocabulary.encode_template(self.tags[1])

    @property
    def closes_with_text(self) -> bool:
        """Whether the closing tag is looked for in the text, as it is no token that ends a step by itself."""
        return not (len(self.close_ids) == 1 and self.close_ids[0] in self.vocabulary.special_ids)

    @property
    def closing_ids(self) -> list[int]:
        """What is put behind the last step to start the answer."""
        return self.close_ids + self.vocabulary.encode(BLANK_LINE)

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the chat template shows tools to the model."""
        return knows_tools(self.vocabulary)

    def head_ids(self, turns: Sequence[Turn]) -> list[int]:
        """The prompt up to and with the opened thinking."""
        *pieces, last = render_pieces(self.vocabulary, [self._shown(turn) for turn in turns], self._tools)
        return encode_pieces(self.vocabulary, [*pieces, Piece(self._opened(last.text))])

    def question_ids(self, question: str) -> list[int]:
        """The same for a single question."""
        return self.head_ids([Turn(speaker="user", text=question.strip())])

    def follow_up_ids(self, instruction: str, prefill: str) -> list[int]:
        """What is put behind a trace to ask about it: the turn's end, ``instruction``, a reply begun by ``prefill``.

        It is cut out of a rendered conversation and spliced behind the trace by ids: rendered with the trace in it, the
        templates of reasoning models would leave the thinking of the earlier turn out.
        """
        speakers = ("user", "assistant", "user")
        turns = [Turn(speaker=speaker, text=str(number)) for number, speaker in enumerate(speakers)]
        pieces = render_pieces(self.vocabulary, turns, [])
        _, _, turn_end, reply = (piece for piece in pieces if not piece.plain)
        asked = [turn_end, Piece(instruction, plain=True), Piece(self._opened(reply.text)), Piece(prefill, plain=True)]
        return encode_pieces(self.vocabulary, asked)

    @property
    def _tools(self) -> list[dict[str, Any]]:
        return [] if self.config.tool_choice == "none" else self.config.tools

    def _shown(self, turn: Turn) -> Turn:
        """An earlier reply without the thinking that its text begins with; the template sees no text to cut."""
        if turn.speaker != "assistant":
            return turn
        for opening, closing in dict.fromkeys((self.tags, *THINK_TAGS)):
            thinking, closed, rest = turn.text.partition(closing)
            prefilled = closing == self.tags[1] and self._template_cuts_thinking  # the opening was in the prompt
            if closed and (thinking.lstrip().startswith(opening) or prefilled):
                return turn.model_copy(update={"text": rest.strip()})
        return turn

    @cached_property
    def _template_cuts_thinking(self) -> bool:
        """Whether the template leaves out of an earlier reply what comes before a closing tag."""
        speakers = {"user": "x", "assistant": f"hidden{self.tags[1]}shown"}
        messages = [{"role": role, "content": text} for role, text in speakers.items()]
        return "hidden" not in self.vocabulary.render([*messages, messages[0]])

    def _opened(self, tail: str) -> str:
        """Make sure that a template's opening of a reply also opens the thinking."""
        opening = self.tags[0]
        return tail if tail.rstrip().endswith(opening) else f"{tail}{opening}\n"

    def _is_token(self, tag: str) -> bool:
        return len(self.vocabulary.encode_template(tag)) == 1
