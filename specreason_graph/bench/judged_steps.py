"""Draft steps with every judge's evidence, labelled by whether the base still comes to the right answer behind them.

At each place of a solution that the base gets right alone, the draft writes the next step. It is *harmful* if the base,
which goes on greedily behind it, no longer reaches the right answer. All judges' evidence is got in one pass.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from specreason_graph.config import make_config
from specreason_graph.engines.base import Sampling
from specreason_graph.engines.pair import EnginePair
from specreason_graph.judging import (
    AllOf,
    CalibratedJudge,
    CheckJudge,
    CompareJudge,
    ConfidenceJudge,
    DigitJudge,
    EntropyJudge,
    LikelihoodJudge,
)
from specreason_graph.judging.calibrated import FEATURES
from specreason_graph.judging.check import checked
from specreason_graph.judging.fitting import fit
from specreason_graph.judging.labelled_steps import auroc
from specreason_graph.lookahead.step_sampler import StepSampler
from specreason_graph.lookahead.tree import SpeculationNode
from specreason_graph.prompting.conversation import read_conversation
from specreason_graph.record.records import Proposal, Record, Score, Usage
from specreason_graph.strategy import Judge

ALL_EVIDENCE = AllOf(judges=(CalibratedJudge(weights=dict.fromkeys(FEATURES, 0.0), threshold=0), CompareJudge()))
"""A judge that wants all there is: the first part accepts everything, so the second is always asked."""
SINGLE: dict[str, Judge] = {
    "digit, mean": DigitJudge(),
    "digit, greedy": DigitJudge(reduction="greedy"),
    "likelihood, sum": LikelihoodJudge(),
    "likelihood, mean": LikelihoodJudge(reduction="mean"),
    "likelihood, lowest": LikelihoodJudge(reduction="lowest"),
    "likelihood, difference to the draft's": LikelihoodJudge(reduction="difference"),
    "confidence, sum": ConfidenceJudge(),
    "confidence, mean": ConfidenceJudge(reduction="mean"),
    "confidence, lowest": ConfidenceJudge(reduction="lowest"),
    "entropy, first token": EntropyJudge(),
    "entropy, first five": EntropyJudge(tokens=5),
    "compare": CompareJudge(),
}
"""Judges that are compared, by what they are called in tables."""
RESAMPLES = 1000
"""Samples of a bootstrap."""


class JudgedStep(Record):
    """A step of the draft with its label and all evidence."""

    question: str
    """Which question it is about."""
    index: int
    """Its place in the base's solution, from 0."""
    text: str
    """The step."""
    harmful: bool
    """Whether the base no longer reaches the right answer behind it."""
    score: Score
    """The evidence of all judges."""


@dataclass(frozen=True)
class Asked:
    """A question, and how a reply to it is checked."""

    name: str
    """Names it."""
    text: str
    """What is asked."""
    is_right: Callable[[str], bool]
    """Whether a whole reply is right."""


@dataclass(frozen=True)
class Collector:
    """Collects labelled steps over a pair; questions are asked greedily."""

    pair: EnginePair
    """The engines, open."""
    reply_tokens: int = 500
    """Most tokens of a reply."""

    async def collect(self, questions: Sequence[Asked], *, steps: int, together: int = 8) -> AsyncIterator[JudgedStep]:
        """Yield ``steps`` labelled steps or fewer, ``together`` questions at a time."""
        found = 0
        for first in range(0, len(questions), together):
            tasks = [asyncio.create_task(self._of(each)) for each in questions[first : first + together]]
            for task in tasks:
                for step in await task:
                    if found < steps:
                        found += 1
                        yield step
            if found >= steps:
                return

    async def _of(self, asked: Asked) -> list[JudgedStep]:
        """All steps of one question; none where the base alone does not get it right."""
        config = make_config(judge=ALL_EVIDENCE, temperature=0, thinking_tokens=self.reply_tokens)
        sampler = StepSampler.create(self.pair, config)
        heads = await asyncio.to_thread(sampler.check, read_conversation(asked.text, None))
        node, places, written = SpeculationNode.root(sampler.prompts, heads), list[SpeculationNode](), list[Proposal]()
        while not (written and written[-1].closes_thinking) and node.tokens < self.reply_tokens:
            places.append(node)
            written.append(await sampler.regenerate(node))
            node = sampler.after(node, written[-1])
        reply = "".join(step.text for step in written)
        if not asked.is_right(await self._whole(sampler, node, reply, ended=written[-1].closes_thinking)):
            return []
        texts = ["".join(step.text for step in written[:index]) for index in range(len(written))]
        judged = await asyncio.gather(
            *(self._judged(asked, sampler, *each) for each in zip(places, texts, written, strict=True))
        )
        return [step for step in judged if step]

    async def _judged(
        self, asked: Asked, sampler: StepSampler, node: SpeculationNode, before: str, own: Proposal
    ) -> JudgedStep | None:
        async def version() -> Proposal:
            return own

        (proposal,) = await sampler.draft(node, 1)
        if not sampler.can_score(node, proposal):
            return None
        score = await sampler.score(node, proposal, version)
        behind = sampler.after(node, proposal)
        reply = await self._whole(sampler, behind, before + proposal.text, ended=proposal.closes_thinking)
        return JudgedStep(
            question=asked.name, index=node.index, text=proposal.text, harmful=not asked.is_right(reply), score=score
        )

    async def _whole(self, sampler: StepSampler, node: SpeculationNode, reply: str, *, ended: bool) -> str:
        """A reply to its end as the base writes it: the rest where it is the trace, else of thinking and answer."""
        prompts, base = sampler.prompts.base, self.pair.base
        if ended and sampler.prompts.is_plain:
            return reply
        closing = prompts.closing_ids() if ended and not sampler.prompts.is_plain else []
        left = Sampling(max_tokens=max(1, self.reply_tokens - node.tokens), stop_token_ids=prompts.vocabulary.eos_ids)
        done = await base.generate([*node.prompts["base"], *closing], left)
        return reply + prompts.vocabulary.decode(done.generations[0].token_ids)


