"""Tuning: steps are collected and labelled, strategies replayed, the best run for real, and the choice written down."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from specreason_graph.config import SpecReasonConfig, make_config, read_config_file
from specreason_graph.judging import Cascade, ConfidenceJudge, DigitJudge, LikelihoodJudge
from specreason_graph.runs.launch import make_launch
from specreason_graph.tuning.choose import Choice, Outcome, Tried, choose, finalists, replay_all, would_change
from specreason_graph.tuning.page import bound_sentence
from specreason_graph.tuning.replay import Candidate, estimate, replay, score_seconds, until_settled
from specreason_graph.tuning.risk import control_risk
from specreason_graph.tuning.settings_file import MARK, changed, settings_text, write_settings
from tests.support.tuned import COSTS, outcome, place, solution

Command = Callable[..., Any]
LIKELY = Candidate(name="likely", settings={"judge": {"kind": "likelihood", "threshold": -1}, "lookahead": 0})


def test_a_time_line_of_two_models() -> None:
    found = replay(LIKELY, solution(place(-0.5), place(-0.5), place(-3, harmful=True)), COSTS)
    # each step is drafted (1 s) and scored (2 s), and the last one is written again (10 s); then the answer (5 s)
    assert [found.seconds, found.base_seconds] == pytest.approx([3 * 3 + 10 + 5, 35])
    assert (found.scored, found.accepted, found.lost) == (3, 2, False)
    ahead = LIKELY.model_copy(update={"settings": {**LIKELY.settings, "lookahead": None}})
    # ahead the draft takes 2 s beside the base, and writes the next step while the last one is scored
    assert replay(ahead, solution(place(-0.5), place(-0.5)), COSTS).seconds == pytest.approx(2 + 2 + 2 + 5)


def test_an_answer_is_lost_behind_a_harmful_step_that_gets_in() -> None:
    harmed = solution(place(-0.5), place(-0.5, harmful=True))
    assert replay(LIKELY, harmed, COSTS).lost
    assert not replay(LIKELY, harmed.model_copy(update={"right": False}), COSTS).lost
    found = estimate(LIKELY, [harmed, solution(place(-0.5)), solution(place(-0.5), right=False)], COSTS)
    assert (found.lost, found.acceptance) == (0.5, 1.0)
    assert estimate(LIKELY, [solution(place(-9, harmful=True))], COSTS, all_in=True).acceptance == 1


def test_an_early_exit_takes_the_answer_that_no_longer_changes() -> None:
    places = [place(-0.5, probe=probe, right=probe == "3") for probe in ("1", "3", "3", "3", "3")]
    stopping = make_config(stopping={"kind": "settled", "agree": 3}).stopping
    assert until_settled(places, stopping) == (places[:3], True)
    wrong = [place(-0.5, probe="1", right=False)] * 4
    assert until_settled(wrong, stopping) == (wrong[:2], False)
    assert until_settled(places[:2], stopping) == (places[:2], None)
    assert until_settled(places, make_config().stopping) == (places, None)
    early = LIKELY.model_copy(update={"settings": {**LIKELY.settings, "stopping": {"kind": "settled", "agree": 3}}})
    assert replay(early, solution(*wrong), COSTS).lost


def test_a_score_costs_what_its_judge_needs() -> None:
    sure, unsure = place(-0.01).score, place(-5).score
    assert sure is not None
    assert unsure is not None
    cascade = Cascade(first=ConfidenceJudge(), low=-12, high=-0.1, then=LikelihoodJudge())
    assert (score_seconds(cascade, sure, COSTS), score_seconds(cascade, unsure, COSTS)) == (0, 2)
    assert score_seconds(ConfidenceJudge(), sure, COSTS) == 0
    assert score_seconds(DigitJudge(), sure, COSTS) == 3


def test_thresholds_are_chosen_by_what_they_lose() -> None:
    told = [solution(place(-0.1), place(-3), place(-40, harmful=True), name=str(number)) for number in range(60)]
    found = replay_all(told, COSTS, alpha=0.1, delta=0.1)
    by_name = {each.judge: each for each in found.tried}
    likelihood = by_name["likelihood"]
    assert -40 < likelihood.candidate.judge.threshold < -3
    assert likelihood.bound is not None
    assert (likelihood.bound.threshold, likelihood.bound.questions) == (likelihood.candidate.judge.threshold, 60)
    assert (likelihood.estimate.lost, round(likelihood.estimate.acceptance, 2)) == (0, 0.67)
    assert bound_sentence(likelihood) == "at most 10%, shown on 60 right answers"
    assert by_name["confidence"].estimate.faster > likelihood.estimate.faster  # it costs nothing, and is as able here
    assert by_name["calibrated on 180 steps"].bound is None
    assert {each.judge for each in found.discernment} >= {"likelihood", "confidence", "digit", "check"}
    few = replay_all(told[:10], COSTS, alpha=0.1, delta=0.1)
    small = next(each for each in few.tried if each.judge == "likelihood")
    assert "not shown by 10 right answers: 29 would do" in bound_sentence(small)
    assert len(would_change(found.tried, told, COSTS)) == 4
    assert len({each.candidate.name for each in finalists(found.tried)}) == len(finalists(found.tried))


def test_steps_without_a_label_leave_no_bound() -> None:
    told = [solution(place(-0.1), place(-3, harmful=None), name=str(number)) for number in range(60)]
    assert all(each.bound is None for each in replay_all(told, COSTS, alpha=0.1, delta=0.1).tried)
    assert replay_all([solution(place(-1), right=False)], COSTS, alpha=0.1, delta=0.1).discernment == []


def tried(name: str, faster: float, let_in: list[bool], **settings: Any) -> Tried:
    candidate = Candidate(name=name, settings={"judge": "likelihood", **settings})
    told = estimate(candidate, [solution(place(-1))], COSTS).model_copy(update={"faster": faster})
    return Tried(candidate=candidate, judge=name, estimate=told, bound=None, let_in=let_in)


def test_the_few_that_are_run_for_real() -> None:
    one, same, other = tried("one", 1.5, [True]), tried("same", 1.4, [True]), tried("other", 1.2, [False])
    assert [each.candidate.name for each in finalists([one, same, other])] == ["one", "one, in turns", "other"]
    close = tried("close, in turns", 1.1, [True], lookahead=0)
    names = [each.candidate.name for each in finalists([close, tried("bad", 0.5, [False])])]
    assert names == ["close, in turns", "close", "close, in turns, controlled"]
    assert finalists([close])[1].candidate.config.lookahead is None
    assert finalists([close])[2].candidate.config.speculation_control
    assert finalists([]) == []
    bound = control_risk([(-1.0, [0.0] * 100)])
    shown = tried("shown", 1.4, [True]).model_copy(update={"bound": bound})
    assert [each.candidate.name for each in finalists([one, shown])] == ["shown", "shown, in turns", "one"]
    slow = tried("slow", 1.3, [True]).model_copy(update={"bound": bound})
    assert [each.candidate.name for each in finalists([one, slow])] == ["one", "one, in turns"]


@pytest.mark.parametrize(
    ("outcomes", "chosen", "says"),
    [
        ([], None, "no threshold of any judge loses few enough answers"),
        ([outcome("a", 1.3, 1.2), outcome("b", 1.5, 1.4)], "b", "b is 1.50 times as fast as the base alone"),
        ([outcome("a", 1.4, 1.2, shown=True), outcome("b", 1.5, 1.4)], "a", "a is 1.40"),
        ([outcome("a", 1.3, 1.2, shown=True), outcome("b", 1.5, 1.4)], "b", "b is 1.50"),
        ([outcome("a", 1.5, 1.4, lost=9), outcome("b", 1.2, 1.1)], "b", "38 of 40 answers are right"),
        ([outcome("a", 1.5, 1.4, lost=9)], None, "a is 1.50 times as fast (1.40 to 1.60), but loses 9"),
        ([outcome("a", 0.8, 0.7), outcome("b", 1.02, 0.9)], None, "the best one, b is 1.02"),
        ([outcome("a", 1.2, 0.9)], None, "more questions may tell"),
    ],
)  # fmt: skip
def test_the_choice(outcomes: list[Outcome], chosen: str | None, says: str) -> None:
    best, why = choose(outcomes, alpha=0.1)
    assert (best and best.candidate.name, says in why) == (chosen, True)


def test_the_file_gives_the_settings_back(tmp_path: Path) -> None:
    options = {"base_options": {"context": 1000}, "draft_options": {}}
    launch = make_launch("", None, {"engine": "vllm", "base": "b"}, {"temperature": 0, "seed": 3}, options)
    judge = Cascade(first=ConfidenceJudge(), low=-12, high=-0.1, then=LikelihoodJudge(threshold=-2)).model_dump()
    best = outcome("cascade", 1.5, 1.4)
    best = best.model_copy(update={"candidate": Candidate(name="c", settings={"judge": judge, "lookahead": 0})})
    text = settings_text(launch, Choice(chosen=best, why="because\nof it"), "4 questions of a\nb")
    (tmp_path / "specreason.toml").write_text(text)
    assert text.splitlines()[:2] == [f"{MARK}, on 4 questions of a b.", "# because of it."]
    read = make_launch("", tmp_path / "specreason.toml")
    assert read.model_copy(update={"settings": {}}) == launch.model_copy(update={"settings": {}})
    assert make_config(**read.settings) == make_config(temperature=0, seed=3, judge=judge, lookahead=0)
    alone = tomllib.loads(settings_text(launch, Choice(chosen=None, why="so"), "it"))
    assert alone["first_steps_by_base"] > SpecReasonConfig().max_steps
    assert "judge" not in alone


def test_only_what_is_chosen_is_written() -> None:
    assert changed(SpecReasonConfig()) == {}
    assert changed(make_config(judge={"kind": "likelihood", "threshold": -3})) == {
        "judge": {"kind": "likelihood", "threshold": -3}
    }


def test_a_file_of_the_users_own_is_kept_beside(tmp_path: Path) -> None:
    file = tmp_path / "specreason.toml"
    file.write_text('base = "mine"\n')
    assert write_settings(file, f"{MARK}\n") == tmp_path / "specreason.toml.before"
    assert (tmp_path / "specreason.toml.before").read_text() == 'base = "mine"\n'
    assert write_settings(file, f"{MARK}, again\n") is None
    assert file.read_text() == f"{MARK}, again\n"


def _right_by_rule(told: dict[str, Any]) -> dict[str, int]:
    """Right answers of the strategies that do not go by the clock: a controlled one may draft elsewhere each time."""
    return {
        each["candidate"]["name"]: each["right_count"]
        for each in told["outcomes"]
        if not each["candidate"]["settings"].get("speculation_control")
    }


def test_tuning_the_built_in_pair_can_be_killed_anywhere(
    here: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("tune", "abacus-short", "--questions", "6", "--set", "temperature=0", "--set", "seed=3", "--json")
    found = here(*command)
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout)
    folder = tmp_path / "tune-abacus-short"
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in steps] == ["tune", "pair", *["solution"] * 6]
    assert steps[1]["cached"] == {"base": True, "draft": True}
    places = [place for line in steps[2:] for place in line["places"] if place["score"]]
    assert {place["harmful"] for place in places} >= {True, False}
    assert all(place["probe"] for place in places)
    settings = read_config_file(tmp_path / "specreason.toml")
    assert (settings["base"], settings["draft"], settings["seed"]) == ("abacus-base", "abacus-draft", 3)
    page = (folder / "tune.html").read_text()
    assert "Content-Security-Policy" in page
    assert "http://" not in page.replace("http://www.w3.org", "")

    # killed in mid-line, and in the middle of the runs: the same command goes on, and ends with the same answers
    whole = (folder / "steps.jsonl").read_bytes()
    (folder / "steps.jsonl").write_bytes(whole[: int(len(whole) * 0.7)])
    runs = (folder / "runs.jsonl").read_text().splitlines(keepends=True)
    (folder / "runs.jsonl").write_text("".join(runs[:-7]) + runs[-7][:20])
    found = here(*command)
    assert "picked up specreason.toml" in found.stderr  # its own choice of before is no setting of the user
    again = json.loads(found.stdout)
    for key in ("question_count", "base_right_count", "task"):
        assert again[key] == told[key]
    assert [each["candidate"] for each in again["outcomes"]] == [each["candidate"] for each in told["outcomes"]]
    assert _right_by_rule(again) == _right_by_rule(told) != {}
    assert "collected" not in here(*command).stderr

    other = here("tune", "abacus-short", "--questions", "6", "--set", "temperature=0.5")
    assert (other.returncode, "of another tuning: its settings.temperature is 0.0" in other.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jsonl"], "cannot read the task 'missing.jsonl'"),
        (["abacus", "--set", "judge.threshold=3"], "judge is chosen by tune"),
        (["abacus", "--risk", "0"], "--risk 0 is not allowed"),
        (["abacus", "--confidence", "1"], "--confidence 1 is not allowed"),
        (["abacus", "--grader", "nobody"], "there is no grader 'nobody'"),
        (["bad.jsonl"], "bad.jsonl, line 1: it is not JSON"),
    ],
)
def test_bad_input_is_one_line_before_any_engine(
    arguments: list[str], message: str, here: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text("{\n")
    found = here("tune", *arguments)
    assert (found.returncode, message in found.stderr, len(found.stderr.splitlines())) == (2, True, 1)
    assert not (tmp_path / "specreason.toml").exists()
