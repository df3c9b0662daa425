"""The plan: what each strategy is predicted to give on a machine, what that rests on, and what to do."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from specreason_graph.planning.costs import PassCosts, Row
from specreason_graph.planning.descriptions import Described, shipped
from specreason_graph.planning.profile import QuestionProfile, RunProfile, acceptance, balanced, with_acceptance
from specreason_graph.planning.simulation import simulate
from specreason_graph.planning.strategies import BASE, Planned
from specreason_graph.record.records import Record

STEPS, TRIAL_STEPS = 1200, 400
"""Steps that a simulation goes through, about, and one for the break-even; longer questions are cut."""
FEWEST, SHORTEST = 8, 8
"""Questions of a simulation, and steps of each, at least."""
TRIED = (0.0, 0.5, 1.0)
"""Acceptances between which the break-even is looked for."""
ESCALATED = 0.5
"""Share of the proposals about which a cascade asks its second judge, where no record tells."""
CLEAR = 1.05
"""How many times as fast as the base alone a strategy has to be to be worth it."""


class PlanRow(Record):
    """What one strategy is predicted to give."""

    strategy: str
    """Name of the strategy."""
    concurrency: int
    """Questions at the same time."""
    acceptance: float | None
    """Share of the scored proposals that are accepted, 0 to 1; None where no draft is asked."""
    seconds_a_step: float
    """Wall seconds of a question for each of its steps, the answer included."""
    times_base: float
    """Wall seconds of the base alone over those of the strategy, for the same questions; above 1 it is faster."""
    break_even: float | None
    """Acceptance from which it is faster than the base alone, which has the same token-level speculation; above 1:
    never; None where no draft is asked."""
    waits_for: dict[str, float]
    """Share of the time that a question waits for draft, score, regenerate, answer and this package's overhead."""
    busy: dict[str, float]
    """Share of the time in which each engine works."""

    @property
    def dominant(self) -> str:
        """What most of the time is waited for."""
        return max(self.waits_for, key=lambda name: self.waits_for[name])


class Plan(Record):
    """Predictions for a machine and a pair, what they rest on, and what to do."""

    hardware: str
    """The machine."""
    base: str
    """The large model."""
    draft: str
    """The small model."""
    rows: list[PlanRow]
    """What each strategy gives, the base alone first."""
    assumptions: list[str]
    """What the figures rest on."""
    advice: str
    """What to do."""


def make_plan(
    described: Described, profile: RunProfile, strategies: Sequence[Planned], concurrencies: Sequence[int] = (1,),
    share: float | None = None, baseline: Planned = BASE,
) -> Plan:  # fmt: skip
    """Predict what strategies give; ``share`` is accepted of the proposals where a strategy does not say itself."""
    rows = list[PlanRow]()
    for concurrency in dict.fromkeys(concurrencies):
        row = _Predictor(described, profile, baseline, concurrency, share).row
        rows += map(row, (baseline, *strategies))
    return Plan(
        hardware=described.hardware.name, base=described.base.name, draft=described.draft.name, rows=rows,
        assumptions=list(_assumptions(described, profile, strategies, share)),
        advice=_advice(rows, {each.name for each in strategies if each.drafts}),
    )  # fmt: skip


