"""`specreason plan`: its arithmetic in simulated time, the records and files it reads, and what it advises."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver

from benchmarks import plan as benchmark
from specreason_graph import EnginePair, create_specreason
from specreason_graph.cli.app import run as run_command
from specreason_graph.config import NEVER
from specreason_graph.errors import ConfigError
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.planning.costs import PassCosts, Row
from specreason_graph.planning.descriptions import (
    Described,
    Hardware,
    Measured,
    Model,
    TokenSpeculation,
    describe,
    shipped,
)
from specreason_graph.planning.descriptions import preset as preset_of
from specreason_graph.planning.plan import make_plan
from specreason_graph.planning.profile import (
    Outcome,
    QuestionProfile,
    RunProfile,
    StepProfile,
    acceptance,
    persistence,
    published_profile,
    read_profile,
    with_acceptance,
)
from specreason_graph.planning.simulation import Simulated, simulate
from specreason_graph.planning.strategies import BASE, KNOWN, STEPWISE, Planned, parse_strategy
from tests.support.scripts import stepwise

Command = Callable[..., subprocess.CompletedProcess[str]]
ACCEPTED: list[Outcome] = ["accepted"]
REJECTED: list[Outcome] = ["rejected"]
H200 = ("--hardware", "h200", "--base", "Qwen/Qwen3-32B", "--draft", "qwen3-1.7b")
QWQ = ("--base", "qwq-32b", "--draft", "r1-1.5b")
PAPER, LIKELIHOOD, CONFIDENCE = KNOWN["paper"], KNOWN["likelihood"], KNOWN["confidence"]


def machine(**changes: Any) -> Hardware:
    """One on which nothing takes time but the passes."""
    none = {"call_seconds": 0, "stage_seconds": 0, "slowdown": 1, "block": 1}
    return Hardware(**{"name": "test", "bandwidth": 1e12, "flops": 1e12, "memory": 1e12, **none, **changes})


def pair(base: dict[int, float], draft: dict[int, float], prefill: float = 0.0, **hardware: Any) -> Described:
    """A pair of which passes take so many seconds."""
    models = {
        name: Model(name=name, parameters=1e9, measured=Measured(passes=passes, prefill=prefill))
        for name, passes in (("base", base), ("draft", draft))
    }
    guessing = TokenSpeculation(name="guess", guessed=3, tokens_a_round=2.0, round_cost=1.0)
    return Described(hardware=machine(**hardware), speculation=guessing, **models)


def question(*outcomes: Outcome, draft: int = 10, base: int = 10, answer: int = 0) -> QuestionProfile:
    steps = [StepProfile(draft_tokens=draft, base_tokens=base, outcome=each) for each in outcomes]
    return QuestionProfile(prompt_tokens=100, steps=steps, answer_tokens=answer)


def seconds(described: Described, strategy: Planned, *asked: QuestionProfile, concurrency: int = 1) -> float:
    return simulate(described, asked, strategy, concurrency).seconds


SLOW = pair({1: 1.0}, {1: 0.1})
"""A base of a second a token, and a draft of a tenth."""


def test_the_loop_in_turns_costs_what_its_calls_cost() -> None:
    # Two drafts of 10 tokens, two scores of a pass, and one step of the base.
    assert seconds(SLOW, PAPER, question("accepted", "rejected")) == pytest.approx(2 * 1.0 + 2 * 1.0 + 10.0)
    assert seconds(SLOW, CONFIDENCE, question("rejected", "unscored")) == pytest.approx(2 * 1.0 + 20.0)
    assert seconds(SLOW, PAPER, question("unasked", answer=5)) == pytest.approx(10.0 + 5.0)
    assert seconds(SLOW, BASE, question("accepted", "rejected")) == pytest.approx(20.0)
    assert seconds(SLOW, STEPWISE, question("accepted", "rejected")) == pytest.approx(20.0)


def test_a_judge_reads_what_it_has_to() -> None:
    reading = pair({1: 1.0}, {1: 0.1}, prefill=0.01)
    asked = question("accepted", "accepted", draft=10)
    # The first draft reads the prompt of 100, the second one the token written last; a token is part of each pass.
    drafting = 2 * 10 * 0.1 + 99 * 0.01
    # Each pass has one token already: the prompt and the step, then the step that was not seen, and the instruction.
    digit = 2 * 1.0 + (110 + 70 - 1) * 0.01 + (10 + 70 - 1) * 0.01
    likelihood = 2 * 1.0 + (110 - 1) * 0.01 + (10 - 1) * 0.01
    assert seconds(reading, PAPER, asked) == pytest.approx(drafting + digit)
    assert seconds(reading, LIKELIHOOD.model_copy(update={"lookahead": 0}), asked) == pytest.approx(
        drafting + likelihood
    )


def test_work_ahead_hides_the_score_and_is_lost_when_it_is_rejected() -> None:
    ahead = PAPER.model_copy(update={"lookahead": 4})
    good, bad = question(*ACCEPTED * 6), question(*REJECTED * 6)
    # Scores of 1 s go on while the next steps, of 1 s each, are drafted: only the last one is waited for.
    assert seconds(SLOW, PAPER, good) == pytest.approx(12.0)
    assert seconds(SLOW, ahead, good) == pytest.approx(7.0)
    # Behind the first rejection the base hedges: it writes while the draft does, and the draft's work is all lost.
    assert seconds(SLOW, PAPER, bad) == pytest.approx(72.0)
    assert seconds(SLOW, ahead, bad) == pytest.approx(12.0 + 5 * 10.0)
    # On one device the draft and the score slow each other down, and nothing is won.
    shared = pair({1: 1.0}, {1: 0.1}, slowdown=2)
    assert seconds(shared, PAPER, good) == pytest.approx(12.0)
    assert seconds(shared, ahead, good) == pytest.approx(12.0)


def test_calls_share_passes_or_take_turns() -> None:
    asked = [question("accepted")] * 4
    batching = pair({1: 1.0, 4: 1.6}, {1: 0.1})
    assert seconds(batching, BASE, *asked, concurrency=4) == pytest.approx(10 * 1.6)
    assert seconds(batching, BASE, *asked, concurrency=2) == pytest.approx(2 * 10 * 1.2)
    embedded = pair({1: 1.0}, {1: 0.1}, batching=False, slots=2)
    assert seconds(embedded, BASE, *asked, concurrency=4) == pytest.approx(40.0)
    # A score goes between the passes of a generation, so it does not wait for a whole step.
    long = [question("rejected", base=50), question("accepted")]
    turns = simulate(embedded, long, PAPER, 2)
    assert turns.waited["score"] < 5.0


def test_token_level_speculation_takes_fewer_passes() -> None:
    faster = KNOWN["base+speculation"]
    assert seconds(SLOW, faster, question("accepted", "rejected")) == pytest.approx(10.0)
    assert SLOW.speculation.tokens_a_round == 2


def test_this_packages_own_work_is_one_process_for_all_runs() -> None:
    busy = pair({1: 1e-6}, {1: 1e-6}, stage_seconds=1.0)
    found = simulate(busy, [question("accepted", "rejected")] * 3, PAPER, 3)
    assert found.seconds == pytest.approx(3 * (2 + 3 + 3), rel=1e-3)  # prepare, finalize, and three stages a step
    assert found.busy["overhead"] == pytest.approx(1.0, rel=1e-3)
    two_cores = pair({1: 1.0}, {1: 1.0}, cores=1)
    assert seconds(two_cores, PAPER.model_copy(update={"lookahead": 4}), question(*ACCEPTED * 6)) > 60


def test_a_roofline_reads_weights_once_for_all_sequences() -> None:
    costs = PassCosts(machine(bandwidth_efficiency=1, flops_efficiency=1, pass_seconds=0), Model(
        name="m", parameters=5e8, kv_bytes=1000))  # fmt: skip
    assert costs.seconds([Row(1, 0)]) == pytest.approx(1e-3)  # 1 GB at 1 TB/s
    assert costs.seconds([Row(1, 1000)] * 10) == pytest.approx(1e-2)  # ten sequences are bound by operations
    assert costs.seconds([Row(100, 0)]) == pytest.approx(0.1)
    experts = PassCosts(costs.hardware, Model(name="moe", parameters=5e8, active=5e7))
    assert experts.seconds([Row(1, 0)]) == pytest.approx(1e-4)
    assert 1e-4 < experts.seconds([Row(1, 0)] * 4) < 1e-3


def test_the_roofline_holds_against_published_rates() -> None:
    for rate in shipped("published.toml")["rate"]:
        costs = PassCosts(Hardware(**preset_of("hardware", "h20")), Model(**preset_of("model", rate["model"])))
        assert 1 / costs.seconds([Row(1, 500)]) == pytest.approx(rate["tokens_a_second"], rel=0.1), rate["model"]


def test_public_runs_are_drawn_with_their_persistence() -> None:
    asked = published_profile(count=200).under("digit")
    lengths = sorted(step.draft_tokens for each in asked for step in each.steps)
    assert lengths[len(lengths) // 2] == pytest.approx(18, abs=1)
    assert lengths[len(lengths) * 9 // 10] == pytest.approx(58, abs=3)
    assert acceptance(asked) == pytest.approx(0.79, abs=0.03)
    assert persistence(asked) == pytest.approx(0.67, abs=0.05)
    other = with_acceptance(asked, 0.4)
    assert acceptance(other) == pytest.approx(0.4, abs=1e-4)
    assert persistence(other) == pytest.approx(0.67, abs=0.1)


def test_more_acceptance_is_faster_and_the_break_even_is_where_it_meets_the_base() -> None:
    profile = RunProfile(source="test", drafted={"digit": [question(*ACCEPTED * 20)]}, alone=[
        question(*ACCEPTED * 20)])  # fmt: skip
    rows = [make_plan(SLOW, profile, [PAPER], share=share).rows[1] for share in (0.0, 0.2, 0.5, 1.0)]
    # Draft and score take 2 s of the 10 s of a step of the base.
    assert [row.times_base for row in rows] == pytest.approx([10 / 12, 1.0, 10 / 7, 5.0], rel=0.01)
    assert rows[0].break_even == pytest.approx(0.2, abs=0.01)
    assert rows[0].dominant == "regenerate"
    advice = make_plan(SLOW, profile, [PAPER], share=0.1).advice
    assert advice == (
        "One question at a time use the base alone (1.00): paper gives 0.91, and would pay from 20% accepted on."
    )
    assert "use paper, 5.00 times as fast as the base alone" in make_plan(SLOW, profile, [PAPER], share=1.0).advice


def test_the_simulation_may_be_called_where_a_loop_runs() -> None:
    async def call() -> Simulated:
        return simulate(SLOW, [question("accepted")], PAPER)

    assert asyncio.run(call()).accepted == 1


@pytest.fixture
def specreason(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``specreason`` in this process, without a pair."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = run_command(list(arguments))
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A database with runs of the loop, of which every third proposal is rejected, and of the base alone."""
    file = tmp_path / "runs.sqlite"
    with SqliteSaver.from_conn_string(str(file)) as saver, stepwise(6, [9, 9, 2]) as scripted:
        for name, first in (("loop", 0), ("alone", NEVER)):
            graph = create_specreason(scripted, first_steps_by_base=first).compile(checkpointer=saver)
            graph.invoke({"question": "Which?"}, {"configurable": {"thread_id": name}})
    return file


