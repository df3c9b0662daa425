"""Which strategies are worth running for real, which of them is best, and what would change that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pydantic import Field

from specreason_graph.bench.judged_steps import Discernment, JudgedStep, compare
from specreason_graph.errors import ConfigError
from specreason_graph.judging import (
    AllOf,
    Cascade,
    CheckJudge,
    ConfidenceJudge,
    DigitJudge,
    LikelihoodJudge,
)
from specreason_graph.judging.fitting import fit
from specreason_graph.record.records import Record
from specreason_graph.strategy import Judge
from specreason_graph.tuning.collect import PairCosts, Solution
from specreason_graph.tuning.replay import Candidate, Estimate, accepts, estimate
from specreason_graph.tuning.risk import RiskBound, control_risk

JUDGES: dict[str, Judge] = {
    "likelihood": LikelihoodJudge(),
    "mean likelihood": LikelihoodJudge(reduction="mean"),
    "confidence": ConfidenceJudge(),
    "cascade": Cascade(first=ConfidenceJudge(), low=-12, high=-0.01, then=LikelihoodJudge()),
    "check and likelihood": AllOf(judges=(CheckJudge(), LikelihoodJudge())),
    "digit": DigitJudge(),
}
"""Judges that are compared, by what they are called."""
FAVOURITE = "likelihood"
"""The judge that gets half of the error probability, settled before any question is seen: it is the ablest one on the
pairs that this package was measured on."""
FITTED = "calibrated"
"""The judge that is fitted on the collected steps."""
HOLDS_BACK = 0.5
"""Share of the risk that a sample may show: it may be a lucky one."""
ALIKE = 0.1
"""Share by which two speeds may differ where the risk of the slower one is bounded and that of the other is not."""
PROMISING = 1.05
"""Measured speed from which a sample that tells nothing from noise may only be too small."""
CLEAR, HOPELESS = 1.3, 0.9
"""Estimates above which it is clear that drafting pays, and below which a strategy is not run."""


class Tried(Record):
    """A strategy with its estimate, and what is known of its risk."""

    candidate: Candidate
    """The strategy."""
    judge: str
    """What its judge is called."""
    estimate: Estimate
    """What it is expected to take and to lose."""
    bound: RiskBound | None
    """The test of its threshold; None for a judge that was fitted on the same questions, and where steps were left out
    that no label is known of."""
    let_in: list[bool]
    """Whether its judge lets in each of the collected steps."""

    @property
    def is_shown(self) -> bool:
        """Whether the sample shows the bound."""
        return self.bound is not None and self.bound.threshold is not None


class SweepPoint(Record):
    """One threshold of a judge."""

    judge: str
    """What the judge is called."""
    threshold: float
    """The threshold, on the judge's scale."""
    estimate: Estimate
    """What it is expected to take and to lose."""


class Replays(Record):
    """What follows from the collected questions alone."""

    tried: list[Tried]
    """The best strategy of each judge, the fastest first."""
    sweep: list[SweepPoint]
    """All thresholds of all judges."""
    discernment: list[Discernment]
    """How well each judge tells harmful steps from others."""


class Outcome(Record):
    """A strategy that was run for real."""

    candidate: Candidate
    """The strategy."""
    faster: float
    """Seconds of the base alone for each of the strategy's."""
    low: float
    """Lower end of its 95% interval."""
    high: float
    """Upper end."""
    questions: int
    """Questions that were asked."""
    right: int
    """Answers that are right; with agreement as the measure, that are those of the base alone."""
    base_right: int
    """Right answers of the base alone."""
    lost: int
    """Answers that the base alone gets right and the strategy does not."""
    gained: int
    """Answers that the strategy gets right and the base alone does not."""
    bound: RiskBound | None = None
    """The test of its threshold, on the collected questions."""


class Choice(Record):
    """What is recommended."""

    chosen: Outcome | None
    """The strategy; None for the base alone."""
    why: str
    """Why, in a sentence."""
    would_change: list[str] = Field(default_factory=list)
    """What would make speculation faster, by estimates."""


class _Named(NamedTuple):
    name: str
    judge: Judge
    share: float
    """Part of the error probability; 0 where no bound can be shown."""


