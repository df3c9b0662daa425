"""How questions go: the steps of recorded runs, or steps as in public runs; what a plan is simulated over."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist, fmean
from types import MappingProxyType
from typing import Literal

from specreason_graph.audit.ask.whatif import what_if
from specreason_graph.audit.read.reader import read_all_runs
from specreason_graph.audit.read.recorded import RecordedRun, check_readable
from specreason_graph.audit.read.saver import open_database
from specreason_graph.errors import ConfigError, ThreadError
from specreason_graph.planning.descriptions import shipped
from specreason_graph.record.records import UNASKED, Purpose, Record, Step

Outcome = Literal["accepted", "rejected", "unscored", "unasked"]
"""What became of a step's proposal: scored and let in or not, not scored (it ended the thinking), or not asked for."""
SCORED = ("accepted", "rejected")
"""Outcomes of proposals that were scored."""
DRAWN = 64
"""Questions that are drawn where there are no records."""


class StepProfile(Record):
    """One step."""

    draft_tokens: int
    """Tokens of the draft's version."""
    base_tokens: int
    """Tokens of the base's version."""
    outcome: Outcome
    """What became of the draft's version."""
    escalated: bool = True
    """Whether a cascade asked its next judge."""


class QuestionProfile(Record):
    """One question."""

    prompt_tokens: int
    """Tokens of the base's prompt in front of the first step."""
    steps: list[StepProfile]
    """Its steps."""
    answer_tokens: int
    """Tokens of the answer."""


class RunProfile(Record):
    """Questions as strategies and the base alone go through them."""

    source: str
    """Where it is from, for people."""
    drafted: dict[str, list[QuestionProfile]]
    """Questions by the kind of the judge that decided; the first one stands for judges that are not there."""
    alone: list[QuestionProfile]
    """The same kind of questions as the base goes through them without a draft."""
    is_alone_recorded: bool = False
    """Whether the base's runs are recorded; else they have the steps of the drafted ones."""

    def under(self, judge: str) -> list[QuestionProfile]:
        """The questions under a kind of judge, or under the first one where it is not there."""
        return self.drafted.get(judge) or next(iter(self.drafted.values()))


def acceptance(questions: Iterable[QuestionProfile]) -> float:
    """Share of the scored proposals that are accepted, 0 to 1."""
    scored = [step.outcome == "accepted" for each in questions for step in each.steps if step.outcome in SCORED]
    return fmean(scored) if scored else 0.0


def persistence(questions: Iterable[QuestionProfile]) -> float:
    """How much more often a proposal is accepted behind an accepted one than behind a rejected one, 0 to 1."""
    counts = {"accepted": [0, 0], "rejected": [0, 0]}
    for question in questions:
        scored = [step.outcome for step in question.steps if step.outcome in SCORED]
        for before, after in pairwise(scored):
            counts[before][0] += after == "accepted"
            counts[before][1] += 1
    if not counts["accepted"][1] or not counts["rejected"][1]:
        return 0.0
    behind = {name: hits / of for name, (hits, of) in counts.items()}
    return min(0.95, max(0.0, behind["accepted"] - behind["rejected"]))


def with_acceptance(questions: Sequence[QuestionProfile], share: float, seed: int = 0) -> list[QuestionProfile]:
    """The same questions where another share of the scored proposals is accepted, with their persistence."""
    stays, drawn = persistence(questions), random.Random(seed)

    def redrawn(question: QuestionProfile) -> Iterator[StepProfile]:
        likely = share
        for step in question.steps:
            accepted = drawn.random() < likely
            if step.outcome in SCORED:
                likely = share * (1 - stays) + stays * accepted
            yield _decided(step, accepted=accepted)

    return balanced([each.model_copy(update={"steps": list(redrawn(each))}) for each in questions], share, seed)


def balanced(questions: Sequence[QuestionProfile], share: float, seed: int = 0) -> list[QuestionProfile]:
    """The same questions with the share accepted to the step: as few decisions as possible are turned round.

    Decisions that persist come in long rows, so that a sample of them is otherwise far from its expectation.
    """
    scored = [(q, s) for q, question in enumerate(questions) for s, step in enumerate(question.steps)
              if step.outcome in SCORED]  # fmt: skip
    excess = sum(questions[q].steps[s].outcome == "accepted" for q, s in scored) - round(share * len(scored))
    wrong = "accepted" if excess > 0 else "rejected"
    candidates = [place for place in scored if questions[place[0]].steps[place[1]].outcome == wrong]
    turned = set(random.Random(seed).sample(candidates, abs(excess)))
    return [
        question.model_copy(update={"steps": [
            _decided(step, accepted=wrong == "rejected") if (q, s) in turned else step
            for s, step in enumerate(question.steps)
        ]})
        for q, question in enumerate(questions)
    ]  # fmt: skip


def _decided(step: StepProfile, *, accepted: bool) -> StepProfile:
    """A step with another decision, where its proposal is scored."""
    if step.outcome not in SCORED:
        return step
    return step.model_copy(update={"outcome": "accepted" if accepted else "rejected"})


