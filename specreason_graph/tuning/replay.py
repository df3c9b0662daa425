"""What a strategy would have taken and lost on questions that were collected: computed, with no engine.

Time: each step costs what the pair was measured to take for its tokens, on a time line with one lane for each model.
Answers: one that the base gets right is lost where a harmful step would be let in, or where an early exit takes a wrong
answer. Both assume that the run stays near the base's own solution: an accepted step takes the place of the base's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from specreason_graph.config import SpecReasonConfig, overridden
from specreason_graph.errors import ConfigError
from specreason_graph.policies.stopping import SettledAnswer
from specreason_graph.record.records import Record, Score
from specreason_graph.strategy import Judge, Stopping
from specreason_graph.tuning.collect import PairCosts, Place, Solution

BASE_EVIDENCE: Mapping[str, str] = {"digit": "digit_logprobs", "likelihood": "base_logprobs"}
"""Fields of a score that the base is asked for, by the name of the evidence."""


class Candidate(Record):
    """A strategy that may be chosen."""

    name: str
    """What it is called in tables."""
    settings: dict[str, Any]
    """Fields of `SpecReasonConfig`, put over those of the user."""

    @property
    def config(self) -> SpecReasonConfig:
        """The settings, with defaults for all that is not the strategy's."""
        return overridden(SpecReasonConfig(), self.settings)

    @property
    def judge(self) -> Judge:
        """Its judge, under the threshold in force."""
        return self.config.judge_in_force


class Replayed(Record):
    """One question under a candidate."""

    seconds: float
    """Seconds of its steps and its answer."""
    base_seconds: float
    """The same of the base alone."""
    lost: bool
    """Whether the answer is wrong though the base alone gets it right."""
    scored: int
    """Steps that were scored."""
    accepted: int
    """Steps of the draft that were let in."""


class Estimate(Record):
    """A candidate over all questions; every figure is an estimate."""

    faster: float
    """Seconds of the base alone for each of the candidate's."""
    lost: float
    """Share of the answers that the base gets right which the candidate loses, 0 to 1."""
    acceptance: float
    """Share of the scored steps that are let in, 0 to 1."""


def estimate(
    candidate: Candidate, solutions: Sequence[Solution], costs: PairCosts, *, all_in: bool = False
) -> Estimate:
    """What a candidate takes and loses on all questions; with ``all_in`` as if every scored step were let in."""
    found = [replay(candidate, solution, costs, all_in=all_in) for solution in solutions]
    right = [each for each, solution in zip(found, solutions, strict=True) if solution.right]
    scored = sum(each.scored for each in found)
    return Estimate(
        faster=sum(each.base_seconds for each in found) / (sum(each.seconds for each in found) or 1.0),
        lost=sum(each.lost for each in right) / len(right) if right else 0.0,
        acceptance=sum(each.accepted for each in found) / scored if scored else 0.0,
    )  # fmt: skip


def replay(candidate: Candidate, solution: Solution, costs: PairCosts, *, all_in: bool = False) -> Replayed:
    """One question under a candidate."""
    config = candidate.config
    places, settled = until_settled(solution.places, config.stopping)
    let_in = [place.score is not None if all_in else accepts(config.judge_in_force, place) for place in places]
    answer = solution.answer_tokens * costs.base
    wrong = any(each and place.harmful for each, place in zip(let_in, places, strict=True))
    return Replayed(
        seconds=_seconds(config, places, let_in, costs) + answer,
        base_seconds=sum(place.base_tokens for place in solution.places) * costs.base + answer,
        lost=solution.right and (wrong or settled is False),
        scored=sum(place.score is not None for place in places), accepted=sum(let_in),
    )  # fmt: skip


def accepts(judge: Judge, place: Place) -> bool:
    """Whether a judge lets the draft's step in."""
    return place.score is not None and judge.wants(place.score) is None and judge.decide(place.score).accepted


def until_settled(places: Sequence[Place], stopping: Stopping) -> tuple[Sequence[Place], bool | None]:
    """The steps that are written under a stopping rule, and whether the answer of an early exit is right.

    None where there is no early exit.
    """
    agree = stopping.agree if isinstance(stopping, SettledAnswer) else 0
    for index in range(agree, len(places) + 1) if agree else ():
        last = places[index - agree : index]
        if last[0].probe is not None and len({place.probe for place in last}) == 1:
            # the answer is asked for in front of a step, which is then not written
            return places[: index - 1], bool(last[-1].probe_right)
    return places, None


def _seconds(config: SpecReasonConfig, places: Sequence[Place], let_in: Sequence[bool], costs: PairCosts) -> float:
    """When the last step is committed, on a time line with one lane for each model."""
    ahead, probe, judge = config.lookahead != 0, config.stopping.probe, config.judge_in_force
    draft_token, base_token = costs.draft_together if ahead else costs.draft, costs.base
    drafted = free = committed = 0.0  # when the draft has written, the base is free, and the last step is committed
    for place, accepted in zip(places, let_in, strict=True):
        drafted = (drafted if ahead else committed) + place.draft_tokens * draft_token
        if probe and place.probe is not None:  # the base is asked while the draft writes
            free = max(free, committed) + min(probe.tokens, len(place.probe) / 3) * base_token
        if place.score is not None:
            free = max(drafted, free) + score_seconds(judge, place.score, costs)
        if accepted:
            committed = free
            continue
        free = max(free, drafted if place.score is None else free) + place.base_tokens * base_token
        committed = drafted = free  # what was drafted ahead is thrown away
    return max(committed, free) if places else 0.0


def score_seconds(judge: Judge, score: Score, costs: PairCosts) -> float:
    """What a judge asks of the base about one step: parts that are not needed are not asked for."""
    told, seconds = score.model_copy(update=dict.fromkeys(BASE_EVIDENCE.values())), 0.0
    while (name := judge.wants(told)) is not None:
        if name not in BASE_EVIDENCE:
            raise ConfigError(f"the judge {judge.kind!r} wants {name!r}, which was not collected", hint="leave it out")
        seconds += costs.score.get(name, 0.0)
        told = told.model_copy(update={BASE_EVIDENCE[name]: getattr(score, BASE_EVIDENCE[name])})
    return seconds