def test_recorded_runs_give_steps_and_acceptance(records: Path) -> None:
    profile = read_profile(records, ["digit", "likelihood"])
    (looped,) = profile.under("digit")
    assert [step.outcome for step in looped.steps[:6]] == ["accepted", "accepted", "rejected"] * 2
    assert profile.is_alone_recorded
    assert {step.outcome for step in profile.alone[0].steps} == {"unasked"}
    assert looped.steps[2].base_tokens == len("Step 2 of the base.\n\n")
    assert looped.steps[2].draft_tokens == len("Step 2 of the draft.\n\n")
    assert list(profile.drafted) == ["digit"], "the record tells no likelihood"


def test_the_command_predicts_from_records(records: Path, specreason: Command) -> None:
    done = specreason("plan", *H200, "--db", str(records), "--strategy", "digit", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["strategy"] for row in found["rows"]] == ["base", "digit"]
    assert found["rows"][1]["acceptance"] == pytest.approx(2 / 3)
    assert any("2 recorded runs" in line for line in found["assumptions"])


def test_the_command_shows_a_table_assumptions_and_advice(specreason: Command) -> None:
    done = specreason("plan", *H200, "--strategy", "paper", "--strategy", "digit:lookahead=0,acceptance=0.5")
    assert done.returncode == 0, done.stderr
    assert "digit:lookahead=0,acceptance=0.5" in done.stdout
    assert "Assumed:" in done.stdout
    assert "ms a token (65.6 GB of weights at 75% of 4.80 TB/s" in done.stdout
    assert "One question at a time use " in done.stdout.splitlines()[-1]


