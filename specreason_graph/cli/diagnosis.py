"""The checks of ``doctor``: whether the judge sees the steps, whether the prefix caches work, and what models cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import exp
from statistics import median
from typing import Literal

from specreason_graph.cli.live_view import describe_format
from specreason_graph.config import SpecReasonConfig
from specreason_graph.engines.base import Engine, Sampling, Vocabulary
from specreason_graph.engines.pair import EnginePair
from specreason_graph.engines.vllm.memory import GIB, MemoryPlan
from specreason_graph.errors import SpecReasonError
from specreason_graph.lookahead.step_sampler import StepSampler
from specreason_graph.prompting.engine_prompts import EnginePrompts
from specreason_graph.prompting.pair_prompts import ROLES
from specreason_graph.record.records import Engine as Role
from specreason_graph.record.records import Record, Score

QUESTION = "Mia has 14 boxes with 23 pens in each box. Mia gives 57 pens to Leo. How many pens does Mia have now?"
# Both steps differ in one number only: a judge that does not see the step gives both the same score.
RIGHT = "14 boxes of 23: 14*23=322.\n\n"
WRONG = "14 boxes of 23: 14*23=795.\n\n"
EXTENSION = "Let us see.\n\n"
TOKENS = 64
"""Tokens that are generated to time a model; also the step length for which the break-even is computed."""
BLIND = 1e-4
"""Total variation between two distributions, 0 to 1; below it the judge cannot have seen the difference."""


class CheckResult(Record):
    """The result of one check."""

    name: str
    """What was checked."""
    status: Literal["ok", "warning", "failed"]
    """Outcome of the check."""
    detail: str
    """The figures behind the outcome."""
    advice: str = ""
    """What to change; empty when nothing needs a change."""


@dataclass(frozen=True)
class Diagnosis:
    """The checks of one pair."""

    pair: EnginePair
    """The engines."""
    config: SpecReasonConfig
    """Settings, including the prompt of the judge."""

    async def results(self) -> list[CheckResult]:
        """Run all checks; an error of this package ends them and becomes the last result."""
        sampler = StepSampler.create(self.pair, self.config)
        found = [_vocabularies(self.pair)]
        try:
            found += [_format(sampler.prompts.of(role)) for role in ROLES]
            found += [_digits(sampler), await self._judge(sampler)]
            found += [await self._cache("base", sampler), await self._cache("draft", sampler)]
            found += await self._speed(sampler)
        except SpecReasonError as error:
            found.append(CheckResult(name="stopped", status="failed", detail=str(error), advice=error.hint))
        return found

    async def _judge(self, sampler: StepSampler) -> CheckResult:
        right, wrong = [await self._opinion(sampler, text) for text in (RIGHT, WRONG)]
        distance = _distance(right, wrong)
        detail = (
            f"right step {right.mean:.2f}, wrong step {wrong.mean:.2f} (mean score); distributions differ by "
            f"{distance:.3f}; mass outside the digits {right.other_mass:.2f} and {wrong.other_mass:.2f}"
        )
        judged = partial(CheckResult, name="judge", detail=detail)
        if distance < BLIND:
            return judged(status="failed", advice="the judge does not see the step: check the chat template")
        if right.mean <= wrong.mean:
            return judged(status="warning", advice="use a stronger base model, or change judge_instruction")
        if max(right.other_mass, wrong.other_mass) > 0.5:
            return judged(status="warning", advice="the judge seldom answers with a digit: change judge_prefill")
        return judged(status="ok")

    async def _opinion(self, sampler: StepSampler, text: str) -> Score:
        head = sampler.prompts.base.question_ids(QUESTION)
        return await sampler.judge.score(self.pair.base, head + sampler.prompts.base.vocabulary.encode(text))

    async def _cache(self, role: Role, sampler: StepSampler) -> CheckResult:
        engine, vocabulary = self.pair.engine(role), sampler.prompts.of(role).vocabulary
        prompt = sampler.prompts.of(role).question_ids(QUESTION)
        await engine.next_token(prompt, [0])  # fills the cache with what the next prompt begins with
        again = await engine.next_token(prompt + vocabulary.encode(EXTENSION), [0])
        detail = f"{again.usage.cached_tokens} tokens of an extended prompt of {again.usage.prompt_tokens} were cached"
        if again.usage.cached_tokens == 0:
            return CheckResult(
                name=f"{role} cache", status="warning", detail=detail, advice="enable the engine's prefix cache"
            )
        return CheckResult(name=f"{role} cache", status="ok", detail=detail)

    async def _speed(self, sampler: StepSampler) -> list[CheckResult]:
        draft = await _seconds_per_token(self.pair.draft, sampler.prompts.draft.question_ids(QUESTION))
        base = await _seconds_per_token(self.pair.base, sampler.prompts.base.question_ids(QUESTION))
        score = median(
            [(await self._opinion(sampler, text)).usage.seconds for text in _unseen(sampler.prompts.base.vocabulary)]
        )
        times = f"draft {draft * 1000:.2f} ms per token, base {base * 1000:.2f} ({base / draft:.1f} times)"
        detail = f"{times}, a score {score * 1000:.1f} ms"
        return [CheckResult(name="speed", status="ok", detail=detail), _break_even(draft, base, score)]


def _unseen(vocabulary: Vocabulary) -> list[str]:
    """Return steps of `TOKENS` tokens that begin differently, so that they are in no prefix cache."""
    texts = (" ".join(map(str, range(first, first + TOKENS))) for first in (3000, 5000, 7000))
    return [vocabulary.decode(vocabulary.encode(text)[:TOKENS]) for text in texts]


def memory(plan: MemoryPlan) -> list[CheckResult]:
    """Describe the memory plan of a pair in vLLM, one result per engine; one model in both roles is one engine."""
    roles: tuple[Role, ...] = ("base", "draft") if plan.draft is not plan.base else ("base",)
    details = [
        f"{role} {share.weights / GIB:.2f} weights + {share.overhead / GIB:.2f} working memory + "
        f"{share.kv_bytes / GIB:.2f} GiB cache for {share.tokens:,} tokens, context {share.context:,} "
        f"({share.utilization:.1%} of a device)"
        for role, share in zip(roles, map(plan.share, roles), strict=True)
    ]
    return [CheckResult(name="memory", status="ok", detail=detail) for detail in details]


def _vocabularies(pair: EnginePair) -> CheckResult:
    detail = "equal: token ids pass over unchanged" if pair.shares_vocabulary else "different: steps pass over as text"
    return CheckResult(name="vocabularies", status="ok", detail=detail)


def _format(prompts: EnginePrompts) -> CheckResult:
    return CheckResult(name=f"{prompts.role} thinking", status="ok", detail=describe_format(prompts.format))


def _digits(sampler: StepSampler) -> CheckResult:
    ids = sampler.judge.digit_ids
    return CheckResult(name="digits", status="ok", detail=f"one token each: {', '.join(map(str, ids))}")


def _distance(one: Score, other: Score) -> float:
    """Return the total variation distance of two scores' distributions, 0 to 1."""
    pairs = zip(one.digit_logprobs, other.digit_logprobs, strict=True)
    return 0.5 * (sum(abs(exp(a) - exp(b)) for a, b in pairs) + abs(one.other_mass - other.other_mass))


async def _seconds_per_token(engine: Engine, prompt: list[int]) -> float:
    sampling = Sampling(max_tokens=TOKENS)
    await engine.generate(prompt, Sampling(max_tokens=1))  # puts the prompt into the cache: prefill is not timed
    completion = await engine.generate(prompt, sampling)
    return completion.usage.seconds_per_token


def _break_even(draft: float, base: float, score: float) -> CheckResult:
    """Compute the acceptance from which drafting pays.

    An accepted proposal saves the base's time for the step, and each proposal costs draft and score: drafting pays when
    acceptance > (draft + score) / base.
    """
    share = (draft * TOKENS + score) / (base * TOKENS)
    detail = f"drafting pays from {share:.0%} of the proposals accepted (steps of {TOKENS} tokens)"
    if share >= 1:
        return CheckResult(
            name="break-even",
            status="warning",
            detail=detail,
            advice="the draft costs as much as the base: use a smaller draft",
        )
    return CheckResult(name="break-even", status="ok", detail=detail)