def replay_all(solutions: Sequence[Solution], costs: PairCosts, *, alpha: float, delta: float) -> Replays:
    """Choose a threshold for each judge and the rest of its strategy, from what was collected."""
    tried, sweep = list[Tried](), list[SweepPoint]()
    for judge in _judges(solutions, costs, delta):
        sweep += _sweep(judge, solutions, costs)
        if found := _best_of(judge, solutions, costs, alpha):
            tried.append(found)
    tried.sort(
        key=lambda each: (round(each.estimate.faster / ALIKE), each.is_shown, each.estimate.faster), reverse=True
    )
    return Replays(tried=tried, sweep=sweep, discernment=list(_discern(solutions)))


def _judges(solutions: Sequence[Solution], costs: PairCosts, delta: float) -> Iterator[_Named]:
    usable = {name: judge for name, judge in JUDGES.items() if "digit" not in judge.may_need or "digit" in costs.score}
    for name, judge in usable.items():
        yield _Named(name, judge, delta / 2 if name == FAVOURITE else delta / 2 / (len(usable) - 1))
    steps = labelled(solutions)
    try:
        judge = fit([step.score for step in steps], [not step.harmful for step in steps])
    except ConfigError:  # too few steps of one label
        return
    yield _Named(f"{FITTED} on {len(steps)} steps", judge, 0.0)


def labelled(solutions: Sequence[Solution]) -> list[JudgedStep]:
    """All steps of which it is known whether they are harmful."""
    return [
        JudgedStep(question=each.question, index=index, text=place.text, harmful=place.harmful, score=place.score)
        for each in solutions
        for index, place in enumerate(each.places)
        if place.score and place.harmful is not None
    ]


def _discern(solutions: Sequence[Solution]) -> Iterator[Discernment]:
    steps = labelled(solutions)
    used = {name: judge for name, judge in JUDGES.items() if all(judge.wants(step.score) is None for step in steps)}
    single = {name: judge for name, judge in used.items() if not judge.is_combined}
    if len({step.harmful for step in steps}) == 2:
        yield from compare(steps, single, calibrated=False)


def losses(judge: Judge, solutions: Sequence[Solution]) -> list[float]:
    """For each question that the base gets right, 1 where a harmful step would be let in, else 0."""
    return [
        float(any(place.harmful and accepts(judge, place) for place in each.places)) for each in solutions if each.right
    ]


def _best_of(named: _Named, solutions: Sequence[Solution], costs: PairCosts, alpha: float) -> Tried | None:
    """The threshold of a judge by its risk, and the rest of the strategy by its speed."""
    strictest_first = sorted(named.judge.trials_in_force, reverse=True)
    sequence = [(each, losses(named.judge.with_threshold(each), solutions)) for each in strictest_first]
    bound = None
    if named.share and all(each.is_labelled for each in solutions if each.right):
        bound = control_risk(sequence, alpha=alpha, delta=named.share)
    threshold = bound.threshold if bound else None
    if threshold is None:  # the sample shows none: the loosest one before the first that loses too much in it
        held = HOLDS_BACK * alpha
        for each, lost in sequence:
            if lost and sum(lost) > held * len(lost):
                break
            threshold = each
    if threshold is None:
        return None
    judge = named.judge.with_threshold(threshold)
    found = [
        Tried(
            candidate=candidate,
            judge=named.name,
            estimate=estimate(candidate, solutions, costs),
            bound=bound,
            let_in=[accepts(judge, place) for each in solutions for place in each.places],
        )
        for candidate in _variants(named.name, judge, threshold, solutions)
    ]
    found = [each for each in found if each.estimate.lost <= max(HOLDS_BACK * alpha, found[0].estimate.lost)]
    return max(found, key=lambda each: each.estimate.faster)


def _variants(name: str, judge: Judge, threshold: float, solutions: Sequence[Solution]) -> Iterator[Candidate]:
    label = f"{name} {threshold:.4g}"
    probed = any(place.probe is not None for each in solutions for place in each.places)
    exits = {None: "", 2: ", exit after 2 alike", 3: ", exit after 3 alike"} if probed else {None: ""}
    for agree, exit_label in exits.items():
        for lookahead, turns in ((None, ""), (0, ", in turns")):
            settings: dict[str, Any] = {"judge": judge.model_dump(mode="json"), "lookahead": lookahead}
            if agree:
                settings["stopping"] = {"kind": "settled", "agree": agree}
            yield Candidate(name=label + exit_label + turns, settings=settings)


def _sweep(named: _Named, solutions: Sequence[Solution], costs: PairCosts) -> Iterator[SweepPoint]:
    for threshold in sorted(named.judge.trials_in_force):
        judge = named.judge.with_threshold(threshold).model_dump(mode="json")
        candidate = Candidate(name=named.name, settings={"judge": judge})
        yield SweepPoint(judge=named.name, threshold=threshold, estimate=estimate(candidate, solutions, costs))


