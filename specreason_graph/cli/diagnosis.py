"""The checks of ``doctor``: whether the judge is able, whether the prefix caches work, and what models cost."""

from __future__ import annotations

from collections.abc import Sequence
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
from specreason_graph.judging.labelled_steps import Labelled, auroc, built_in_pairs, shipped_pairs, try_judge
from specreason_graph.lookahead.step_sampler import StepSampler
from specreason_graph.prompting.engine_prompts import EnginePrompts
from specreason_graph.prompting.pair_prompts import ROLES
from specreason_graph.record.records import Engine as Role
from specreason_graph.record.records import Record, Score
from specreason_graph.runs.launch import BUILT_IN

QUESTION = "Mia has 14 boxes with 23 pens in each box. Mia gives 57 pens to Leo. How many pens does Mia have now?"
EXTENSION = "Let us see.\n\n"
TOKENS = 64
"""Tokens that are generated to time a model; also the step length for which the break-even is computed."""
BLIND = 1e-4
"""Total variation between two distributions, 0 to 1; below it the judge cannot have seen the difference."""
ABLE = 0.7
"""AUROC below which a judge is no guide; 0.5 is chance."""
LET_IN = 0.75
"""Share of right steps that a threshold should let in."""


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
    against: str = ""
    """Why it speaks for the base alone; empty where it does not."""


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
            found += [*_digits(sampler), await self._judge(sampler)]
            found += [await self._cache("base", sampler), await self._cache("draft", sampler)]
            found += await self._speed(sampler)
        except SpecReasonError as error:
            found.append(CheckResult(name="stopped", status="failed", detail=str(error), advice=error.hint))
        return found

    async def _judge(self, sampler: StepSampler) -> CheckResult:
        pairs = built_in_pairs() if self.pair.base.name == BUILT_IN["base"] else shipped_pairs()
        judge = self.config.judge_in_force
        labelled = await try_judge(judge, lambda p, text: sampler.asking_about(p.question, p.before, text), pairs)
        return judged(labelled, self.config)

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
        seen = _unseen(sampler.prompts.base.vocabulary)
        scores = [await sampler.asking_about(QUESTION, (), text).collect(self.config.judge_in_force) for text in seen]
        score = median(each.usage.seconds for each in scores)
        times = f"draft {draft * 1000:.2f} ms per token, base {base * 1000:.2f} ({base / draft:.1f} times)"
        detail = f"{times}, a score {score * 1000:.1f} ms"
        return [CheckResult(name="speed", status="ok", detail=detail), _break_even(draft, base, score)]


def judged(labelled: Sequence[Labelled], config: SpecReasonConfig) -> CheckResult:
    """Say how well a judge told right steps from wrong ones, given in turns, and what the threshold would let in."""
    numbers = {label: _numbers(labelled, config, is_right=label) for label in (True, False)}
    judge = config.judge_in_force
    found, threshold = auroc(numbers[True], numbers[False]), judge.accepts_from
    let_in = {label: sum(n >= threshold for n in each) / len(each) for label, each in numbers.items()}
    kinds = {kind: auroc(*(_numbers(labelled, config, is_right=label, kind=kind) for label in (True, False)))
             for kind in sorted({each.kind for each in labelled})}  # fmt: skip
    outside = median(each.score.other_mass or 0.0 for each in labelled)
    detail = (
        f"AUROC {found:.2f} on {len(labelled)} labelled steps ({', '.join(f'{k} {v:.2f}' for k, v in kinds.items())}); "
        f"median of right steps {median(numbers[True]):.2f}, of wrong ones {median(numbers[False]):.2f}; "
        f"threshold {threshold:g} lets in {let_in[True]:.0%} of the right and {let_in[False]:.0%} of the wrong ones"
    )
    if judge.kind == "digit":
        detail += f"; mass outside the digits {outside:.2f} (median)"
    result = partial(CheckResult, name="judge", detail=detail)
    if max(_distance(one.score, other.score) for one, other in zip(labelled[::2], labelled[1::2], strict=True)) < BLIND:
        advice = "the judge does not see the step: check the chat template"
        return result(status="failed", advice=advice, against="the judge does not see what it judges")
    if outside > 0.5:
        return result(status="warning", advice="the judge seldom answers with a digit: change judge.prefill")
    if found < ABLE:
        other = "likelihood" if judge.kind == "digit" else "digit"
        advice = f"the {judge.kind} is no guide to right steps: try --judge {other}, or a stronger base model"
        return result(status="warning", advice=advice, against="the judge does not tell right steps from wrong ones")
    if let_in[True] < 0.5:
        lower = sorted(numbers[True])[int(len(numbers[True]) * (1 - LET_IN))]
        advice = f"most right steps lie under the threshold: {lower:.1f} would let in {LET_IN:.0%} of them"
        return result(status="warning", advice=advice)
    return result(status="ok")


def _numbers(
    labelled: Sequence[Labelled], config: SpecReasonConfig, *, is_right: bool, kind: str | None = None
) -> list[float]:
    chosen = [each.score for each in labelled if each.is_right == is_right and kind in (None, each.kind)]
    return [config.judge_in_force.number(score) for score in chosen]


def _unseen(vocabulary: Vocabulary) -> list[str]:
    """Return steps of `TOKENS` tokens that begin differently, so that they are in no prefix cache."""
    texts = (" ".join(map(str, range(first, first + TOKENS))) for first in (3000, 5000, 7000))
    return [vocabulary.decode(vocabulary.encode(text)[:TOKENS]) for text in texts]


def verdict(results: Sequence[CheckResult]) -> CheckResult:
    """Say in one sentence whether to speculate with this pair, by what the other checks found."""
    found = {result.name: result for result in results}
    result = partial(CheckResult, name="verdict")
    if reasons := [each.against for each in results if each.against]:
        return result(status="warning", detail=f"use the base alone: {', and '.join(reasons)}")
    if "own time" in found:
        return result(status="ok", detail=f"speculate: {found['own time'].detail}")
    unknown = "how many are, `specreason tune` or `doctor -f` measures on your own questions"
    pays = found["break-even"].detail
    return result(status="ok", detail=f"speculation can pay: the judge is able, and {pays}; {unknown}")


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


def _digits(sampler: StepSampler) -> list[CheckResult]:
    if sampler.digit is None:
        return []
    detail = f"one token each: {', '.join(map(str, sampler.digit.digit_ids))}"
    return [CheckResult(name="digits", status="ok", detail=detail)]


def _distance(one: Score, other: Score) -> float:
    """Return the total variation distance of two digits' distributions, 0 to 1; 1 for other evidence that differs."""
    if one.digit_logprobs is None or other.digit_logprobs is None:
        return float(one.model_copy(update={"usage": other.usage}) != other)
    pairs = zip(one.digit_logprobs, other.digit_logprobs, strict=True)
    return 0.5 * (sum(abs(exp(a) - exp(b)) for a, b in pairs) + abs((one.other_mass or 0) - (other.other_mass or 0)))


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
            against="draft and score cost as much as the base",
        )
    return CheckResult(name="break-even", status="ok", detail=detail)