OWN = """
[hardware]
like = "h200"
bandwidth_efficiency = 0.8
[base]
like = "qwen3-32b"
[base.measured]
passes = { 1 = 0.02, 16 = 0.025 }
[draft]
name = "my draft"
parameters = 2e9
"""


def test_a_file_describes_what_is_not_known_here(tmp_path: Path, specreason: Command) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(OWN)
    described = describe(file=file)
    assert described.hardware.bandwidth == 4.8e12
    assert described.base.measured.passes == {1: 0.02, 16: 0.025}
    assert PassCosts(described.hardware, described.base).seconds([Row(1, 0)] * 7) == pytest.approx(0.022)
    assert specreason("plan", "--config", str(file), "--strategy", "paper").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--hardware", "h300", *QWQ), "--hardware 'h300' is not known here; known: h200"),
        (("--hardware", "h200"), "no base is named; give --base, one of qwen3-32b"),
        (("--hardware", "a10", *QWQ), "have 69 GB of weights, and NVIDIA A10 has 24 GB"),
        ((*H200, "--strategy", "papre"), "there is no strategy 'papre' to plan; known: base, stepwise"),
        ((*H200, "--strategy", "paper:lookahead=99"), "lookahead = 99 in the strategy"),
        ((*H200, "--strategy", "paper:x=9"), "'x=9' in the strategy 'paper:x=9' is not allowed; write NAME:setting"),
        ((*H200, "--acceptance", "1.5"), "'--acceptance': Input should be less than or equal to 1"),
        ((*H200, "--speculation", "medusa"), "--speculation 'medusa' is not known here; known: eagle3, ngram"),
        ((*H200, "--db", "nowhere.sqlite"), "nowhere.sqlite"),
    ],
)  # fmt: skip
def test_errors_name_the_value_what_is_allowed_and_the_fix(
    arguments: tuple[str, ...], told: str, specreason: Command
) -> None:
    done = specreason("plan", *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[hardwear]", "unknown table 'hardwear'; known tables: hardware, base"),
        ("hardware = 3", "hardware = 3 is not allowed; write a table [hardware]"),
        ("[hardware]\nlike = 'h200'\nbandwith = 1", "unknown figure 'hardware.bandwith'; known: name, bandwidth"),
        (
            "[hardware]\nlike = 'h200'\nbandwidth = -1",
            "hardware.bandwidth = -1 is not allowed: input should be greater",
        ),
        ("[hardware]\nname = 'x'", "hardware.bandwidth is missing; write it, or name a preset with like"),
    ],
)
def test_bad_files_are_told_in_one_line(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r".") as caught:
        describe(base="qwen3-32b", draft="qwen3-1.7b", file=file)
    assert told in str(caught.value)


