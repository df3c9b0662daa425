"""What a tuner goes by: what the pair costs, and draft steps with every judge's evidence, all got in one pass.

The base answers each question alone, step by step. In front of each of its steps the draft writes one as well, all
evidence about that is collected, and the base goes on behind it: the draft's step is *harmful* if the base then no
longer comes to the right answer. Where the thinking could end early, the base is asked for its answer there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from pydantic import Field

from specreason_graph.bench.graders import Grader
from specreason_graph.bench.tasks import Question
from specreason_graph.config import ANSWER_TOKENS, SpecReasonConfig, overridden
from specreason_graph.engines.base import Engine, Sampling
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import ConfigError, ModelError
from specreason_graph.judging import AllOf, CalibratedJudge, CompareJudge, DigitJudge, LikelihoodJudge
from specreason_graph.judging.calibrated import FEATURES
from specreason_graph.judging.check import checked
from specreason_graph.lookahead.step_sampler import StepSampler
from specreason_graph.lookahead.tree import SpeculationNode
from specreason_graph.policies.stopping import SettledAnswer
from specreason_graph.prompting.conversation import read_conversation
from specreason_graph.record.records import Proposal, Record, Score, Usage
from specreason_graph.strategy import Judge

TIMED = 48
"""Tokens that are generated to time a model."""
REPEATS = 5
"""Measurements of which the median is taken."""
LABELLED = 48
"""Most steps of a question behind which the base goes on: each costs about half a solution."""
ASKED: dict[str, Judge] = {"digit": DigitJudge(), "likelihood": LikelihoodJudge()}
"""Judges that ask the base, by the evidence that they ask for."""


class PairCosts(Record):
    """What the pair costs on this machine; seconds are medians, under the load that is tuned for."""

    kind: Literal["pair"] = "pair"
    """Kind of this line."""
    concurrency: int
    """Calls of the same kind at the same time."""
    base: float
    """Seconds a token of the base while the draft rests."""
    draft: float
    """Seconds a token of the draft while the base rests."""
    base_together: float
    """Seconds a token of the base while the draft works, too."""
    draft_together: float
    """Seconds a token of the draft while the base works, too."""
    score: dict[str, float]
    """Seconds of a score, by the evidence that the base is asked for; a judge that it cannot give is left out."""
    score_tokens: int
    """Tokens of the steps that were scored."""
    cached: dict[str, bool]
    """Whether the prefix cache of each engine is hit, by role."""


class Place(Record):
    """A place of the base's own solution, and what the draft wrote there."""

    base_tokens: int
    """Tokens of the base's step."""
    draft_tokens: int
    """Tokens of the draft's."""
    text: str
    """The draft's step."""
    ends: bool
    """Whether the draft would end the thinking, or wrote nothing: then the base decides, and no judge is asked."""
    score: Score | None
    """All evidence; None where the step was not scored."""
    harmful: bool | None = None
    """Whether the base, going on behind the draft's step, comes to a wrong answer; None where that was not tried."""
    probe: str | None = None
    """What the base would answer in front of the place; None where it was not asked."""
    probe_right: bool | None = None
    """Whether that is right."""


class Solution(Record):
    """The base's own solution of a question."""

    kind: Literal["solution"] = "solution"
    """Kind of this line."""
    question: str
    """Id of the question."""
    right: bool
    """Whether the base alone answers it right; with agreement as the measure, whether it gives an answer."""
    answer_tokens: int
    """Tokens behind the thinking."""
    places: list[Place] = Field(default_factory=list)
    """Its steps."""

    @property
    def is_labelled(self) -> bool:
        """Whether each of the draft's steps that a judge may let in is known to be harmful or not."""
        return all(place.harmful is not None for place in self.places if place.score)