def finalists(tried: Sequence[Tried]) -> list[Tried]:
    """The few that are run for real: the best strategy with and without work ahead, and the best of another judge.

    Estimates tell judges apart better than how the two models get along on one machine. Where it is not clear that
    drafting pays, the best one is also run with the base writing while it does not. A strategy that is hopeless by its
    estimate is left out, unless it is the only one.
    """
    if not tried:
        return []
    first = _preferred(tried)
    other = next(
        (
            each
            for each in tried
            if each is not first
            and (each.let_in != first.let_in or each.estimate.faster > first.estimate.faster)
            and each.estimate.faster >= HOPELESS
        ),
        None,
    )
    is_clear = first.estimate.faster > CLEAR
    found = [first, _but(first, lookahead=None if first.candidate.config.lookahead == 0 else 0)]
    found += [other] if other else []
    return found if is_clear else [*found, _but(first, speculation_control=True)]


def _preferred(tried: Sequence[Tried]) -> Tried:
    """The fastest by its estimate, or the fastest one whose risk is bounded where it is about as fast."""
    near = (each for each in tried if each.estimate.faster >= (1 - ALIKE) * tried[0].estimate.faster)
    return next((each for each in near if each.is_shown), tried[0])


def _but(tried: Tried, **settings: Any) -> Tried:
    """The same strategy with another setting."""
    ((name, value),) = settings.items()
    label = "controlled" if name == "speculation_control" else "in turns" if value == 0 else "ahead"
    base = tried.candidate.name.removesuffix(", in turns") if name == "lookahead" else tried.candidate.name
    candidate = Candidate(
        name=base if label == "ahead" else f"{base}, {label}", settings={**tried.candidate.settings, **settings}
    )
    return tried.model_copy(update={"candidate": candidate})


def choose(outcomes: Sequence[Outcome], *, alpha: float) -> tuple[Outcome | None, str]:
    """The fastest strategy that is faster than the base alone beyond noise and loses no answers; None for the base.

    Of two that are about as fast, one whose risk is bounded is preferred.
    """
    if not outcomes:
        return None, "no threshold of any judge loses few enough answers"
    sound = [each for each in outcomes if each.lost - each.gained <= HOLDS_BACK * alpha * each.base_right]
    faster = sorted((each for each in sound if each.low > 1), key=lambda each: each.faster, reverse=True)
    if faster:
        near = [each for each in faster if each.faster >= (1 - ALIKE) * faster[0].faster]
        best = next((each for each in near if each.bound and each.bound.threshold is not None), faster[0])
        speed = f"{best.candidate.name} is {best.faster:.2f} times as fast as the base alone"
        answers = f"{best.right} of {best.questions} answers are right, of the base alone {best.base_right}"
        return best, f"{speed} ({best.low:.2f} to {best.high:.2f}); {answers}"
    best = max(sound or outcomes, key=lambda each: each.faster)
    speed = f"{best.candidate.name} is {best.faster:.2f} times as fast ({best.low:.2f} to {best.high:.2f})"
    if not sound:
        return None, f"use the base alone: {speed}, but loses {best.lost} of {best.base_right} right answers"
    unsure = "; more questions may tell" if best.faster >= PROMISING else ""
    return None, f"use the base alone: no strategy is faster beyond noise, the best one, {speed}{unsure}"


def would_change(tried: Sequence[Tried], solutions: Sequence[Solution], costs: PairCosts) -> list[str]:
    """What would make the best strategy faster, by estimates: another draft, base or judge."""
    if not tried:
        return []
    best = tried[0].candidate
    half: dict[str, Any] = {"draft": costs.draft / 2, "draft_together": costs.draft_together / 2}
    twice: dict[str, Any] = {"base": 2 * costs.base, "base_together": 2 * costs.base_together}
    dearer = {name: 2 * seconds for name, seconds in costs.score.items()}
    free = dict.fromkeys(costs.score, 0.0)
    other: dict[str, dict[str, Any]] = {
        "a draft that takes half as long for a token": half,
        "a base that takes twice as long for a token, with the same draft": {**twice, "score": dearer},
        "a judge that costs nothing and decides alike": {"score": free},
    }
    found = {what: estimate(best, solutions, costs.model_copy(update=changed)) for what, changed in other.items()}
    found["a draft of which every step is let in"] = estimate(best, solutions, costs, all_in=True)
    return [f"{what}: about {each.faster:.2f} times as fast as the base alone" for what, each in found.items()]
