"""What the prompt of each call of a step was put together from, as far as the record tells.

A prompt is token ids: the head with the conversation, the steps that stand, and for a judge its question. The page
shows these parts as texts, and their tokens as counts; no tokenizer is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from specreason_graph.record.manifest import Manifest
from specreason_graph.record.records import Engine, Proposal, Purpose, Step


class Before(NamedTuple):
    """The steps that a call went on from."""

    steps: tuple[int, ...] = ()
    """Their positions, from 0."""
    tokens: int = 0
    """Their tokens, each in its author's vocabulary."""

    def and_step(self, step: Step) -> Before:
        """The steps that stand behind ``step``."""
        return Before((*self.steps, step.index), self.tokens + len(step.token_ids))

    def without(self, gone: Sequence[int], trace: Sequence[Step | None]) -> Before:
        """These steps without those that were taken back."""
        if not gone:
            return self
        left = tuple(position for position in self.steps if position not in gone)
        return Before(left, sum(len(step.token_ids) for position in left if (step := trace[position])))


class Prompt(NamedTuple):
    """The parts of one call's prompt."""

    engine: Engine
    """Who was asked."""
    purpose: Purpose
    """What for."""
    before: Before
    """The steps in it."""
    judged: int | None
    """Tokens of the proposal in it; None where there is none."""
    asks_judge: bool
    """Whether the digit judge's question stands behind it."""


def prompts_before(trace: Sequence[Step | None]) -> Iterator[Before]:
    """Yield for each step those that stood before it; a step that cannot be read stands nowhere."""
    stands = Before()
    for step in trace:
        yield stands
        if step is not None:
            stands = stands.without(step.taken_back, trace).and_step(step)


def prompts_of(step: Step, before: Before, trace: Sequence[Step | None]) -> list[Prompt]:
    """Return the prompts of a step's calls, one for each engine and purpose; wasted calls are left out."""
    calls = dict.fromkeys((cost.engine, cost.purpose) for cost in step.costs if not cost.wasted)
    proposal: Step | Proposal = step.discarded or step
    asks = step.score is not None and step.score.digit_logprobs is not None
    found = []
    for engine, purpose in calls:
        judged = len(proposal.token_ids) if purpose == "score" else None
        stands = before.without(step.taken_back, trace) if purpose == "regenerate" else before
        found.append(Prompt(engine, purpose, stands, judged, purpose == "score" and asks))
    return found


def judge_words(manifest: Manifest) -> tuple[str, str] | None:
    """Return the digit judge's instruction and the start of its reply; None where no digit is asked for."""
    for part in manifest.config.judge_in_force.parts():
        words = getattr(part, "instruction", None), getattr(part, "prefill", None)
        if part.kind == "digit" and all(isinstance(each, str) for each in words):
            return str(words[0]), str(words[1])
    return None