@dataclass(frozen=True)
class Collector:
    """Collects over a pair that is open; the base writes greedily."""

    pair: EnginePair
    """The engines."""
    config: SpecReasonConfig
    """Settings of the user: limits, prompts and how models think."""
    grader: Grader
    """Says which replies are right."""
    evidence: Judge
    """A judge that wants all evidence that the pair can give."""

    @classmethod
    async def create(
        cls, pair: EnginePair, config: SpecReasonConfig, grader: Grader, question: Question, *,
        own_versions: bool = False,
    ) -> Collector:  # fmt: skip
        """A collector that asks for what this pair can tell: some models cannot answer with a digit.

        ``own_versions``: whether the base also says how near the draft's step is to its own, as `CompareJudge` asks.
        """
        whole = cls(pair, config, grader, _evidence(FEATURES, own_versions=own_versions))
        try:
            await asyncio.to_thread(whole._sampler().check, read_conversation(question.text, None))
        except ModelError:
            names = [name for name, needs in FEATURES.items() if needs != "digit"]
            return replace(whole, evidence=_evidence(names, own_versions=own_versions))
        return whole

    async def solutions(self, questions: Sequence[Question], together: int) -> AsyncIterator[Solution]:
        """Yield the solutions as they are finished, ``together`` questions at a time."""
        limit = asyncio.Semaphore(together)

        async def one(question: Question) -> Solution:
            async with limit:
                return await self._solve(question)

        tasks = [asyncio.create_task(one(question)) for question in questions]
        try:
            for done in asyncio.as_completed(tasks):
                yield await done
        finally:
            for task in tasks:
                task.cancel()

    def _sampler(self, judge: Judge | None = None) -> StepSampler:
        own = {
            "judge": judge or self.evidence, "temperature": 0, "proposals": 1, "writer": "draft", "review": None,
            "stopping": "closed", "sampling": "settings", "first_steps_by_base": 0,
        }  # fmt: skip
        sampler = StepSampler.create(self.pair, overridden(self.config, own))
        if sampler.prompts.is_plain:  # the reply is the trace: no answer behind it could be asked for
            return sampler
        return StepSampler.create(self.pair, overridden(sampler.config, {"stopping": SettledAnswer()}))

    async def _solve(self, question: Question) -> Solution:
        sampler = self._sampler()
        heads = await asyncio.to_thread(sampler.check, read_conversation(question.text, None))
        places, written = [SpeculationNode.root(sampler.prompts, heads, question.text)], list[Proposal]()
        while not _has_ended(written, sampler) and places[-1].tokens_left > 0:
            written.append(await sampler.regenerate(places[-1]))
            places.append(sampler.after(places[-1], written[-1]))
        reply, tokens = await self._finish(sampler, places[-1], "", ended=written[-1].closes_thinking)
        before = ["".join(step.text for step in written[:index]) for index in range(len(places))]
        grade = await asyncio.to_thread(self.grader.grade, before[-1] + reply, question)
        right = grade.answer is not None if self.grader.is_agreement else bool(grade.right)
        reference = grade.answer if self.grader.is_agreement else None

        async def is_right(text: str) -> bool:
            return bool((await asyncio.to_thread(self.grader.grade, text, question, reference)).right)

        async def look(index: int) -> Place:
            node, own = places[index], written[index]
            (proposal,) = await sampler.draft(node, 1)
            place = Place(
                base_tokens=len(own.token_ids) + own.closes_thinking, draft_tokens=len(proposal.token_ids), ends=True,
                text=proposal.text, score=None,
            )  # fmt: skip
            if sampler.config.stopping.probe:
                probe = (await sampler.probe(node)).text
                told = {"probe": probe, "probe_right": await is_right(probe)}
                place = place.model_copy(update=told)
            if proposal.closes_thinking or not sampler.can_score(node, proposal):
                return place
            score = await sampler.score(node, proposal, lambda: _given(own))
            score = score.with_more(Score(found={"check": checked(proposal.text)}, usage=Usage()))
            harmful = False if right and proposal.text == own.text else None
            if right and harmful is None and index < LABELLED:
                behind = sampler.after(node, proposal)
                rest, _ = await self._finish(sampler, behind, before[index] + proposal.text, ended=False)
                harmful = not await is_right(rest)
            return place.model_copy(update={"score": score, "harmful": harmful, "ends": False})

        found = await asyncio.gather(*map(look, range(len(written))))
        return Solution(question=question.id, right=right, answer_tokens=tokens, places=found)

    async def _finish(
        self, sampler: StepSampler, node: SpeculationNode, before: str, *, ended: bool
    ) -> tuple[str, int]:
        """What the base writes up to the end of its reply, behind ``before``, and how many tokens it is."""
        prompts, plain = sampler.prompts.base, sampler.prompts.is_plain
        if ended and plain:
            return before, 0
        closing = prompts.closing_ids() if ended else []
        config = sampler.config
        thinking = 0 if ended else max(1, min(config.thinking_tokens - node.tokens, node.tokens_left))
        answer = 0 if plain else config.answer_tokens or ANSWER_TOKENS
        sampling = Sampling(max_tokens=thinking + answer, stop_token_ids=prompts.vocabulary.eos_ids)
        done = await self.pair.base.generate([*node.prompts["base"], *closing], sampling)
        ids = done.generations[0].token_ids
        return before + prompts.vocabulary.decode(ids), len(ids)

    async def costs(self, question: Question, concurrency: int) -> PairCosts:
        """Measure what the pair costs, each model alone and both together."""
        sampler = self._sampler()
        heads = await asyncio.to_thread(sampler.check, read_conversation(question.text, None))
        base, draft = ((self.pair.engine(role), heads[role]) for role in ("base", "draft"))
        for engine, prompt in (base, draft):  # puts the prompt into the cache, and has engines compile what they need
            await engine.generate(prompt, Sampling(max_tokens=8))
        alone = [await _seconds(engine, prompt, concurrency) for engine, prompt in (base, draft)]
        both = await _seconds_together(base, draft, concurrency)
        cached = {}
        for role, (engine, prompt) in {"base": base, "draft": draft}.items():
            vocabulary = sampler.prompts.of("base" if role == "base" else "draft").vocabulary
            again = await engine.next_token([*prompt, *vocabulary.encode("Let us see.\n\n")], [0])
            cached[role] = again.usage.cached_tokens > 0
        texts = _unseen(question.text, REPEATS)
        score = {}
        for name, judge in ASKED.items():
            if name in self.evidence.may_need:
                score[name] = await self._score_seconds(judge, question, texts, concurrency)
        tokens = median(len(sampler.prompts.base.vocabulary.encode(text)) for text in texts)
        return PairCosts(
            concurrency=concurrency, base=alone[0], draft=alone[1], base_together=both[0], draft_together=both[1],
            score=score, score_tokens=int(tokens), cached=cached,
        )  # fmt: skip

    async def _score_seconds(self, judge: Judge, question: Question, texts: Sequence[str], concurrency: int) -> float:
        sampler, found = self._sampler(judge), []
        for number, text in enumerate(texts):
            several = (f"{text} {number} {other}" for other in range(concurrency))
            asked = [sampler.asking_about(question.text, (), each).collect(judge) for each in several]
            found += [score.usage.seconds for score in await asyncio.gather(*asked)]
        return median(found[concurrency:])  # the first ones also read the question