@dataclass(frozen=True)
class Discernment:
    """How well a judge tells harmful steps from others."""

    judge: str
    """What it is called."""
    auroc: float
    """Probability that a harmless step gets the higher number; 0.5 is chance."""
    interval: tuple[float, float]
    """95% interval of it, by a bootstrap over questions."""
    median: float
    """Median of its numbers."""


def compare(
    steps: Sequence[JudgedStep], judges: Mapping[str, Judge] = SINGLE, *, folds: int = 5, calibrated: bool = True
) -> Iterator[Discernment]:
    """How well each judge discerns steps of the same fold of questions; the calibrated one is fitted on the others.

    ``calibrated``: whether there is one, which takes a fit for each fold.
    """
    fold = _folds(steps, folds)
    for name, judge in judges.items():
        yield _discernment(name, steps, [judge.number(step.score) for step in steps], fold)
    found = [Score(found={"check": checked(step.text)}, usage=Usage()) for step in steps]
    yield _discernment("check", steps, list(map(CheckJudge().number, found)), fold)
    if not calibrated:
        return
    fitted = [_fitted_without(number, steps, fold) for number in range(folds)]
    numbers = [fitted[fold[step.question]].number(step.score) for step in steps]
    yield _discernment("calibrated, on other questions", steps, numbers, fold)


def _folds(steps: Sequence[JudgedStep], count: int) -> dict[str, int]:
    order = sorted({step.question for step in steps})
    random.Random(0).shuffle(order)
    return {question: place % count for place, question in enumerate(order)}


def _fitted_without(number: int, steps: Sequence[JudgedStep], fold: Mapping[str, int]) -> Judge:
    others = [step for step in steps if fold[step.question] != number]
    return fit([step.score for step in others], [not step.harmful for step in others])


def _discernment(
    name: str, steps: Sequence[JudgedStep], numbers: Sequence[float], fold: Mapping[str, int]
) -> Discernment:
    by_question: dict[str, list[tuple[int, float, bool]]] = {}
    for step, number in zip(steps, numbers, strict=True):
        by_question.setdefault(step.question, []).append((fold[step.question], number, step.harmful))
    groups, chance = list(by_question.values()), random.Random(0)
    drawn = sorted(_auroc(chance.choices(groups, k=len(groups))) for _ in range(RESAMPLES))
    low, high = drawn[int(0.025 * len(drawn))], drawn[int(0.975 * len(drawn)) - 1]
    return Discernment(name, _auroc(groups), (low, high), sorted(numbers)[len(numbers) // 2])


def _auroc(groups: Iterable[Sequence[tuple[int, float, bool]]]) -> float:
    """Over pairs of one fold: judges that were fitted on different questions have no common scale."""
    flat = [each for group in groups for each in group]
    wins = pairs = 0.0
    for fold in {each[0] for each in flat}:
        good = [number for of, number, harmful in flat if of == fold and not harmful]
        bad = [number for of, number, harmful in flat if of == fold and harmful]
        if good and bad:
            wins, pairs = wins + auroc(good, bad) * len(good) * len(bad), pairs + len(good) * len(bad)
    return wins / pairs if pairs else 0.5