def published_profile(count: int = DRAWN, seed: int = 0) -> RunProfile:
    """Questions with steps as in public runs of a reasoning pair: lognormal lengths, acceptance in two states."""
    given, drawn = shipped("published.toml")["profile"], random.Random(seed)
    median = float(given["median_step"])
    spread = math.log(given["p90_step"] / median) / NormalDist().inv_cdf(0.9)
    after = {True: given["after_accepted"], False: given["after_rejected"]}

    def length() -> int:
        return max(1, min(512, round(median * math.exp(spread * drawn.gauss(0, 1)))))

    def question() -> QuestionProfile:
        # The first proposal is in the state in which runs are on the whole.
        accepted = drawn.random() < after[False] / (1 - after[True] + after[False])
        steps = []
        for _ in range(given["steps"]):
            outcome: Outcome = "accepted" if accepted else "rejected"
            steps.append(StepProfile(draft_tokens=length(), base_tokens=length(), outcome=outcome))
            accepted = drawn.random() < after[accepted]
        return QuestionProfile(
            prompt_tokens=given["prompt_tokens"], steps=steps, answer_tokens=given["answer_tokens"]
        )  # fmt: skip

    questions = [question() for _ in range(count)]
    return RunProfile(source=f"{given['name']} ({given['source']})", drafted={"digit": questions}, alone=questions)


def recorded_profile(runs: Sequence[RecordedRun], source: str, judges: Iterable[str] = ()) -> RunProfile:
    """The profile of recorded runs that are finished and can be read.

    Runs for which no draft was asked are the base alone. The others are grouped by judge; for each further one of
    ``judges`` of which the record has the evidence, what it would have decided. Raises `ConfigError` where no run has
    a scored step.
    """
    alone = [run for run in runs if _is_alone(run)]
    drafting = [run for run in runs if any(step.score for step in run.steps)]
    if not drafting:
        raise ConfigError(f"{source} holds no finished run with a scored step", hint="name another --db, or none")
    ratio = _ratio(drafting)
    groups: dict[str, list[RecordedRun]] = {}
    for run in sorted(drafting, key=lambda run: run.updated):
        groups.setdefault(run.typed_manifest.config.judge.kind, []).append(run)
    largest = sorted(groups, key=lambda kind: -len(groups[kind]))
    drafted = {kind: [_question(run, ratio) for run in groups[kind]] for kind in largest}
    for kind in judges:
        if kind not in drafted and (found := _judged_again(groups[largest[0]], kind, ratio)):
            drafted[kind] = found
    return RunProfile(
        source=f"{len(drafting) + len(alone)} recorded runs in {source}", drafted=drafted,
        alone=[_question(run, ratio) for run in alone] or drafted[largest[0]], is_alone_recorded=bool(alone),
    )  # fmt: skip


def _is_alone(run: RecordedRun) -> bool:
    return bool(run.steps) and all(step.decision.reason in UNASKED for step in run.steps)


def _ratio(runs: Iterable[RecordedRun]) -> float:
    """Tokens of the base's version of a step for each of the draft's, from the steps of which both are known."""
    both = [(_written(step, "regenerate"), _written(step, "draft")) for run in runs for step in run.steps]
    known = [(base, draft) for base, draft in both if base and draft]
    return sum(base for base, _ in known) / sum(draft for _, draft in known) if known else 1.0


def _written(step: Step, purpose: Purpose) -> int:
    """Tokens that a call for a step wrote, the one that ended it included; 0 where there was none."""
    return sum(cost.usage.generated_tokens for cost in step.costs if cost.purpose == purpose and not cost.wasted)


def _judged_again(runs: Sequence[RecordedRun], kind: str, ratio: float) -> list[QuestionProfile] | None:
    """The questions as another judge would have decided, where the records tell it of every scored step."""
    found = []
    for run in runs:
        changed = {each.step: each.would_be for each in what_if(run, judge=kind).changed}
        if any(changed.get(step.index, True) is None for step in run.steps if step.score):
            return None
        found.append(_question(run, ratio, changed))
    return found


def _question(
    run: RecordedRun, ratio: float, changed: Mapping[int, bool | None] = MappingProxyType({})
) -> QuestionProfile:
    answer = run.answer.usage.generated_tokens if run.answer else 0
    return question_profile(run.steps, len(run.typed_manifest.head_ids["base"]), answer, ratio, changed)


def question_profile(
    steps: Sequence[Step], prompt_tokens: int, answer_tokens: int, ratio: float = 1.0,
    changed: Mapping[int, bool | None] = MappingProxyType({}),
) -> QuestionProfile:  # fmt: skip
    """The profile of a run's steps.

    ``ratio``: tokens of the base's version of a step for each of the draft's, where one of them was not written.
    ``changed``: decisions that another judge would have made, by step.
    """
    found = [_step(step, ratio, changed.get(step.index)) for step in steps]
    return QuestionProfile(prompt_tokens=prompt_tokens, steps=found, answer_tokens=answer_tokens)


def _step(step: Step, ratio: float, changed: bool | None) -> StepProfile:  # noqa: FBT001 - of a table
    draft, base = _written(step, "draft"), _written(step, "regenerate")
    accepted = (step.author != "base") if changed is None else changed
    outcome: Outcome = "accepted" if accepted else "rejected"
    if step.score is None:
        outcome = "unasked" if step.decision.reason in UNASKED else "unscored"
    return StepProfile(
        draft_tokens=draft or max(1, round(base / ratio)), base_tokens=base or max(1, round(draft * ratio)),
        outcome=outcome, escalated=step.score is None or step.score.has("likelihood") or step.score.has("digit"),
    )  # fmt: skip


def read_profile(database: str | Path, judges: Iterable[str] = ()) -> RunProfile:
    """The profile of the finished runs of a database; forks and runs that cannot be read are left out."""
    with open_database(database) as saver:
        runs = [run for run in read_all_runs(saver) if _counts(run)]
    return recorded_profile(runs, str(database), judges)


def _counts(run: RecordedRun) -> bool:
    try:
        return check_readable(run).finished and run.typed_manifest.forked_from is None
    except ThreadError:
        return False