def _evidence(names: Iterable[str], *, own_versions: bool) -> Judge:
    """A judge that wants all the evidence of some features, and lets every step in."""
    features = CalibratedJudge(weights=dict.fromkeys(names, 0.0), threshold=0)  # accepts all, so a second one is asked
    return AllOf(judges=(features, CompareJudge())) if own_versions else features


async def _given(own: Proposal) -> Proposal:
    return own


def _has_ended(written: Sequence[Proposal], sampler: StepSampler) -> bool:
    """Whether the base's solution is at its end: closed, at a limit of the settings, or repeating itself."""
    if not written:
        return False
    config, last = sampler.config, written[-1]
    return (
        last.closes_thinking or len(written) >= config.max_steps
        or sum(len(step.token_ids) for step in written) >= config.thinking_tokens
        or [step.text for step in written].count(last.text) >= config.repetition_limit
    )  # fmt: skip


async def _seconds_together(
    base: tuple[Engine, list[int]], draft: tuple[Engine, list[int]], concurrency: int
) -> tuple[float, float]:
    """The same of base and draft while both are at work; the draft writes as long as the base does."""
    writing, found = asyncio.create_task(_seconds(*base, concurrency)), list[float]()
    while not writing.done():
        found.append(await _seconds(*draft, concurrency, repeats=1))
    return await writing, median(found)


async def _seconds(engine: Engine, prompt: list[int], concurrency: int, repeats: int = REPEATS) -> float:
    """Seconds that a token takes in each of some calls at the same time."""
    found = list[float]()
    for _ in range(repeats):
        calls = (engine.generate(prompt, Sampling(max_tokens=TIMED)) for _ in range(concurrency))
        found += [done.usage.seconds_per_token for done in await asyncio.gather(*calls)]
    if not median(found):
        raise ConfigError(f"{engine.name} wrote nothing that could be timed", hint="ask another question first")
    return median(found)


def _unseen(text: str, count: int) -> list[str]:
    """Texts about as long as a step that are in no prefix cache."""
    words = (text.split() or ["It"])[:16]
    return [" ".join([str(number), *words]) for number in range(101, 101 + count)]