@dataclass(frozen=True)
class _Predictor:
    """Simulates strategies and the base alone at one concurrency."""

    described: Described
    profile: RunProfile
    baseline: Planned
    concurrency: int
    share: float | None

    def row(self, strategy: Planned) -> PlanRow:
        """What a strategy gives."""
        questions = self._questions(strategy, STEPS)
        wanted = self.share if strategy.acceptance is None else strategy.acceptance
        if wanted is not None and strategy.drafts:
            questions = with_acceptance(questions, wanted)
        found = simulate(self.described, questions, strategy, self.concurrency)
        return PlanRow(
            strategy=strategy.name, concurrency=self.concurrency,
            acceptance=found.accepted / found.scored if found.scored else None,
            seconds_a_step=found.run_seconds / max(1, found.steps),
            times_base=self._times(self.baseline, strategy, questions, found.seconds, STEPS),
            break_even=self._break_even(strategy) if strategy.drafts else None,
            waits_for={name: each / found.run_seconds for name, each in found.waited.items()}, busy=found.busy,
        )  # fmt: skip

    def _break_even(self, strategy: Planned) -> float:
        """The acceptance from which a strategy is faster than the base alone under the same token speculation."""
        alone = self.baseline.model_copy(update={"token_speculation": strategy.token_speculation})
        points = []
        for share in TRIED:
            questions = with_acceptance(self._questions(strategy, TRIAL_STEPS), share)
            found = simulate(self.described, questions, strategy, self.concurrency)
            points.append((share, self._times(alone, strategy, questions, found.seconds, TRIAL_STEPS)))
        return _crossing(points)

    def _times(
        self, alone: Planned, strategy: Planned, questions: Sequence[QuestionProfile], seconds: float, steps: int
    ) -> float:
        """Seconds a question of the base alone over those of a strategy."""
        theirs = self._questions(alone, steps)
        base = simulate(self.described, theirs, alone, self.concurrency) if strategy != alone else None
        return (base.seconds if base else seconds) / len(theirs) * len(questions) / seconds

    def _questions(self, strategy: Planned, steps: int) -> list[QuestionProfile]:
        """As many questions as the concurrency needs to be reached, cut to about so many steps together."""
        given = self.profile.under(strategy.judge) if strategy.judge else self.profile.alone
        count = max(FEWEST, 2 * self.concurrency)
        average = fmean(max(1, len(each.steps)) for each in given)
        chosen = [given[number % len(given)] for number in range(max(count, min(len(given), int(steps / average))))]
        questions = [_cut(each, max(SHORTEST, steps // len(chosen))) for each in chosen]
        if len(chosen) != len(given) or questions != chosen:
            questions = balanced(questions, acceptance(given))
        if strategy.judge == "cascade" and (strategy.escalated is not None or "cascade" not in self.profile.drafted):
            return _escalating(questions, ESCALATED if strategy.escalated is None else strategy.escalated)
        return questions


def _cut(question: QuestionProfile, longest: int) -> QuestionProfile:
    """A question with the first of its steps, and as much less of an answer."""
    if len(question.steps) <= longest:
        return question
    answer = round(question.answer_tokens * longest / len(question.steps))
    return question.model_copy(update={"steps": question.steps[:longest], "answer_tokens": answer})


def _escalating(questions: Sequence[QuestionProfile], share: float) -> list[QuestionProfile]:
    """The questions where a cascade asks its second judge about a share of the proposals."""
    drawn = random.Random(0)
    return [
        each.model_copy(
            update={"steps": [s.model_copy(update={"escalated": drawn.random() < share}) for s in each.steps]}
        )
        for each in questions
    ]


def _crossing(points: Sequence[tuple[float, float]]) -> float:
    """Where the ratio of times reaches 1: 0 where it begins above, above 1 where it never does."""
    if points[0][1] >= 1:
        return 0.0
    for (left, low), (right, high) in pairwise(points):
        if high >= 1:  # seconds, which are the inverse, go by lines
            return left + (right - left) * (1 / low - 1) / (1 / low - 1 / high)
    return 1.01


def _assumptions(
    described: Described, profile: RunProfile, strategies: Sequence[Planned], share: float | None
) -> Iterator[str]:
    """What the figures rest on, one line each."""
    hardware = described.hardware
    costs = {"base": PassCosts(hardware, described.base), "draft": PassCosts(hardware, described.draft)}
    for role, model in (("base", described.base), ("draft", described.draft)):
        token = costs[role].seconds([Row(1, 1000)])
        read = f"{hardware.bandwidth_efficiency:.0%} of {hardware.bandwidth / 1e12:.2f} TB/s"
        computed = f"{model.size / 1e9:.1f} GB of weights at {read}, and {1000 * hardware.pass_seconds:.1f} ms besides"
        how = "measured" if model.measured.passes else computed
        yield f"{role} {model.name}: {1000 * token:.2f} ms a token ({how})"
    known = acceptance(profile.under("digit"))
    drafted = next(iter(profile.drafted))
    yield f"steps, lengths and acceptance ({known:.0%}): {profile.source}"
    if share is not None:
        yield f"acceptance {share:.0%} as given, with the persistence of the record"
    if missing := sorted({each.judge for each in strategies if each.judge and each.judge not in profile.drafted}):
        yield f"no record of {', '.join(missing)}: taken to accept as {drafted} does, be it able or not"
    if not profile.is_alone_recorded:
        yield "the base alone writes as many tokens as the loop does; where drafts are briefer the gain is larger"
    if hardware.slowdown > 1:
        yield f"a pass takes {hardware.slowdown:g} times as long while the other model works as well"
    call, stage = 1000 * hardware.call_seconds, 1000 * hardware.stage_seconds
    yield f"besides {call:.1f} ms a call and {stage:.1f} ms of CPU a stage; prefix cache in blocks of {hardware.block}"
    if any(each.token_speculation for each in strategies):
        given = described.speculation
        yield (
            f"{given.name}: {given.tokens_a_round:g} tokens a round of {given.round_cost:g} passes "
            f"({given.tokens_a_round / given.round_cost:.2f} times a plain base, one at a time)"
        )


def _advice(rows: Sequence[PlanRow], loops: set[str]) -> str:
    """One sentence on what to do."""
    parts = []
    for concurrency in dict.fromkeys(row.concurrency for row in rows):
        here = [row for row in rows if row.concurrency == concurrency]
        when = "one question at a time" if concurrency == 1 else f"with {concurrency} at once"
        plain = max((row for row in here if row.strategy not in loops), key=_speed)
        alone = "the base alone" if plain.strategy == here[0].strategy else plain.strategy
        loop = max((row for row in here if row.strategy in loops), key=_speed, default=None)
        if loop is None:
            parts.append(f"{when} use {alone}")
        elif loop.times_base >= CLEAR * plain.times_base:
            gain = f"{loop.times_base:.2f} times as fast as the base alone"
            more = "" if plain is here[0] else f" ({alone}: {plain.times_base:.2f})"
            parts.append(
                f"{when} use {loop.strategy}, {gain}{more}; it pays from {_share(loop.break_even)} accepted on"
            )
        else:
            parts.append(
                f"{when} use {alone} ({plain.times_base:.2f}): {loop.strategy} gives {loop.times_base:.2f}, and would "
                f"pay from {_share(loop.break_even)} accepted on"
            )
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


def _speed(row: PlanRow) -> float:
    return row.times_base


def _share(even: float | None) -> str:
    return "no share" if even is None or even > 1 else f"{even:.0%}"


def published() -> list[dict[str, Any]]:
    """The published figures that a plan may be held against, with their sources."""
    return list(shipped("published.toml")["figure"])
