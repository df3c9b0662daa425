"""The goodput guard: the base writes alone while drafting does not pay, and the record says on which figures."""

from __future__ import annotations

import asyncio
import heapq
import random
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from specreason_graph import EnginePair, Step, create_specreason
from specreason_graph.audit.reader import read_runs
from specreason_graph.audit.replay import replay
from specreason_graph.audit.verify import verify
from specreason_graph.audit.whatif import what_if
from specreason_graph.config import SpecReasonConfig
from specreason_graph.policies.acceptance import decide_unscored
from specreason_graph.policies.goodput import FEW, Guard
from specreason_graph.policies.level import BUDGET, ENOUGH, HOPELESS, PAUSE, RARE, SOON, measured_in, pays, settling_in
from specreason_graph.policies.pace import Pace
from specreason_graph.records import Decision, Goodput
from tests.test_window import QUESTION, slow_pair

THREAD: Any = {"configurable": {"thread_id": "one"}}
ALONE, TIMED = "drafting_does_not_pay", "base_is_timed"


def steps_of(pair: EnginePair, **settings: Any) -> list[Step]:
    outcome = create_specreason(pair, guard=True, **settings).compile().invoke(QUESTION)
    return [Step.load(step) for step in outcome["trace"]]


def reasons(steps: list[Step]) -> list[str]:
    return [step.decision.reason for step in steps]


def test_a_draft_that_never_gets_in_is_given_up_within_ten_steps() -> None:
    with slow_pair((2,), draft=0.01, steps=40) as pair:
        told = reasons(steps_of(pair))
        assert told[5:10] == 5 * [TIMED]
        assert set(told[10:-1]) == {ALONE}
        assert reasons(steps_of(pair))[0] == ALONE  # the next run begins with what is known of the pair


def test_a_draft_that_costs_many_times_the_base_is_given_up_at_once() -> None:
    with slow_pair((2,), draft=0.3, base=0.02, steps=12) as pair:
        told = reasons(steps_of(pair, window=0))
    assert told[1 : 1 + ENOUGH] == ENOUGH * [TIMED]
    assert set(told[1 + ENOUGH : -1]) == {ALONE}


def test_a_draft_that_pays_is_kept() -> None:
    with slow_pair((9,), draft=0.002, base=0.2) as pair:
        told = reasons(steps_of(pair)) + reasons(steps_of(pair))
    assert ALONE not in told
    assert told.count(TIMED) <= 2 * (1 + ENOUGH)


def test_without_the_guard_nothing_depends_on_the_clock() -> None:
    with slow_pair((2,), draft=0.02, steps=30) as pair:
        outcome = create_specreason(pair).compile().invoke(QUESTION)
    assert ALONE not in {step["decision"]["reason"] for step in outcome["trace"]}


def test_a_switch_is_recorded_with_its_figures_and_decided_again_from_them() -> None:
    saver = InMemorySaver()
    with slow_pair((2,), draft=0.01, steps=30) as pair:
        create_specreason(pair, guard=True).compile(checkpointer=saver).invoke(QUESTION, THREAD)
    (run,) = read_runs(saver, "one")
    switched = [step for step in run.steps if step.decision.reason in (ALONE, TIMED)]
    assert {step.decision.reason for step in switched} == {ALONE, TIMED}
    for step in switched:
        figures = step.decision.goodput
        assert figures
        assert figures.trial == (step.decision.reason == TIMED)
        assert figures.trial or not pays(figures)
        assert (figures.runs, step.author, step.discarded) == (1, "base", None)
    assert verify(run).ok
    assert replay(run).differences == []
    assert what_if(run).changed == []


def test_figures_that_speak_for_drafting_are_found_in_the_replay() -> None:
    saver = InMemorySaver()
    with slow_pair((2,), draft=0.01, steps=30) as pair:
        create_specreason(pair, guard=True).compile(checkpointer=saver).invoke(QUESTION, THREAD)
    (run,) = read_runs(saver, "one")
    step = next(step for step in run.trace if step["decision"]["reason"] == ALONE)
    step["decision"]["goodput"]["drafted"] = 0.0
    found = replay(run)
    assert found.differences[0].step == step["index"]
    assert "drafting_does_not_pay" in found.differences[0].problem


