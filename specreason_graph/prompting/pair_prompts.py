"""The prompts of both engines, with the steps of one written so that the other can read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from specreason_graph.config import ANSWER_TOKENS, SpecReasonConfig
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import ConfigError, ModelError, QuestionTooLongError
from specreason_graph.prompting.engine_prompts import EnginePrompts
from specreason_graph.record.manifest import Turn
from specreason_graph.record.records import Ending, StepLike
from specreason_graph.record.records import Engine as Role

ROLES: tuple[Role, ...] = ("base", "draft")


@dataclass(frozen=True)
class PairPrompts:
    """The prompts of a pair."""

    pair: EnginePair
    """The engines."""
    config: SpecReasonConfig
    """Settings of the run."""
    judge_tokens: int
    """Tokens of context that the judge needs behind a trace, on the base."""

    @cached_property
    def base(self) -> EnginePrompts:
        """Prompts of the base model."""
        return EnginePrompts(self.pair.base.vocabulary, self.config, "base", self.pair.base.name)

    @cached_property
    def draft(self) -> EnginePrompts:
        """Prompts of the draft model."""
        draft = self.pair.draft
        return EnginePrompts(draft.vocabulary, self.config, "draft", draft.name, self.base.format.kind)

    def of(self, role: Role) -> EnginePrompts:
        """The prompts of the engine that plays ``role``."""
        return self.base if role == "base" else self.draft

    def thinking_ids(self, role: Role, head: list[int], steps: Sequence[StepLike]) -> list[int]:
        """The prompt of ``role``: the head with the question, and the steps so far."""
        ids = list(head)
        for step in steps:
            ids += self.step_ids(role, step)
        return ids

    def step_ids(self, role: Role, step: StepLike) -> list[int]:
        """A step in the vocabulary of ``role``: unchanged where the author's is the same, else its text encoded."""
        owner = "draft" if step.author == "draft" else "base"
        if owner == role or self.pair.shares_vocabulary:
            return step.token_ids
        return self.of(role).vocabulary.encode(step.text)

    def check(self, turns: Sequence[Turn]) -> dict[Role, list[int]]:
        """The prompts up to the opened thinking; `QuestionError` unless they leave room to think, on both engines.

        `ModelError` when a chat template lacks what is needed, `ConfigError` when one think tag is given alone.
        """
        tags = {"think_open": self.config.think_open, "think_close": self.config.think_close}
        if len(given := [name for name, tag in tags.items() if tag]) == 1:  # not for runs that were recorded with one
            raise ConfigError(f"{given[0]} = {tags[given[0]]!r} is given alone", hint="give both tags, or neither")
        heads = {role: self._head(role, turns) for role in ROLES}
        for role, head in heads.items():
            length, reserve = len(head), self._reserve(role)
            context = self.pair.engine(role).context
            if length + reserve >= context:
                raise QuestionTooLongError(
                    f"the question takes {length} tokens and {reserve} are kept for judge and answer, "
                    f"but the {role} model {self.pair.engine(role).name!r} has a context of {context}",
                    hint="shorten the question or choose a model with a longer context",
                )
        return heads

    @property
    def is_plain(self) -> bool:
        """Whether the reply itself is the trace."""
        return self.base.format.kind == "none"

    @property
    def answers_at_once(self) -> bool:
        """Whether nothing comes before the answer: a plain reply that is a forced call or must follow a schema."""
        return self.is_plain and bool(self.of(self.config.answer_by).answer_start or self.config.answer_schema)

    def endings(self) -> dict[str, Ending]:
        """Texts that end a step wherever they are written, and under which name.

        A closing tag may be text to one of the models only: the other must not write it in mid-step either.
        """
        tags = {prompts.textual_close for prompts in (self.base, self.draft)}
        stops = self.config.stop if self.is_plain else []
        found: dict[str, Ending] = dict.fromkeys(sorted(filter(None, tags)), "think_end")
        return found | dict.fromkeys(stops, "stop_string")

    @cached_property
    def capacities(self) -> dict[Role, int]:
        """Tokens of each engine's context that heads and steps may take together."""
        return {role: self.pair.engine(role).context - self._reserve(role) for role in ROLES}

    def _head(self, role: Role, turns: Sequence[Turn]) -> list[int]:
        prompts = self.of(role)
        wanted = bool(self.config.tools) or any(turn.speaker == "tool" or turn.calls for turn in turns)
        if wanted and not prompts.knows_tools:
            raise ModelError(
                f"the chat template of the {role} model {self.pair.engine(role).name!r} has no place for tools",
                hint="choose a model whose template has one, or leave the tools out",
            )
        return prompts.head_ids(turns)

    def _reserve(self, role: Role) -> int:
        """Tokens of the context kept free behind the thinking: the judge's prompt, or the closing and the answer."""
        context = self.pair.engine(role).context
        prompts = self.of(role)
        if self.is_plain and not prompts.tool_format:
            return self.judge_tokens
        # at most a quarter of a short context goes to the answer: something must be left to think in
        answer = len(prompts.closing_ids()) + min(self.config.answer_tokens or ANSWER_TOKENS, context // 4)
        return max(answer, self.judge_tokens)
