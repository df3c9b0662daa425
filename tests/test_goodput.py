"""The goodput guard: the base writes alone while drafting does not pay, and the record says on which figures."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver

from specreason_graph import EnginePair, Step, create_specreason
from specreason_graph.audit.reader import read_runs
from specreason_graph.audit.replay import replay
from specreason_graph.audit.verify import verify
from specreason_graph.policies.goodput import PROBE, Guard, Rates, pays
from specreason_graph.policies.pace import Pace
from specreason_graph.records import Cost, Decision, Goodput, Usage
from tests.test_window import QUESTION, slow_pair

THREAD: Any = {"configurable": {"thread_id": "one"}}
ALONE = "drafting_does_not_pay"


def steps_of(pair: EnginePair, **settings: Any) -> list[Step]:
    outcome = create_specreason(pair, guard=True, **settings).compile().invoke(QUESTION)
    return [Step.load(step) for step in outcome["trace"]]


def reasons(steps: list[Step]) -> list[str]:
    return [step.decision.reason for step in steps]


def test_a_draft_that_never_gets_in_is_given_up_within_ten_steps_and_tried_again() -> None:
    with slow_pair((2,), draft=0.01, steps=60) as pair:
        told = reasons(steps_of(pair))
        assert ALONE in told[:10]
        drafted = [index for index, reason in enumerate(told[:-1]) if reason != ALONE]
        assert 0 < len([index for index in drafted if index >= 10]) <= 60 // PROBE
        assert reasons(steps_of(pair))[0] == ALONE  # the next run begins with what is known of the pair


def test_a_draft_that_pays_is_kept() -> None:
    with slow_pair((9,), draft=0.002, base=0.02) as pair:
        assert ALONE not in reasons(steps_of(pair)) + reasons(steps_of(pair))


def test_without_the_guard_nothing_depends_on_the_clock() -> None:
    with slow_pair((2,), draft=0.02, steps=30) as pair:
        outcome = create_specreason(pair).compile().invoke(QUESTION)
    assert ALONE not in {step["decision"]["reason"] for step in outcome["trace"]}


def test_a_switch_is_recorded_with_its_figures_and_decided_again_from_them() -> None:
    saver = InMemorySaver()
    with slow_pair((2,), draft=0.01, steps=30) as pair:
        create_specreason(pair, guard=True).compile(checkpointer=saver).invoke(QUESTION, THREAD)
    (run,) = read_runs(saver, "one")
    switched = [step for step in run.steps if step.decision.reason == ALONE]
    assert switched
    for step in switched:
        figures = step.decision.goodput
        assert figures
        assert not pays(figures)
        assert (figures.runs, step.author, step.discarded) == (1, "base", None)
    assert verify(run).ok
    assert replay(run).differences == []


def test_figures_that_speak_for_drafting_are_found_in_the_replay() -> None:
    saver = InMemorySaver()
    with slow_pair((2,), draft=0.01, steps=30) as pair:
        create_specreason(pair, guard=True).compile(checkpointer=saver).invoke(QUESTION, THREAD)
    (run,) = read_runs(saver, "one")
    step = next(step for step in run.trace if step["decision"]["goodput"])
    step["decision"]["goodput"]["drafted"] = 0.0
    found = replay(run)
    assert found.differences[0].step == step["index"]
    assert "drafting_does_not_pay" in found.differences[0].problem


def committed(*, drafted: bool, seconds: float, alone: bool = False) -> Step:
    reason: Any = ALONE if alone else "score_reaches_threshold" if drafted else "score_below_threshold"
    figures = Goodput(drafted=1, alone=0.5, runs=1) if alone else None
    decision = Decision(
        accepted=drafted, reason=reason, number=None, reading="mean", threshold=7, goodput=figures,
    )  # fmt: skip
    costs = [] if drafted else [Cost(engine="base", purpose="regenerate", usage=Usage(calls=1, seconds=0.1))]
    return Step(
        index=0, author="draft" if drafted else "base", text="x", token_ids=[1] * 10, ending="blank_line", seed=0,
        decision=decision, score=None, discarded=None, costs=costs, elapsed=seconds,
    )  # fmt: skip


def test_trials_that_fail_become_rarer_and_one_that_succeeds_ends_it() -> None:
    guard, own = Guard(), Rates(0.9)
    for _ in range(6):
        guard.add(committed(drafted=False, seconds=0.2), own, 1)
    waits = []
    for _ in range(3):
        waited = 0
        while guard.verdict(own, 1):
            guard.add(committed(drafted=False, seconds=0.1, alone=True), own, 1)
            waited += 1
        waits.append(waited)
        guard.add(committed(drafted=False, seconds=0.2), own, 1)
    assert [later / earlier for earlier, later in pairwise(waits)] == [2, 2]
    for _ in range(60):
        guard.add(committed(drafted=True, seconds=0.01), own, 1)
    assert guard.verdict(own, 1) is None


def test_each_load_has_figures_of_its_own() -> None:
    guard = Guard()
    for _ in range(9):
        guard.add(committed(drafted=False, seconds=0.2), Rates(), 64)
    assert guard.verdict(Rates(), 64)
    assert guard.verdict(Rates(), 1) is None


def test_the_base_starts_before_the_verdict_when_a_rejection_is_likely() -> None:
    pace = Pace()
    for purpose in ("draft", "score", "regenerate"):
        pace.took(purpose, 0.1, 10)
    assert not Pace().races(1)  # nobody knows yet how fast the base is
    assert pace.races(1)
    assert not pace.races(64)  # others would have to wait
    for _ in range(50):
        pace.judged(accepted=True)
    assert not pace.races(1)


def test_a_version_begun_early_is_the_one_that_is_committed() -> None:
    with slow_pair((2,), draft=0.01, base=0.02) as pair:
        create_specreason(pair, window=4).compile().invoke(QUESTION)
        raced = pair.base.most  # type: ignore[attr-defined]
        calls = [(call.kind, tuple(call.prompt_ids)) for call in pair.base.calls]  # type: ignore[attr-defined]
    assert raced >= 2  # it wrote while it judged
    assert len(calls) == len(set(calls))
