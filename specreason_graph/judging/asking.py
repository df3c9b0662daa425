"""How evidence is got: what is asked of the engines for a judge, no more than it wants."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from specreason_graph.engines.base import Engine
from specreason_graph.errors import ConfigError
from specreason_graph.json_values import why_not_kept
from specreason_graph.judging.digit import DigitQuestion
from specreason_graph.prompting.engine_prompts import EnginePrompts
from specreason_graph.record.records import Proposal, Score, Usage
from specreason_graph.strategy import Judge

DECIMALS = 5
"""Decimals of log-probabilities and entropies that are kept: engines agree to fewer."""


class Measured(NamedTuple):
    """Evidence that a judge got itself by asking an engine."""

    told: Any
    """The evidence, as JSON values."""
    usage: Usage
    """What asking cost."""


@dataclass(frozen=True)
class View:
    """A step as one of the models sees it."""

    engine: Engine
    """The model."""
    prompts: EnginePrompts
    """Its prompts."""
    before_ids: Sequence[int]
    """What is in front of the step, the question included, in its vocabulary."""
    step_ids: Sequence[int]
    """The step in its vocabulary."""


@dataclass(frozen=True)
class Asking:
    """A proposal, and all that evidence about it can be got from."""

    proposal: Proposal
    """What is judged."""
    base: View
    """The proposal as the base sees it."""
    draft: View
    """The same for the draft."""
    question: str
    """What is thought about: the last thing the user said."""
    head: int
    """Tokens in front of the first step, as the base sees them."""
    index: int
    """Steps before it."""
    seed: int
    """The run's seed."""
    regenerate: Callable[[], Awaitable[tuple[Proposal, Usage]]]
    """Has the base write a version of the step: the one that is committed if the proposal is rejected.

    Also gives what of its cost belongs to the score: nothing where it is counted with the step.
    """
    digit: DigitQuestion | None = None
    """How the base is asked for a digit, where a judge may want it."""

    @cached_property
    def before(self) -> str:
        """The text in front of the step, question and earlier steps, as the base's prompt has it."""
        return self.base.prompts.vocabulary.decode(self.base.before_ids)

    @cached_property
    def thinking(self) -> str:
        """The text of the earlier steps."""
        return self.base.prompts.vocabulary.decode(self.base.before_ids[self.head :])

    async def collect(self, judge: Judge) -> Score:
        """All evidence that ``judge`` wants; what the draft told when it wrote the step is there already."""
        score = known_from(self.proposal)
        while (name := judge.wants(score)) is not None:
            score = score.with_more(await self._find(name, judge))
            if not score.has(name):
                raise ConfigError(f"the judge {judge.kind!r} wants {name!r}, which nobody measures", hint="see `needs`")
        return score

    async def _find(self, name: str, judge: Judge) -> Score:
        if name == "digit" and self.digit:
            return await self.digit.ask(self.base.engine, [*self.base.before_ids, *self.base.step_ids])
        if name in ("likelihood", "confidence"):
            view = self.base if name == "likelihood" else self.draft
            found = await view.engine.likelihood(view.before_ids, view.step_ids)
            field = "base_logprobs" if name == "likelihood" else "draft_logprobs"
            return Score(**{field: kept(found.logprobs), "usage": found.usage})
        own = next((part for part in judge.parts() if part.kind == name), None)
        if own is None:
            return Score(usage=Usage())
        told = await own.measure(self)
        told, usage = told if isinstance(told, Measured) else (told, Usage())
        if problem := why_not_kept(told, f"what the judge {name!r} measured"):
            raise ConfigError(problem, hint="return what JSON can hold")
        return Score(found={name: told}, usage=usage)


def known_from(proposal: Proposal) -> Score:
    """The evidence that came with a proposal: the draft's own probabilities."""
    return Score(draft_logprobs=proposal.logprobs, draft_entropies=proposal.entropies, usage=Usage())


def kept(numbers: Sequence[float]) -> list[float]:
    """Numbers as they are recorded."""
    return [round(number, DECIMALS) + 0.0 for number in numbers]  # without the sign of a zero
