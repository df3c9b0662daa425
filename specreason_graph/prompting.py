"""From chat template to token ids: the thinking prompt, the judge's prompt, think tags and step boundaries.

Nothing is rendered twice. A prompt is a fixed head, the token ids of the committed steps, and for the judge a fixed
suffix, so every prompt extends one the engine has seen. The template is rendered around marks that stand for the
contents; the pieces between them are encoded as template text and the contents as plain text, so no content can speak
as the template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from specreason_graph.config import SpecReasonConfig
from specreason_graph.conversation import Turn, within
from specreason_graph.engines.base import THINK_TAGS, Vocabulary
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import ModelError, QuestionError
from specreason_graph.positions import Written
from specreason_graph.records import Engine as Role

BLANK_LINE = "\n\n"
DIGITS = "0123456789"
ROLES: tuple[Role, ...] = ("base", "draft")
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


@dataclass(frozen=True)
class Prompter:
    """The prompts of one engine."""

    vocabulary: Vocabulary
    """How the engine's text becomes tokens."""
    config: SpecReasonConfig
    """Think tags and the judge's words."""

    @cached_property
    def tags(self) -> tuple[str, str]:
        """The tags around the thinking: configured, else found in the template, else in the vocabulary."""
        template = self.vocabulary.render([{"role": "user", "content": MARK.format(0)}])
        found = next((tags for tags in THINK_TAGS if tags[0] in template), None)
        found = found or next((tags for tags in THINK_TAGS if self._is_token(tags[1])), THINK_TAGS[0])
        return self.config.think_open or found[0], self.config.think_close or found[1]

    @cached_property
    def close_ids(self) -> list[int]:
        """The tokens of the tag that ends the thinking."""
        return self.vocabulary.encode_template(self.tags[1])

    @cached_property
    def digit_ids(self) -> list[int]:
        """The token of each digit as it comes behind the judge's prompt; `ModelError` when one is several tokens."""
        before = self.vocabulary.encode(self.config.judge_prefill)
        ids = []
        for digit in DIGITS:
            whole = self.vocabulary.encode(self.config.judge_prefill + digit)
            if whole[:-1] != before:
                raise ModelError(
                    f"the digit {digit} is not one token behind the judge's prompt {self.config.judge_prefill!r}",
                    hint="set judge_prefill to a text behind which this vocabulary has single-token digits",
                )
            ids.append(whole[-1])
        return ids

    @cached_property
    def judge_ids(self) -> list[int]:
        """What is put behind a trace to ask for a score: the turn's end, the instruction and the start of the reply."""
        speakers = ("user", "assistant", "user")
        pieces = self._rendered([Turn(speaker=speaker, text=str(i)) for i, speaker in enumerate(speakers)], [])
        _, _, back, reply = (piece.text for piece in pieces if not piece.plain)
        return (
            self.vocabulary.encode_template(back)
            + self.vocabulary.encode(self.config.judge_instruction)
            + self.vocabulary.encode_template(self._opened(reply))
            + self.vocabulary.encode(self.config.judge_prefill)
        )

    def head_ids(self, turns: Sequence[Turn]) -> list[int]:
        """The prompt up to and with the opened thinking."""
        *pieces, last = self._rendered(turns, self._tools)
        return self._encoded([*pieces, Piece(self._opened(last.text))])

    def question_ids(self, question: str) -> list[int]:
        """The same for a single question."""
        return self.head_ids([Turn(speaker="user", text=question.strip())])

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the chat template shows tools to the model."""
        probe = {"type": "function", "function": {"name": "probe", "description": "", "parameters": {}}}
        turns = [{"role": "user", "content": "x"}]
        return self.vocabulary.render(turns, [probe]) != self.vocabulary.render(turns)

    def closing_ids(self) -> list[int]:
        """What is put behind the last step to start the answer."""
        return self.close_ids + self.vocabulary.encode(BLANK_LINE)

    def _rendered(self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]]) -> list[Piece]:
        """The template's text around the contents, in order; it begins and ends with template text."""
        marks = Marks(self.vocabulary.control_texts)
        messages = [turn.message(marks.content, marks.argument) for turn in turns]
        text = self.vocabulary.render(messages, [within(tool, marks.argument) for tool in tools])
        first, *rest = MARKS.split(text)
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

    def _encoded(self, pieces: Sequence[Piece]) -> list[int]:
        ids = []
        for piece in pieces:
            ids += (self.vocabulary.encode if piece.plain else self.vocabulary.encode_template)(piece.text)
        return ids

    @property
    def _tools(self) -> list[dict[str, Any]]:
        return [] if self.config.tool_choice == "none" else self.config.tools

    def _opened(self, tail: str) -> str:
        """Make sure that a template's opening of a reply also opens the thinking."""
        opening = self.tags[0]
        return tail if tail.rstrip().endswith(opening) else f"{tail}{opening}\n"

    def _is_token(self, tag: str) -> bool:
        return len(self.vocabulary.encode_template(tag)) == 1


