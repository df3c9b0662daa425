"""The engine calls that a step is made of: drafted, scored, regenerated; and where a step ends.

What comes out depends on the node, the settings and nothing else, so a call may be made ahead of time, or twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Self

from specreason_graph.config import SpecReasonConfig
from specreason_graph.engines.base import Engine, Generation, Sampling, TokenCallback, Vocabulary, continuations
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import ConfigError
from specreason_graph.judging.asking import Asking, View, kept
from specreason_graph.judging.digit import DigitJudge, DigitQuestion
from specreason_graph.lookahead.tree import SpeculationNode
from specreason_graph.policies.end_of_thinking import token_budget
from specreason_graph.policies.handover import expected_step, handover
from specreason_graph.policies.sampling import sampling_of
from specreason_graph.policies.seeds import call_seed
from specreason_graph.prompting.answer_stream import UNFINISHED, overlap
from specreason_graph.prompting.engine_prompts import BLANK_LINE, EnginePrompts
from specreason_graph.prompting.open_blocks import open_block
from specreason_graph.prompting.pair_prompts import ROLES, PairPrompts
from specreason_graph.record.manifest import Turn
from specreason_graph.record.records import Ending, ProbedAnswer, Proposal, Purpose, Score, StepLike, Usage
from specreason_graph.record.records import Engine as Role
from specreason_graph.record.setup import Setup
from specreason_graph.strategy import Judge

ENGINES: dict[Purpose, Role] = {"draft": "draft", "score": "base", "regenerate": "base", "probe": "base"}
"""Which engine a call is made to, by its purpose."""
LIKELIEST = 20
"""Tokens that an entropy is computed of; the others count as one."""


@dataclass(frozen=True)
class StepSampler:
    """Makes the calls of one run over one pair."""

    pair: EnginePair
    """The engines."""
    config: SpecReasonConfig
    """Settings of the run."""
    digit: DigitQuestion | None
    """How the base is asked for a digit; None where no judge wants one."""
    prompts: PairPrompts
    """How the engines are prompted."""

    @classmethod
    def create(cls, pair: EnginePair, config: SpecReasonConfig) -> Self:
        """The sampler of a run with these settings."""
        digit = digit_question(config.judge, EnginePrompts(pair.base.vocabulary, config, name=pair.base.name))
        # behind a trace: the digit's prompt and the digit, or the token that some engines write with a likelihood
        return cls(pair, config, digit, PairPrompts(pair, config, 1 + len(digit.suffix_ids if digit else ())))

    @property
    def setup(self) -> Setup:
        """What besides the settings decides the tokens of a run; the engines must be open."""
        return Setup(
            engines=self.pair.describe(), thinking={role: self.prompts.of(role).format for role in ROLES},
            sampling={role: sampling_of(self.pair.engine(role), self.config) for role in ROLES},
            judge_ids=self.digit.suffix_ids if self.digit else [],
            digit_ids=self.digit.digit_ids if self.digit else [],
        )  # fmt: skip

    def check(self, turns: Sequence[Turn]) -> dict[Role, list[int]]:
        """The prompts of both engines up to the opened thinking.

        `QuestionError` unless they leave room to think, `ModelError` when the judge or a chat template cannot work.
        """
        if self.config.stopping.probe and self.prompts.is_plain:
            raise ConfigError(
                f"stopping = {self.config.stopping.kind} asks for answers behind a thinking, and this model's reply is "
                "itself the trace", hint="set thinking=tags, or another stopping rule",
            )  # fmt: skip
        if self.config.rollback.kind != "never" and self.prompts.is_plain:
            raise ConfigError(
                f"rollback = {self.config.rollback.kind} takes steps back, and this model's reply is itself the trace: "
                "what was said is said", hint="set thinking=tags, or rollback=never",
            )  # fmt: skip
        if self.digit:
            _ = self.digit.digit_ids  # raises now what would otherwise end the run at its first score
        return self.prompts.check(turns)

    async def draft(
        self, node: SpeculationNode, count: int, on_token: TokenCallback | None = None
    ) -> list[Proposal]:  # fmt: skip
        """Let the draft model write a step, in ``count`` versions of which those that are the same are given once."""
        return await self._write("draft", node, count, on_token)

    async def regenerate(self, node: SpeculationNode, on_token: TokenCallback | None = None) -> Proposal:
        """Let the base model write it."""
        (written,) = await self._write("regenerate", node, 1, on_token)
        return written

    async def score(
        self, node: SpeculationNode, proposal: Proposal, regenerated: Callable[[], Awaitable[Proposal]] | None = None
    ) -> Score:
        """Get the evidence about a proposal that the judge wants.

        ``regenerated`` gives what the base writes there, where that is counted with the step and not with the score.
        """
        return await self.asking(node, proposal, regenerated).collect(self.config.judge_in_force)

    async def probe(self, node: SpeculationNode) -> ProbedAnswer:
        """Ask the base for its answer as if the thinking were over; greedy, so that equal answers are equal texts."""
        asked, prompts = self.config.stopping.probe, self.prompts.base
        assert asked is not None  # noqa: S101 - the caller has looked
        prompt = [*node.prompts["base"], *prompts.closing_ids(), *prompts.vocabulary.encode(asked.prefill)]
        sampling = Sampling(
            max_tokens=asked.tokens, stop=(asked.until,),
            stop_token_ids=prompts.vocabulary.special_ids | prompts.vocabulary.eos_ids,
        )  # fmt: skip
        done = await continuations(self.pair.base, prompt, sampling)
        (written,) = done.generations
        ids = written.token_ids[:-1] if written.finish == "stop_token" else written.token_ids
        text = prompts.vocabulary.decode(ids).partition(asked.until)[0]
        return ProbedAnswer(text=text, token_ids=ids, usage=done.usage)

    def asking(
        self, node: SpeculationNode, proposal: Proposal, regenerated: Callable[[], Awaitable[Proposal]] | None = None
    ) -> Asking:
        """A proposal at a node, as its judges ask about it."""

        async def regenerate() -> tuple[Proposal, Usage]:
            if regenerated:
                return await regenerated(), Usage()
            written = await self.regenerate(node)
            return written, written.usage

        views = {
            role: View(
                self.pair.engine(role), self.prompts.of(role), node.prompts[role],
                self.prompts.step_ids(role, proposal),
            )
            for role in ROLES
        }  # fmt: skip
        return Asking(
            proposal, **views, question=node.question, head=node.head, index=node.index, seed=self.config.seed,
            regenerate=regenerate, digit=self.digit,
        )  # fmt: skip

    def asking_about(self, question: str, before: Sequence[str], text: str) -> Asking:
        """A step that is given as text, behind a question and other steps, as if the draft had written it."""
        heads = {role: self.prompts.of(role).question_ids(question) for role in ROLES}
        node = SpeculationNode.root(self.prompts, heads, question)
        for earlier in before:
            node = self.after(node, self._given(earlier))
        return self.asking(node, self._given(text))

    def _given(self, text: str) -> Proposal:
        whole = text + BLANK_LINE
        ids = self.prompts.draft.vocabulary.encode(whole)
        return Proposal(author="draft", token_ids=ids, text=whole, ending="blank_line", seed=0, usage=Usage())

    def can_score(self, node: SpeculationNode, proposal: Proposal) -> bool:
        """Whether there is something to score, and room to do it in."""
        return not proposal.is_blank and self.after(node, proposal).tokens_left_on["base"] >= 0

    def after(self, node: SpeculationNode, step: StepLike) -> SpeculationNode:
        """The place behind a step."""
        behind = node.child(self.prompts, step)
        if not behind.trail:
            asked = step.author != "base" or self.asks_draft(node)
            behind.trail = (*node.trail, expected_step(step, asked=asked))
        return behind

    def asks_draft(self, node: SpeculationNode) -> bool:
        """Whether the settings have the draft asked at a node."""
        return node.index >= self.config.first_steps_by_base and handover(self.config, node.trail) is None

    async def _write(
        self, purpose: Purpose, node: SpeculationNode, count: int, on_token: TokenCallback | None
    ) -> list[Proposal]:  # fmt: skip
        role = ENGINES[purpose]
        limits = [self.config.max_step_tokens, node.tokens_left]
        if self.prompts.is_plain:  # the reply keeps to its limit to the token; a thinking may end behind it
            limits.append(token_budget(self.config, is_plain=True) - node.tokens)
        return await write_steps(
            self.pair.engine(role), self.prompts.of(role), role, node.prompts[role], count=count,
            limit=max(1, min(limits)), seed=call_seed(self.config.seed, purpose, node.index),
            endings=self.prompts.endings(), within=node.block,
            logprobs=logprobs_wanted(self.config) if role == "draft" else None, on_token=on_token,
        )  # fmt: skip


def digit_question(judge: Judge, prompts: EnginePrompts) -> DigitQuestion | None:
    """How the base is asked for a digit, if ``judge`` or a part of it wants one."""
    if "digit" not in judge.may_need:
        return None
    asks = (part for part in judge.parts() if isinstance(part, DigitJudge))
    return DigitQuestion(next(asks, DigitJudge()), prompts)


def logprobs_wanted(config: SpecReasonConfig) -> int | None:
    """What the draft tells with its tokens, as in `Sampling.logprobs`."""
    needed = config.judge.may_need | config.writer.may_need
    if "entropy" in needed:
        return LIKELIEST
    return 0 if "confidence" in needed else None


async def write_steps(
    engine: Engine,
    prompts: EnginePrompts,
    role: Role,
    prompt: list[int],
    *,
    limit: int,
    seed: int,
    endings: Mapping[str, Ending] = MappingProxyType({}),
    within: str = "",
    count: int = 1,
    logprobs: int | None = None,
    on_token: TokenCallback | None = None,
) -> list[Proposal]:
    """Let ``engine`` write ``count`` versions of one step, of at most ``limit`` tokens, behind ``prompt``.

    A step ends with the token that completes a blank line (once it has ``min_step_tokens``, and outside code fences and
    LaTeX environments; ``within`` is one that is open before it), before the closing tag, before any special token, or
    at the limit; a tag or a character that the limit cuts in two is left to the next step. ``endings`` are texts that
    end it as well, by the name of the ending. Version ``i`` is drawn
    with ``seed + i``; of versions that are token for token the same the first is given. The first one's usage holds
    the prompt and the time of the call that all began with. ``on_token`` gets the tokens of the first version as they
    come, also those that are left to the next step.
    """
    config, vocabulary = prompts.config, prompts.vocabulary
    sampling = Sampling(
        max_tokens=limit, seed=seed, n=count, logprobs=logprobs, **sampling_of(engine, config),
        stop=(BLANK_LINE, *endings), stop_token_ids=vocabulary.special_ids | vocabulary.eos_ids | prompts.call_ids,
    )  # fmt: skip
    begun = await continuations(engine, prompt, sampling, on_token)

    def is_whole(ids: list[int]) -> bool:
        if len(ids) >= limit:
            return True
        return len(ids) >= config.min_step_tokens and not open_block(vocabulary.decode(ids), within)

    async def finished(number: int, generation: Generation) -> Proposal:
        usage = _usage_share(begun.usage, begun.generations, number)
        written, calls, told = generation.token_ids, 1, [generation]
        while True:
            ids, ending = _cut(written, generation, prompts, endings)
            if ending != "blank_line" or is_whole(ids):
                break
            # a seed of its own for each further call: the same one would draw the same words again
            left = replace(sampling, n=1, max_tokens=limit - len(written), seed=seed + number + count * calls)
            part = await continuations(engine, [*prompt, *written], left, None if number else on_token)
            generation, usage, calls = part.generations[0], usage + part.usage, calls + 1
            written, told = written + generation.token_ids, [*told, generation]
        text = text_behind(prompt[-1:], ids, vocabulary.decode)
        return Proposal(
            author=role, token_ids=ids, text=text, ending=ending, seed=seed + number, usage=usage,
            logprobs=_told(written, ids, [each.logprobs for each in told]),
            entropies=_told(written, ids, [each.entropies for each in told]),
        )  # fmt: skip

    return _distinct(await asyncio.gather(*(finished(*each) for each in enumerate(begun.generations))))


def _told(written: list[int], ids: list[int], parts: list[list[float] | None]) -> list[float] | None:
    """What an engine told of each token of a step; None where it did not, or where the step's end was encoded anew."""
    if not all(part is not None for part in parts) or written[: len(ids)] != ids:
        return None
    return kept([number for part in parts for number in part or ()][: len(ids)])


