"""From chat template to token ids: the thinking prompt, the judge's prompt, think tags and step boundaries.

Nothing is rendered twice. A prompt is a fixed head, the token ids of the committed steps, and for the judge a fixed
suffix, so every prompt extends one the engine has seen. The template is rendered around marks that stand for the
contents; the pieces between them are encoded as template text and the contents as plain text, so no content can speak
as the template.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from specreason_graph.config import SpecReasonConfig
from specreason_graph.engines.base import THINK_TAGS, Engine, Generation, Sampling, Vocabulary
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import ModelError, QuestionError
from specreason_graph.records import Ending, Proposal, Usage
from specreason_graph.records import Engine as Role
from specreason_graph.state import Plain

BLANK_LINE = "\n\n"
DIGITS = "0123456789"
MARK = "\u2063content\u2063"
"""Stands for a content while the template is rendered; made of characters no template trims."""


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
        template = self.vocabulary.render([{"role": "user", "content": MARK}])
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
    def _pieces(self) -> tuple[str, str, str]:
        """Template text before the question, from there to the thinking, and from the thinking to the judge's words."""
        turns = [{"role": "user", "content": MARK}]
        head, tail = self._split(turns, 2)
        turns += [{"role": "assistant", "content": MARK}, {"role": "user", "content": MARK}]
        _, _, back, reply = self._split(turns, 4)
        return head, self._opened(tail), back + MARK + self._opened(reply)

    @cached_property
    def judge_ids(self) -> list[int]:
        """What is put behind a trace to ask for a score: the turn's end, the instruction and the start of the reply."""
        back, reply = self._pieces[2].split(MARK)
        return (
            self.vocabulary.encode_template(back)
            + self.vocabulary.encode(self.config.judge_instruction)
            + self.vocabulary.encode_template(reply)
            + self.vocabulary.encode(self.config.judge_prefill)
        )

    def question_ids(self, question: str) -> list[int]:
        """The prompt up to and with the opened thinking."""
        head, tail, _ = self._pieces
        encode = self.vocabulary.encode_template
        return encode(head) + self.vocabulary.encode(question.strip()) + encode(tail)

    def closing_ids(self) -> list[int]:
        """What is put behind the last step to start the answer."""
        return self.close_ids + self.vocabulary.encode(BLANK_LINE)

    def _split(self, turns: list[dict[str, str]], parts: int) -> list[str]:
        pieces = self.vocabulary.render(turns).split(MARK)
        if len(pieces) != parts:
            raise ModelError(
                f"the chat template shows {len(pieces) - 1} of {parts - 1} messages", hint="use another chat template"
            )
        return pieces

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

    def thinking_ids(self, role: Role, head: list[int], steps: Sequence[Plain]) -> list[int]:
        """The prompt of ``role``: the head with the question, and the steps so far, each as dumped."""
        ids = list(head)
        for step in steps:
            ids += self.step_ids(role, step)
        return ids

    def step_ids(self, role: Role, step: Plain) -> list[int]:
        """A step in the vocabulary of ``role``: unchanged where the author's is the same, else its text encoded."""
        if step["author"] == role or self.pair.shares_vocabulary:
            ids: list[int] = step["token_ids"]
            return ids
        return self.prompter(role).vocabulary.encode(step["text"])

    def check_question(self, question: str) -> None:
        """Raise `QuestionError` unless the question leaves room to think about it, on both engines.

        `ModelError` when the base model cannot be asked for a digit.
        """
        _ = self.base.digit_ids
        if not question.strip():
            raise QuestionError("the question is empty", hint="ask something")
        for role in ("base", "draft"):
            length = len(self.prompter(role).question_ids(question))
            context = self.pair.engine(role).context
            if length + self.reserve(role) >= context:
                raise QuestionError(
                    f"the question takes {length} tokens and {self.reserve(role)} are kept for judge and answer, "
                    f"but the {role} model {self.pair.engine(role).name!r} has a context of {context}",
                    hint="shorten the question or choose a model with a longer context",
                )

    def tags(self) -> tuple[str, ...]:
        """Closing tags that are text to one of the models: the other must not write them in mid-step either."""
        texts = {prompter.tags[1] for prompter in (self.base, self.draft) if len(prompter.close_ids) > 1}
        return tuple(sorted(texts))

    def reserve(self, role: Role) -> int:
        """Tokens of the context kept free behind the thinking: the judge's prompt, or the closing and the answer."""
        prompter, context = self.prompter(role), self.pair.engine(role).context
        answer = len(prompter.closing_ids()) + min(self.config.answer_tokens, context // 4)
        return max(answer, len(prompter.judge_ids) + 1)


async def write_step(
    engine: Engine,
    prompter: Prompter,
    role: Role,
    prompt: list[int],
    *,
    limit: int,
    seed: int,
    tags: tuple[str, ...] = (),
) -> Proposal:
    """Let ``engine`` write one step of at most ``limit`` tokens behind ``prompt``.

    The step ends with the token that completes a blank line (once it has ``min_step_tokens``), before the closing
    tag, before any special token, or at the limit. ``tags`` are closing tags to look for in the text.
    """
    config, vocabulary = prompter.config, prompter.vocabulary
    sampling = Sampling(
        max_tokens=limit, temperature=config.temperature, top_p=config.top_p, seed=seed,
        stop=(BLANK_LINE, *tags), stop_token_ids=vocabulary.special_ids | vocabulary.eos_ids,
    )  # fmt: skip
    written: list[int] = []
    usage = Usage()
    while True:
        part = await engine.generate(
            prompt + written, replace(sampling, max_tokens=limit - len(written), seed=seed + usage.calls)
        )
        usage += part.usage
        generation = part.generations[0]
        written = written + generation.token_ids
        ids, ending = _cut(written, generation, prompter, tags)
        if ending != "blank_line" or len(ids) >= min(config.min_step_tokens, limit):
            break
    text = vocabulary.decode(ids)
    return Proposal(author=role, token_ids=ids, text=text, ending=ending, seed=seed, usage=usage)


def _cut(
    written: list[int], generation: Generation, prompter: Prompter, tags: tuple[str, ...]
) -> tuple[list[int], Ending]:
    """The tokens of the step, without what ended it, and the ending."""
    last = written[-1]
    if generation.finish == "stop_token":
        if [last] == prompter.close_ids:
            return written[:-1], "think_end"
        return written[:-1], "end_of_sequence" if last in prompter.vocabulary.eos_ids else "special_token"
    if generation.finish == "length":
        return written, "length"
    return _cut_at_tag(written, prompter.vocabulary, tags)


def _cut_at_tag(written: list[int], vocabulary: Vocabulary, tags: tuple[str, ...]) -> tuple[list[int], Ending]:
    text = vocabulary.decode(written)
    tag = next((tag for tag in tags if tag in text), None)
    if tag is None:
        return written, "blank_line"
    before = text.partition(tag)[0]
    kept = _longest_prefix(written, before, vocabulary.decode)
    rest = before[len(vocabulary.decode(kept)) :]
    return kept + vocabulary.encode(rest), "think_end"


def _longest_prefix(ids: list[int], text: str, decode: Callable[[Sequence[int]], str]) -> list[int]:
    length = len(ids)
    while not text.startswith(decode(ids[:length])):
        length -= 1
    return ids[:length]