def committed(*, alone: bool, seconds: float, accepted: bool = True) -> Step:
    decision = Decision(
        accepted=accepted and not alone, reason=ALONE if alone else "score_reaches_threshold", number=None,
        reading="mean", threshold=7, goodput=Goodput(drafted=1, alone=0.5, runs=1) if alone else None,
    )  # fmt: skip
    return Step(
        index=0, author="base" if alone else "draft", text="x", token_ids=[1] * 10, ending="blank_line", seed=0,
        decision=decision, score=None, discarded=None, costs=[], elapsed=seconds,
    )  # fmt: skip


class Timed(Guard):
    """A guard with a clock that stands still until it is told."""

    def __init__(self, *, batches: bool = True) -> None:
        self.now = 0.0
        super().__init__(lambda: self.now, batches=batches)
        self._last = self.now  # its steps are spread over the time from the first one on


def go_on(
    guard: Timed, steps: int, *, runs: int = 1, drafted: float = 0.2, alone: float = 0.1, accepted: bool = True
) -> str:
    """Who wrote each of some steps, as the guard wanted it: ``d`` the draft, ``b`` the base alone."""
    own, told = guard.own(), ""
    for _ in range(steps):
        by_base = guard.verdict(own, runs) is not None
        seconds = alone if by_base else drafted
        guard.now += seconds / runs
        guard.add(committed(alone=by_base, seconds=seconds, accepted=accepted), own, runs)
        told += "b" if by_base else "d"
    return told


def length_of_trial(runs: int) -> int:
    return settling_in(runs) + measured_in(runs)


def test_trials_cost_a_hundredth_at_most_and_one_that_succeeds_ends_them() -> None:
    guard, length = Timed(), length_of_trial(1)
    for slower, pause in [(1.02, SOON), (1.5, (1.5 - 1) / BUDGET), (4.0, (4.0 - 1) / BUDGET)]:
        stretches = [len(stretch) for stretch in go_on(guard, 900 * length, drafted=0.1 * slower).split("d") if stretch]
        assert stretches[-2] == pytest.approx(length * pause, rel=0.05)
    assert go_on(guard, 900 * length, drafted=0.01).endswith("d" * PAUSE)


def test_a_way_that_was_better_is_tried_again_when_it_may_be_so_again() -> None:
    guard = Timed()
    assert go_on(guard, 58, drafted=0.01).startswith((1 + ENOUGH) * "d" + (1 + ENOUGH) * "b" + 38 * "d")
    assert go_on(guard, 400, drafted=0.4).endswith("b")


def test_each_load_has_figures_of_its_own_and_a_new_one_begins_as_the_nearest() -> None:
    guard = Timed()
    go_on(guard, 60, drafted=0.01)
    assert go_on(guard, 400, runs=64).count("b") > 200
    assert go_on(guard, 1) == "d"
    assert go_on(guard, 1, runs=130) == "b"


def test_a_load_that_was_met_before_anything_was_known_begins_as_the_nearest_too() -> None:
    guard = Timed()
    go_on(guard, 41, runs=40)  # one of them is measured
    go_on(guard, 400, runs=64)
    assert go_on(guard, 10, runs=40).endswith("b" * 9)


def test_steps_that_were_begun_under_another_load_the_other_way_are_not_measured() -> None:
    guard = Timed()
    go_on(guard, 600, runs=8, drafted=0.01)
    go_on(guard, 400, runs=64)
    go_on(guard, 8, runs=8, drafted=100.0)
    assert go_on(guard, 20, runs=8, drafted=0.01) == "d" * 20


def test_under_load_all_runs_change_over_together_and_are_measured_after_that() -> None:
    guard, runs = Timed(), 4
    told = go_on(guard, 60 * runs, runs=runs)
    assert told == "d" * length_of_trial(runs) + "b" * (60 * runs - length_of_trial(runs))
    figures = guard.verdict(guard.own(), runs)
    assert figures
    assert figures.runs == runs
    assert figures.drafted == pytest.approx(0.02)
    assert figures.alone == pytest.approx(0.01)


@pytest.mark.parametrize("idle", [True, False])
def test_the_first_steps_of_a_trial_count_when_all_runs_begin_with_it(idle: bool) -> None:
    guard, runs = Timed(), 4
    go_on(guard, 400, runs=runs, drafted=0.12)
    while guard.verdict(guard.own(), runs):
        go_on(guard, 1, runs=runs)
    before = guard._level(runs).figures(runs).drafted
    guard.now += 60 * idle
    go_on(guard, 1, runs=runs, drafted=5)
    assert (guard._level(runs).figures(runs).drafted != before) == idle