def text_behind(before: list[int], ids: list[int], decode: Callable[[Sequence[int]], str]) -> str:
    """The text of tokens as they stand behind others: alone, some decoders drop the space that they begin with."""
    first, both = decode(before), decode([*before, *ids])
    return both[len(first) :] if both.startswith(first) else decode(ids)


def _usage_share(usage: Usage, generations: Sequence[Generation], number: int) -> Usage:
    """The part of a call's usage that is counted with one of its generations."""
    if len(generations) == 1:
        return usage
    written = len(generations[number].token_ids)
    return usage.model_copy(update={"generated_tokens": written}) if number == 0 else Usage(generated_tokens=written)


def _distinct(proposals: Sequence[Proposal]) -> list[Proposal]:
    """Each text once, with what all that wrote it cost."""
    found: dict[tuple[object, ...], Proposal] = {}
    for each in proposals:
        key = (each.ending, *each.token_ids)
        same = found.get(key)
        found[key] = same.model_copy(update={"usage": same.usage + each.usage}) if same else each
    return list(found.values())


def _cut(
    written: list[int], generation: Generation, prompts: EnginePrompts, endings: Mapping[str, Ending]
) -> tuple[list[int], Ending]:
    """The tokens of the step, without what ended it, and the ending."""
    last = written[-1]
    if generation.finish == "stop_token":
        if [last] == prompts.close_ids:
            return written[:-1], "think_end"
        if last in prompts.call_ids:
            return written[:-1], "tool_call"
        return written[:-1], "end_of_sequence" if last in prompts.vocabulary.eos_ids else "special_token"
    if generation.finish == "length":
        return _whole(written, prompts.vocabulary, endings), "length"
    return _cut_at_text(written, prompts.vocabulary, endings)


