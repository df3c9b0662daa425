"""The paper's judge: the base model answers with one digit, 0 (wrong) to 9 (right).

Words, prompt, call and reading are from SpecReason (arXiv 2504.07891, section 4.1 and its reference code). Unlike
there, an answer that is no digit is not read as a zero: its probability is recorded beside the digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from specreason_graph.engines.base import Engine, pick
from specreason_graph.errors import ModelError
from specreason_graph.prompting.engine_prompts import EnginePrompts
from specreason_graph.record.records import Score, Usage
from specreason_graph.strategy import Judge, register

DIGITS = "0123456789"
INSTRUCTION = "Is the last reasoning step factually correct and logically valid? Score 0 (wrong) to 9 (right)."
PREFILL = "Score: "


@register
class DigitJudge(Judge):
    """The base model's opinion as a digit; it needs a large reasoning model (one forward pass over the instruction)."""

    needs: ClassVar = ("digit",)
    scale: ClassVar = (0.0, 9.0)
    trials: ClassVar = tuple(half / 2 for half in range(19))
    kind: Literal["digit"] = "digit"
    """Names the judge."""
    threshold: Annotated[float, Field(ge=0, le=9, allow_inf_nan=False)] = 7.0
    """Score from which a proposal is accepted, 0 (accept everything) to 9."""
    reduction: Literal["mean", "greedy"] = "mean"
    """How ten digits become one number: ``mean`` weighs them by probability, ``greedy`` takes the likeliest."""
    instruction: Annotated[str, Field(min_length=1)] = INSTRUCTION
    """User turn put behind the trace to ask for a score; short, because it is the cost of a score."""
    prefill: str = PREFILL
    """Start of the judge's reply; the next token is the score."""

    def number(self, score: Score) -> float:
        """The digits as one number, 0 to 9."""
        return float((score.mean if self.reduction == "mean" else score.greedy) or 0)


@dataclass(frozen=True)
class DigitQuestion:
    """Asks the base model for a digit behind a trace, in one forward pass; the words are the judge's settings."""

    judge: DigitJudge
    """Whose words are asked with."""
    prompts: EnginePrompts
    """The base model's prompts."""

    @cached_property
    def suffix_ids(self) -> list[int]:
        """What is put behind a trace to ask: the turn's end, the instruction and the start of the reply."""
        return self.prompts.follow_up_ids(self.judge.instruction, self.judge.prefill)

    @cached_property
    def digit_ids(self) -> list[int]:
        """The token of each digit as it comes behind the suffix; `ModelError` when one is several tokens."""
        vocabulary, prefill = self.prompts.vocabulary, self.judge.prefill
        before = vocabulary.encode(prefill)
        ids = []
        for digit in DIGITS:  # behind the prefill: some vocabularies join a digit with the space before it
            whole = vocabulary.encode(prefill + digit)
            if whole[:-1] != before:
                raise ModelError(
                    f"the digit {digit} is not one token behind the judge's prompt {prefill!r}",
                    hint="set judge.prefill to a text behind which this vocabulary has single-token digits",
                )
            ids.append(whole[-1])
        return ids

    async def ask(self, engine: Engine, trace_ids: Sequence[int]) -> Score:
        """The opinion of ``engine``, the base, on the last step of a trace, given as token ids."""
        prompt = [*trace_ids, *self.suffix_ids]
        found = await engine.next_token(prompt, self.digit_ids)
        logprobs, _ = pick(found.logprobs, self.digit_ids, engine.name, chosen=True)
        return read_digits(list(logprobs.values()), found.other_mass, len(prompt), found.usage)


def read_digits(digit_logprobs: Sequence[float], other_mass: float, prompt_tokens: int | None, usage: Usage) -> Score:
    """A score from the log-probabilities of the ten digits, shape ``[10]``."""
    top = max(digit_logprobs)
    masses = [math.exp(logprob - top) for logprob in digit_logprobs]
    mean = sum(digit * mass for digit, mass in enumerate(masses)) / sum(masses)
    return Score(
        digit_logprobs=list(digit_logprobs), other_mass=other_mass, greedy=masses.index(max(masses)), mean=mean,
        prompt_tokens=prompt_tokens, usage=usage,
    )  # fmt: skip