def test_a_trial_among_fewer_runs_is_not_taken_for_a_faster_way() -> None:
    guard = Timed()
    longest = "d" * (2 + length_of_trial(64))  # one of them to see whether the draft gets in
    for _ in range(12):  # fewer at the end: each step takes less time then, in both ways
        assert longest not in go_on(guard, 2000, runs=64, drafted=0.12, alone=0.1)
        assert longest not in go_on(guard, 400, runs=44, drafted=0.12 * 0.75, alone=0.1 * 0.75)


def side_by_side(
    seed: int, runs: int, steps: int = 20_000, drafted: tuple[float, ...] = (0.03, 0.24), *, accepted: bool = True,
) -> str:  # fmt: skip
    """As `go_on`, in runs that each end a step when it is done: drafted ones are quick or slow, 1.35 times a base's."""
    guard, rng, told = Timed(), random.Random(seed), ""
    own, ends = guard.own(), [(rng.random() * 0.1, "b", 0.1) for _ in range(runs)]
    heapq.heapify(ends)
    for _ in range(steps):
        guard.now, way, seconds = heapq.heappop(ends)
        guard.add(committed(alone=way == "b", seconds=seconds, accepted=accepted), own, runs)
        way = "d" if guard.verdict(own, runs) is None else "b"
        seconds = rng.uniform(0.7, 1.3) * (0.1 if way == "b" else rng.choice(drafted))
        heapq.heappush(ends, (guard.now + seconds, way, seconds))
        told += way
    return told


@pytest.mark.parametrize("runs", [16, 64])
def test_a_trial_is_not_taken_in_by_the_quick_steps_that_end_first(runs: int) -> None:
    by_base = sum(side_by_side(seed, runs).count("b") for seed in range(6))
    assert by_base > 0.95 * 6 * 20_000


def test_a_bad_draft_among_many_runs_is_not_taken_for_a_quick_one_while_few_ask_it() -> None:
    for seed in range(12):
        told = side_by_side(seed, 64, 8_000, (0.25, 0.35), accepted=False)
        assert told.count("d") <= 2 * HOPELESS, seed


def test_drafting_that_gains_next_to_nothing_is_given_up() -> None:
    assert go_on(Timed(), 400, drafted=0.098).count("b") > 300
    assert go_on(Timed(), 400, drafted=0.09).count("d") > 300


def test_a_run_that_is_alone_goes_by_its_own_figures_too() -> None:
    guard = Timed()
    go_on(guard, 400, drafted=0.05)
    assert "b" in go_on(guard, 12, drafted=0.2)
    assert go_on(guard, 4, drafted=0.05) == "dddd"  # the next run does not suffer for it


def test_a_trial_that_one_slow_step_has_spoilt_is_soon_repeated() -> None:
    guard = Timed()
    assert go_on(guard, 5, drafted=0.12) == "ddddd"
    go_on(guard, 5, drafted=0.12, alone=2.0)
    told = go_on(guard, 1000, drafted=0.12)
    assert "b" in told[:50]
    assert told.count("b") > 600


def mixed(guard: Timed, quick: str) -> str:
    """Who writes the next steps when the draft's take half (``q``) or one and a half times as long as the base's."""
    return "".join(go_on(guard, 1, drafted=0.05 if each == "q" else 0.15) for each in quick)


def test_a_few_unlucky_steps_do_not_speak_against_a_draft_that_pays() -> None:
    guard = Timed()
    mixed(guard, "sqsqs" + "s" * 5)  # rejected, accepted and so on; then the base is tried
    assert mixed(guard, "sqqq" * 25).count("d") > 85
    luckless = Timed()
    mixed(luckless, "sssss" + "s" * 5)  # there is no doubt where all are as slow
    assert mixed(luckless, "s" * 200).count("b") > 180


def test_a_trial_ends_where_nothing_can_be_measured() -> None:
    guard, own = Timed(), Timed().own()
    go_on(guard, 400)
    tried = 0
    for _ in range(3000):  # the draft is dead: the base writes the step, whoever was asked
        tried += guard.verdict(own, 1) is None
        guard.now += 0.1
        guard.add(committed(alone=True, seconds=0.1), own, 1)
    assert 0 < tried < 300


@pytest.mark.parametrize("each", [10, 20, 30])
def test_a_load_that_hops_over_an_edge_is_measured_all_the_same(each: int) -> None:
    guard, told = Timed(), ""
    for number in range(12_000):
        runs = 42 if number % each == 0 else 43
        told += go_on(guard, 1, runs=runs, drafted=0.08)
    assert told.count("d") > 8000