def _cut_at_text(
    written: list[int], vocabulary: Vocabulary, endings: Mapping[str, Ending]
) -> tuple[list[int], Ending]:  # fmt: skip
    """The tokens in front of the first text that ends the step."""
    text = vocabulary.decode(written)
    first = min((tag for tag in endings if tag in text), key=text.find, default=None)
    if first is None:
        return written, "blank_line"
    before = text.partition(first)[0]
    kept = _longest_prefix(written, before, vocabulary.decode)
    rest = before[len(vocabulary.decode(kept)) :]  # the tag may begin in the middle of a token
    return kept + vocabulary.encode(rest), endings[first]


def _whole(written: list[int], vocabulary: Vocabulary, tags: Iterable[str]) -> list[int]:
    """The tokens without a tag or a character at their end that the limit cut in two: the next step has it whole."""
    text = vocabulary.decode(written)
    begun = max((overlap(text, tag) for tag in tags), default=0)
    return _longest_prefix(written, text[: len(text) - begun].rstrip(UNFINISHED), vocabulary.decode) or written


def _longest_prefix(ids: list[int], text: str, decode: Callable[[Sequence[int]], str]) -> list[int]:
    length = len(ids)
    while not text.startswith(decode(ids[:length])):
        length -= 1
    return ids[:length]
