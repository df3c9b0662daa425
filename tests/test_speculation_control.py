"""Speculation control: the base writes alone while drafting does not pay, and the record says on which figures."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from specreason_graph import EnginePair, Step, create_specreason
from specreason_graph.audit.ask.whatif import what_if
from specreason_graph.audit.check.recompute import recompute
from specreason_graph.audit.check.verify import verify
from specreason_graph.config import make_config
from specreason_graph.errors import ConfigError
from specreason_graph.policies.speculation import INTERVAL, PROBE, SpeculationController, pays
from specreason_graph.record.records import Decision, Goodput
from tests.support.counting import QUESTION, slow_pair
from tests.support.recording import record

BASE_ONLY, PROBED = "drafting_does_not_pay", "base_is_timed"


def reasons(pair: EnginePair, **settings: Any) -> list[str]:
    outcome = create_specreason(pair, speculation_control=True, **settings).compile().invoke(QUESTION)
    return [step["decision"]["reason"] for step in outcome["trace"]]


def test_a_draft_that_never_gets_in_is_given_up_after_one_probe() -> None:
    with slow_pair((2,), draft=0.03, steps=40) as pair:
        found = reasons(pair)
        assert BASE_ONLY not in found[:PROBE]
        assert found[PROBE] == PROBED  # eight rejections in a row end it
        assert set(found[2 * PROBE + 1 : -1]) == {BASE_ONLY}
        assert reasons(pair)[0] == BASE_ONLY  # the next run begins with what is known of the pair


def test_a_draft_that_pays_is_kept() -> None:
    with slow_pair((9,), draft=0.002, base=0.2) as pair:
        found = reasons(pair) + reasons(pair)
    assert BASE_ONLY not in found
    assert found.count(PROBED) <= 1 + PROBE


def test_a_run_by_itself_is_controlled_only_where_it_asks() -> None:
    with slow_pair((2,), draft=0.03, steps=30) as pair:
        assert BASE_ONLY in reasons(pair)
        outcome = create_specreason(pair).compile().invoke(QUESTION)
    assert {step["decision"]["reason"] for step in outcome["trace"][:-1]} == {"score_below_threshold"}


def test_first_steps_by_base_are_the_bases_whatever_pays() -> None:
    with slow_pair((9,), draft=0.002, base=0.05) as pair:
        assert reasons(pair, first_steps_by_base=2)[:3] == [*2 * ["first_steps_by_base"], "score_reaches_threshold"]


def test_a_change_is_recorded_with_its_figures_and_decided_again_from_them() -> None:
    with slow_pair((2,), draft=0.03, steps=30) as pair:
        run = record(pair, speculation_control=True)
    undrafted = [step for step in run.steps if step.decision.reason in (BASE_ONLY, PROBED)]
    assert {step.decision.reason for step in undrafted} == {BASE_ONLY, PROBED}
    for step in undrafted:
        figures = step.decision.goodput
        assert figures
        assert figures.probe == (step.decision.reason == PROBED)
        assert figures.probe or not pays(figures)
        assert (figures.runs, step.author, step.discarded) == (1, "base", None)
    assert verify(run).ok
    assert recompute(run).differences == []
    assert what_if(run).changed == []


def test_figures_that_speak_for_drafting_are_found_by_the_audit() -> None:
    with slow_pair((2,), draft=0.03, steps=30) as pair:
        run = record(pair, speculation_control=True)
    step = next(step for step in run.trace if step["decision"]["reason"] == BASE_ONLY)
    step["decision"]["goodput"]["drafting"] = 0.0
    found = recompute(run)
    assert found.differences[0].step == step["index"]
    assert BASE_ONLY in found.differences[0].problem


@pytest.mark.parametrize(
    "settings", [{"speculation_control": False}, {"speculation_control": None}, {"reproducible": True}]
)
def test_a_step_by_the_clock_in_a_run_that_was_not_controlled_is_found_by_the_audit(settings: dict[str, Any]) -> None:
    with slow_pair((2,), draft=0.03, steps=30) as pair:
        run = record(pair, speculation_control=True)
    run.manifest["config"] |= {"speculation_control": None, **settings}  # alone, so not by default
    found = recompute(run).differences
    assert found
    assert found[0].problem == "speculation control: recorded True, computed False"


@pytest.mark.parametrize(
    ("drafting", "base_only", "expected"), [(0.9, 1.0, True), (0.96, 1.0, False), (None, 1.0, True), (2.0, None, True)]
)
def test_drafting_pays_when_it_gains_something(drafting: float, base_only: float, expected: bool) -> None:
    assert pays(Goodput(drafting=drafting, base_only=base_only, runs=1)) is expected


def committed(*, drafted: bool, seconds: float) -> Step:
    reason: Any = "score_reaches_threshold" if drafted else BASE_ONLY
    decision = Decision(accepted=drafted, reason=reason, number=None, score_reduction="mean", threshold=7)
    return Step(
        index=0, author="draft" if drafted else "base", text="x", token_ids=[1] * 10, ending="blank_line", seed=0,
        decision=decision, score=None, discarded=None, costs=[], elapsed=seconds,
    )  # fmt: skip


def play(controller: SpeculationController, steps: int, drafting: float, base_only: float, runs: int = 1) -> str:
    """Who wrote each of some steps, as the controller wanted it: ``d`` the draft, ``b`` the base alone."""
    found = ""
    for _ in range(steps):
        drafted = controller.figures_for_base(runs) is None
        controller.committed(committed(drafted=drafted, seconds=drafting if drafted else base_only), runs)
        found += "d" if drafted else "b"
    return found


@pytest.mark.parametrize("runs", [1, 4, 64])
@pytest.mark.parametrize(("drafting", "better"), [(0.05, "d"), (0.2, "b")])
def test_both_arms_are_probed_and_the_better_one_stays(runs: int, drafting: float, better: str) -> None:
    found = play(SpeculationController(), 4 * INTERVAL * runs, drafting, 0.1, runs)
    assert found.startswith("d")
    assert found.count(better) > 0.9 * len(found)


def test_the_slower_arm_is_probed_at_a_fixed_interval() -> None:
    found = play(SpeculationController(), 10 * INTERVAL, 0.2, 0.1)
    stretches = [len(stretch) for stretch in found.split("d") if stretch]
    assert set(stretches[1:-1]) == {INTERVAL + 1}


def test_an_arm_that_became_the_better_one_is_found() -> None:
    controller = SpeculationController()
    assert play(controller, 4 * INTERVAL, 0.2, 0.1).endswith("b")
    assert play(controller, 20 * INTERVAL, 0.05, 0.1).endswith("d")
    assert play(controller, 20 * INTERVAL, 0.4, 0.1).endswith("b")


def test_each_load_has_its_own_figures_and_keeps_them() -> None:
    controller = SpeculationController()
    assert play(controller, 4 * INTERVAL, 0.2, 0.1).endswith("b")
    many = play(controller, 4 * INTERVAL * 64, 0.05, 0.1, runs=64)
    assert many.startswith("b")  # the better arm so far, until both are measured
    assert many.count("d") > 0.9 * len(many)
    for runs in (60, 128, 1, 2, 64, 1):  # no arm is probed anew where the load is one of those that are known
        assert set(play(controller, 10, 0.05 if runs > 2 else 0.2, 0.1, runs=runs)) == {"d" if runs > 2 else "b"}
    assert "d" in play(controller, 4 * 16, 0.2, 0.1, runs=16)


def test_steps_that_were_begun_before_a_change_are_not_measured() -> None:
    controller, runs = SpeculationController(), 4
    play(controller, runs + PROBE, 0.05, 0.1, runs)  # the probe of drafting
    for _ in range(runs):  # what was drafted meanwhile ends now, and very late
        controller.committed(committed(drafted=True, seconds=100.0), runs)
    figures = controller.figures_for_base(runs)
    assert figures
    assert figures.drafting == pytest.approx(0.005)


def test_one_slow_step_does_not_speak_against_a_draft_that_pays() -> None:
    controller = SpeculationController()
    assert play(controller, 60, 0.05, 0.1).endswith("d")
    controller.committed(committed(drafted=True, seconds=1.0), 1)
    assert play(controller, 4 * INTERVAL, 0.05, 0.1).count("d") > 3.5 * INTERVAL


def test_a_draft_that_is_dead_does_not_stop_the_runs() -> None:
    controller, told = SpeculationController(), list[Goodput | None]()
    for _ in range(4 * INTERVAL):
        told.append(controller.figures_for_base(1))
        controller.committed(committed(drafted=False, seconds=0.1), 1)  # whoever was asked
    figures = [each for each in told if each]
    assert figures
    assert None in told[len(told) // 2 :]  # the draft is asked again and again
    assert {each.drafting for each in figures} == {None}
    assert figures[-1].base_only == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("runs", "settings", "expected"),
    [
        (16, {"speculation_control": True}, True), (16, {}, True), (16, {"reproducible": True}, False),
        (16, {"speculation_control": False}, False), (4, {}, False), (4, {"speculation_control": True}, True),
    ],
)  # fmt: skip
def test_many_runs_are_controlled_together(*, runs: int, settings: dict[str, Any], expected: bool) -> None:
    with slow_pair((2,), draft=0.05, steps=12) as pair:
        graph = create_specreason(pair, **settings).compile()
        asyncio.run(graph.abatch([QUESTION] * runs))
        outcomes = asyncio.run(graph.abatch([QUESTION] * runs))
    written = [step["decision"]["reason"] for outcome in outcomes for step in outcome["trace"]]
    controlled = written.count(BASE_ONLY) + written.count(PROBED)
    assert controlled > len(written) / 2 if expected else controlled == 0


@pytest.mark.parametrize("timed", [{"speculation_control": True}, {"deadline_seconds": 5.0}, {"step_seconds": 1.0}])
def test_what_goes_by_the_clock_cannot_be_reproducible(timed: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"reproducible = True, and {next(iter(timed))} goes by the clock"):
        make_config(reproducible=True, **timed)


def test_a_version_begun_early_is_the_one_that_is_committed() -> None:
    with slow_pair((2,), draft=0.01, base=0.02) as pair:
        create_specreason(pair, lookahead=4).compile().invoke(QUESTION)
        hedged = pair.base.most  # type: ignore[attr-defined]
        calls = [(call.kind, tuple(call.prompt_ids)) for call in pair.base.calls]  # type: ignore[attr-defined]
    assert hedged >= 2  # it wrote while it scored
    assert len(calls) == len(set(calls))