@pytest.mark.parametrize("drafted", [0.05, 0.2])
def test_many_runs_begin_with_the_base_and_try_the_draft_when_that_is_cheap(drafted: float) -> None:
    guard, runs = Timed(), 64
    told = go_on(guard, 100 * runs, runs=runs, drafted=drafted)
    assert told.index("d") == pytest.approx(PAUSE * length_of_trial(runs), abs=1)
    assert ("b" * 1000 in told[-1500:]) == (drafted > 0.1)


@pytest.mark.parametrize("drafted", [0.05, 0.2])
def test_many_runs_over_an_engine_that_does_not_batch_begin_with_the_draft(drafted: float) -> None:
    guard, runs = Timed(batches=False), 16
    told = go_on(guard, 100 * runs, runs=runs, drafted=drafted)
    assert told.startswith((1 + length_of_trial(runs)) * "d" + "b")
    assert (told.count("d") > 80 * runs) == (drafted < 0.1)


@pytest.mark.parametrize("batches", [True, False])
def test_a_draft_that_never_gets_in_is_not_tried_for_long_in_many_runs(batches: bool) -> None:
    guard, runs = Timed(batches=batches), 64
    told = go_on(guard, 100 * runs, runs=runs, drafted=0.5, accepted=False)
    assert {len(trial) for trial in told.split("b") if trial} == {HOPELESS}
    assert told.count("d") <= 4 * HOPELESS  # and seldom again
    assert told.startswith("d") != batches


def test_many_runs_do_not_all_wait_for_a_draft_that_may_be_bad() -> None:
    guard, runs = Timed(batches=False), 64
    own = guard.own()
    asked = [guard.verdict(own, runs) is None for _ in range(runs)]
    assert asked == HOPELESS * [True] + (runs - HOPELESS) * [False]
    for _ in range(length_of_trial(runs)):  # none of them comes back, as their runs were cancelled
        guard.add(committed(alone=True, seconds=0.1), own, runs)
    assert sum(guard.verdict(own, runs) is None for _ in range(runs)) == 0


@pytest.mark.parametrize("runs", [4, 16])
def test_what_is_known_of_one_run_does_not_keep_a_draft_that_never_gets_in(runs: int) -> None:
    guard = Timed(batches=False)
    go_on(guard, 60, drafted=0.05)
    told = go_on(guard, 70 * runs, runs=runs, drafted=0.5, accepted=False)
    assert told.count("d") <= 4 * HOPELESS


def test_a_draft_that_never_gets_in_is_not_tried_anew_under_each_load() -> None:
    guard = Timed(batches=False)
    go_on(guard, 64 * 8, runs=64, drafted=0.5, accepted=False)
    assert all(go_on(guard, 2 * runs, runs=runs, drafted=0.5, accepted=False) == 2 * runs * "b" for runs in (32, 8, 4))


def test_a_step_that_ends_the_thinking_is_no_rejection() -> None:
    guard, runs = Timed(batches=False), 16
    own = guard.own()
    last = committed(alone=False, seconds=0.1, accepted=False)
    last = last.model_copy(update={"decision": last.decision.model_copy(update={"reason": "proposal_ends_thinking"})})
    for _ in range(2 * HOPELESS):
        guard.add(last, own, runs)
    assert guard.verdict(own, runs) is None


def test_once_a_draft_gets_in_all_runs_ask_it_and_those_before_are_not_measured() -> None:
    guard, runs = Timed(batches=False), 64
    own = guard.own()
    for alone in 63 * [True] + [False]:
        guard.verdict(own, runs)
        guard.now += 0.1 / runs
        guard.add(committed(alone=alone, seconds=0.1), own, runs)
    told = go_on(guard, 4 * runs, runs=runs)
    assert told == 4 * runs * "d"
    assert guard._level(runs).figures(runs).drafted == pytest.approx(0.02)


def test_a_draft_that_never_gets_in_is_not_asked_until_it_is_measured() -> None:
    guard, runs = Timed(), FEW
    told = go_on(guard, 8 * length_of_trial(runs), runs=runs, drafted=0.5, accepted=False)
    assert told.rstrip("b") == HOPELESS * "d"