def test_strategies_are_read_as_they_are_written() -> None:
    assert parse_strategy("paper") is not PAPER
    assert parse_strategy("likelihood:lookahead=2,acceptance=0.7").lookahead == 2
    assert parse_strategy("digit:lookahead=none").lookahead is None
    assert parse_strategy("base+speculation").token_speculation


def test_a_plan_is_held_against_measured_runs_of_the_reference_pair(abacus: EnginePair, tmp_path: Path) -> None:
    found = benchmark.calibrate(abacus, "transformers", 2, held_out()[:2])
    assert found.hardware.slots == 2
    assert not found.hardware.batching
    assert found.base.measured.passes[1] > found.draft.measured.passes[1] > 0
    file = tmp_path / "measured.json"
    file.write_text(found.model_dump_json())
    assert describe(file=file) == found
    errors = benchmark.compare(abacus, found, 2, 1, repeats=1)
    assert [each.strategy for each in errors] == ["base", "sequential", "digit", "likelihood", "cascade"]
    assert (errors[0].measured, errors[0].error, errors[0].error_of_costs) == (1, 0, 0)
    assert all(each.seconds > 0 and each.predicted_seconds > 0 for each in errors)
    assert len(list(benchmark.lines(errors))) == 7
    assert len(list(benchmark.calibration_lines(found))) == 3