@dataclass(frozen=True)
class Prompts:
    """The prompts of both engines, with the steps of one written so that the other can read them."""

    pair: EnginePair
    """The engines."""
    config: SpecReasonConfig
    """Settings of the run."""

    @cached_property
    def base(self) -> Prompter:
        """Prompts of the base model."""
        return Prompter(self.pair.base.vocabulary, self.config)

    @cached_property
    def draft(self) -> Prompter:
        """Prompts of the draft model."""
        return Prompter(self.pair.draft.vocabulary, self.config)

    def prompter(self, role: Role) -> Prompter:
        """The prompts of the engine that plays ``role``."""
        return self.base if role == "base" else self.draft

    def thinking_ids(self, role: Role, head: list[int], steps: Sequence[Written]) -> list[int]:
        """The prompt of ``role``: the head with the question, and the steps so far."""
        ids = list(head)
        for step in steps:
            ids += self.step_ids(role, step)
        return ids

    def step_ids(self, role: Role, step: Written) -> list[int]:
        """A step in the vocabulary of ``role``: unchanged where the author's is the same, else its text encoded."""
        owner = "draft" if step.author == "draft" else "base"
        if owner == role or self.pair.shares_vocabulary:
            return step.token_ids
        return self.prompter(role).vocabulary.encode(step.text)

    def check(self, turns: Sequence[Turn]) -> dict[Role, list[int]]:
        """The prompts up to the opened thinking; `QuestionError` unless they leave room to think, on both engines.

        `ModelError` when the base model cannot be asked for a digit, or a chat template lacks what is needed.
        """
        _ = self.base.digit_ids
        heads = {role: self._head(role, turns) for role in ROLES}
        for role, head in heads.items():
            length, reserve = len(head), self._reserve(role)
            context = self.pair.engine(role).context
            if length + reserve >= context:
                raise QuestionError(
                    f"the question takes {length} tokens and {reserve} are kept for judge and answer, "
                    f"but the {role} model {self.pair.engine(role).name!r} has a context of {context}",
                    hint="shorten the question or choose a model with a longer context",
                )
        return heads

    def _head(self, role: Role, turns: Sequence[Turn]) -> list[int]:
        prompter = self.prompter(role)
        wanted = bool(self.config.tools) or any(turn.speaker == "tool" or turn.calls for turn in turns)
        if wanted and not prompter.knows_tools:
            raise ModelError(
                f"the chat template of the {role} model {self.pair.engine(role).name!r} has no place for tools",
                hint="choose a model whose template has one, or leave the tools out",
            )
        return prompter.head_ids(turns)

    def tags(self) -> tuple[str, ...]:
        """Closing tags that are text to one of the models: the other must not write them in mid-step either."""
        texts = {prompter.tags[1] for prompter in (self.base, self.draft) if len(prompter.close_ids) > 1}
        return tuple(sorted(texts))

    def _reserve(self, role: Role) -> int:
        """Tokens of the context kept free behind the thinking: the judge's prompt, or the closing and the answer."""
        prompter, context = self.prompter(role), self.pair.engine(role).context
        answer = len(prompter.closing_ids()) + min(self.config.answer_tokens, context // 4)
        return max(answer, len(prompter.judge_ids) + 1)

    @cached_property
    def capacities(self) -> dict[Role, int]:
        """Tokens of each engine's context that heads and steps may take together."""
        return {role: self.pair.engine(role).context - self._reserve(role) for role in ROLES}