def test_a_draft_that_never_gets_in_is_tried_ever_more_rarely_until_something_gets_in() -> None:
    guard, length = Timed(), length_of_trial(1)
    pauses = [len(pause) for pause in go_on(guard, 900 * length, drafted=0.12, accepted=False).split("d") if pause]
    assert pauses.count(RARE // 2 * length) == 1
    assert pauses[-2] == RARE * length
    pauses = [len(pause) for pause in go_on(guard, 900 * length, drafted=0.12).split("d") if pause]
    assert pauses[-2] == pytest.approx(length * 0.2 / BUDGET, rel=0.05)


def test_a_draft_that_turned_bad_is_not_tried_again_and_again_on_the_figures_of_better_days() -> None:
    guard, runs = Timed(), 4
    go_on(guard, 20 * runs, runs=runs, drafted=0.11)
    told = go_on(guard, 400 * runs, runs=runs, drafted=0.5, alone=0.15, accepted=False)
    assert 0 < told.count("d") <= 8 * HOPELESS


def test_in_many_runs_too_a_draft_that_never_gets_in_is_tried_ever_more_rarely() -> None:
    guard, runs = Timed(), 16
    length = length_of_trial(runs)
    pauses = [len(pause) for pause in go_on(guard, 600 * length, runs=runs, accepted=False).split("d") if pause]
    assert max(pauses) == pytest.approx(RARE * length, rel=0.02)


def test_a_base_that_goes_on_until_it_was_measured_says_so() -> None:
    guard, told = Timed(), []
    own = guard.own()
    for number in range(400):
        found = guard.verdict(own, 1)
        told += [decide_unscored(None, SpecReasonConfig(guard=True), goodput=found)] if found else []
        seconds = (0.2 if number % 3 else 0.02) if found else 0.12
        guard.now += seconds
        guard.add(committed(alone=found is not None, seconds=seconds), own, 1)
    assert {decision.reason for decision in told} == {ALONE, TIMED}
    for decision in told:
        assert decision.goodput
        assert (decision.reason == TIMED) == (decision.goodput.trial or pays(decision.goodput))
        assert decision.goodput.trial or not pays(decision.goodput)


def test_the_first_steps_after_a_change_do_not_turn_it_back() -> None:
    guard, runs = Timed(batches=False), 16
    told = ""
    while not told.endswith("bd"):
        told += go_on(guard, 1, runs=runs, drafted=0.09)
    length = length_of_trial(runs)
    assert go_on(guard, length, runs=runs, drafted=0.3) == (length - 1) * "d" + "b"


def test_answers_that_are_written_meanwhile_do_not_count_against_the_draft() -> None:
    guard, runs, told = Timed(batches=False), 16, ""
    for _ in range(4 * length_of_trial(runs)):
        told += go_on(guard, 1, runs=runs, drafted=0.08)
        if told.endswith("d"):
            guard.now += 0.1 / runs
            guard.answered(10, 0.1, runs)
    assert told.strip("d") == length_of_trial(runs) * "b"


def test_the_guard_knows_whether_the_base_batches() -> None:
    told: dict[int | None, int] = {}
    for at_once in (2, None):
        with slow_pair() as pair:
            pair.base.at_once = at_once  # type: ignore[misc]
            outcomes = asyncio.run(create_specreason(pair, guard=True).compile().abatch([QUESTION] * 48))
        told[at_once] = sum(step["author"] == "draft" for outcome in outcomes for step in outcome["trace"])
    assert told[2] > told[None] + 48, told


def test_steps_that_the_base_is_to_write_anyway_are_not_counted_as_asked() -> None:
    with slow_pair((9,)) as pair:
        pair.base.at_once = 2  # type: ignore[misc]
        graph = create_specreason(pair, guard=True, first_steps_by_base=1).compile()
        outcomes = asyncio.run(graph.abatch([QUESTION] * 16))
    assert sum(step["author"] == "draft" for outcome in outcomes for step in outcome["trace"]) > 16


def test_the_first_of_many_runs_know_that_others_come() -> None:
    begun: list[str] = []
    for _ in range(3):
        with slow_pair() as pair:
            outcomes = asyncio.run(create_specreason(pair, guard=True).compile().abatch([QUESTION] * 64))
        begun += [outcome["trace"][0]["decision"]["reason"] for outcome in outcomes]
    assert begun.count(TIMED) > 0.8 * len(begun)  # the very first may be gone before the last comes


def test_many_runs_do_not_take_over_that_drafting_pays_in_a_few() -> None:
    guard = Timed()
    go_on(guard, 200, runs=FEW, drafted=0.05)
    assert go_on(guard, 64, runs=64) == 64 * "b"


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
