"""The figures of `bench speed` and `bench length`: their arithmetic, and that both run. No seconds are asserted."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.overhead import overhead_lines, run_overhead
from specreason_graph import EnginePair, Step, create_specreason, open_pair
from specreason_graph.bench.efficiency import committed_costs, seconds_measured, seconds_per_token, seconds_unloaded
from specreason_graph.bench.random_draft import write_random_draft
from specreason_graph.bench.scenarios import BASE_ONLY, SCENARIOS, SEQUENTIAL, Scenario, choose, rotated, with_draft
from specreason_graph.bench.speed import SpeedBenchmark, make_row, parts
from specreason_graph.bench.table import speed_lines
from specreason_graph.bench.workload import Workload, run_all
from specreason_graph.errors import UsageError
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.record.records import Author, Cost, Decision, Engine, Purpose, Usage
from specreason_graph.record.summary import Summary
from tests.support.scripts import stepwise

Command = Callable[..., subprocess.CompletedProcess[str]]
STEPS = 4


def cost(engine: Engine, purpose: Purpose, seconds: float, tokens: int, *, wasted: bool = False) -> Cost:
    usage = Usage(calls=1, prompt_tokens=50, generated_tokens=tokens, seconds=seconds)
    return Cost(engine=engine, purpose=purpose, usage=usage, wasted=wasted)


def step(author: Author, costs: list[Cost]) -> Step:
    decision = Decision(accepted=author == "draft", reason="score_reaches_threshold", number=9, score_reduction="mean",
                        threshold=7)  # fmt: skip
    return Step(index=0, author=author, text="x\n\n", token_ids=[1], ending="blank_line", seed=0, decision=decision,
                score=None, discarded=None, costs=costs)  # fmt: skip


ACCEPTED = step("draft", [
    cost("draft", "draft", 0.25, 10), cost("base", "score", 0.5, 1), cost("base", "regenerate", 9, 90, wasted=True),
    cost("draft", "draft", 9, 90, wasted=True),
])  # fmt: skip
REWRITTEN = step("base", [
    cost("base", "regenerate", 9, 90, wasted=True), cost("draft", "draft", 0.25, 10), cost("base", "score", 0.5, 1),
    cost("base", "regenerate", 2, 20),
])  # fmt: skip
WRITTEN_BY_HAND = step("human", [cost("draft", "draft", 0.25, 10), cost("base", "score", 0.5, 1)])
TOTAL = Summary(steps=3, proposals=3, accepted=1, discarded=Usage(), costs=[
    cost("draft", "draft", 1, 30), cost("base", "answer", 1, 10),
])  # fmt: skip


def test_only_committed_work_counts() -> None:
    costs = committed_costs([ACCEPTED, REWRITTEN, WRITTEN_BY_HAND], TOTAL)
    assert [(each.engine, each.purpose) for each in costs] == [
        ("draft", "draft"), ("base", "regenerate"), ("base", "answer")
    ]  # fmt: skip
    assert seconds_measured(costs) == 0.25 + 2 + 1
    assert seconds_unloaded(costs, {"draft": 0.5, "base": 0.25}) == 10 * 0.5 + (20 + 10) * 0.25


def test_the_time_of_a_token_is_the_median_of_an_engines_calls() -> None:
    costs = [cost("draft", "draft", 1, 10), cost("draft", "draft", 9, 10), cost("draft", "draft", 2, 10),
             cost("base", "answer", 100, 1), cost("draft", "draft", 5, 0)]  # fmt: skip
    assert seconds_per_token(costs, "draft") == 0.2
    assert seconds_per_token([], "base") == 0


def workload(seconds: float, needed: float, *, right: float = 1.0, proposals: int = 4, traces: str = "ab") -> Workload:
    return Workload(seconds=seconds, running=2 * seconds, needed=needed, needed_unloaded=needed / 2, right=right,
               proposals=proposals, accepted=proposals // 2, traces=list(traces))  # fmt: skip


def test_ratios_are_taken_in_each_repeat() -> None:
    workloads = {
        "base only": [workload(10, 10, proposals=0), workload(100, 100, proposals=0), workload(10, 10, proposals=0)],
        "sequential": [workload(8, 8), workload(80, 80), workload(8, 8)],
        "lookahead 4": [workload(5, 4), workload(40, 60, right=0.7, traces="ac"), workload(2, 2)],
    }
    row = make_row(Scenario(name="lookahead 4"), 2, workloads, 7, "given")
    assert (row.faster, row.faster_least, row.faster_most, row.faster_than_sequential) == (2.5, 2, 5, 2)
    assert (row.seconds, row.efficiency_measured, row.efficiency_unloaded) == (5, 0.5, 0.25)
    assert row.right == pytest.approx(0.9)
    assert (row.base_right, row.accepted) == (1, 0.5)
    assert row.same == pytest.approx(5 / 6)
    assert make_row(BASE_ONLY, 2, workloads, 7, "given").accepted is None
    assert (
        make_row(BASE_ONLY, 2, {BASE_ONLY.name: workloads[BASE_ONLY.name]}, 7, "given").faster_than_sequential is None
    )
    assert make_row(BASE_ONLY, 2, {BASE_ONLY.name: workloads[BASE_ONLY.name]}, 7, "given").same is None
    head, line = speed_lines([row])
    assert len(head) == len(line)
    assert line.split()[:5] == ["lookahead", "4", "2", "5.00", "2.50"]


def test_scenarios_take_turns_on_parts_of_the_problems() -> None:
    problems = held_out()[:100]
    for concurrency, sizes in [(1, 10 * [10]), (4, [33, 33, 34]), (16, [100]), (64, [100])]:
        found = parts(problems, concurrency)
        assert [len(part) for _, part in found] == sizes
        assert [problem for _, part in found for problem in part] == list(problems)
        assert all(part[0] is problems[first] for first, part in found)
    whole = workload(4, 2, right=0.5) + workload(2, 1)
    assert (whole.seconds, whole.running, whole.needed, whole.right, len(whole.traces)) == (6, 12, 3, 0.75, 4)


def test_scenarios_are_chosen_by_name_and_by_draft() -> None:
    assert rotated(SCENARIOS, 1)[0] is SCENARIOS[1]
    assert {scenario.name for scenario in rotated(SCENARIOS, 7)} == {scenario.name for scenario in SCENARIOS}
    assert choose(None) == list(SCENARIOS)
    assert choose(["sequential"]) == [BASE_ONLY, SEQUENTIAL]
    assert with_draft(choose(["bad draft"]), "given") == []
    assert with_draft([BASE_ONLY], "given") == [BASE_ONLY]
    assert [scenario.name for scenario in with_draft(SCENARIOS, "random")] == [
        "base only", "bad draft", "bad draft, controlled",
    ]  # fmt: skip
    assert with_draft([BASE_ONLY, SEQUENTIAL], "random") == []
    with pytest.raises(UsageError, match="known scenarios: base only"):
        choose(["faster"])


def scripted_pair() -> EnginePair:
    """Four steps, the third of them rejected."""
    return stepwise(STEPS, (9, 9, 2), draft=0.002, base=0.004)


def test_the_whole_bench_on_scripted_engines() -> None:
    with scripted_pair() as pair:
        told: list[str] = []
        bench = SpeedBenchmark(
            pair, "given", with_draft(SCENARIOS, "given"), held_out()[:2], repeats=2, report=told.append
        )
        found = bench.measure(2)
    rows = {row.scenario: row for row in found.rows}
    assert list(rows) == ["base only", "sequential", "lookahead 4", "adaptive", "controlled"]
    assert rows["base only"].faster == rows["sequential"].faster_than_sequential == 1
    assert rows["base only"].accepted is None
    assert rows["sequential"].accepted == 3 / 4
    assert all(row.efficiency_measured and row.efficiency_unloaded for row in found.rows)
    assert found.calibration.base_seconds
    assert found.calibration.draft_seconds
    assert [line.partition(": base only ")[0] for line in told] == [f"2 at once, repeat {n} of 2" for n in (1, 2)]


def test_a_random_draft_has_the_vocabulary_and_knows_nothing(tmp_path: Path) -> None:
    write_random_draft("abacus-draft", tmp_path / "one")
    write_random_draft("abacus-draft", tmp_path / "two")
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    with open_pair("abacus-base", str(tmp_path / "one")) as pair:
        assert pair.shares_vocabulary
        assert pair.draft.describe().weights != pair.base.describe().weights
        scenarios = with_draft(SCENARIOS, "random")
        graphs = [create_specreason(pair, **scenario.settings).compile() for scenario in scenarios]
        alone, bad, guarded = [run_all(graph, held_out()[:1], 1)[1][0] for graph in graphs]
    assert (bad.total.accepted, bad.total.proposals > 0) == (0, True)
    assert bad.outcome["answer"] == guarded.outcome["answer"] == alone.outcome["answer"]


def test_bench_speed_from_the_command_line(here: Command) -> None:
    result = here("bench", "speed", "--problems", "2", "--repeats", "1", "--concurrency", "2",
                     "--scenario", "sequential", "--scenario", "adaptive", "--json")  # fmt: skip
    lines: list[dict[str, Any]] = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["kind"] for line in lines] == ["hardware", "calibration", "speed", "speed", "speed"]
    assert lines[0]["cores"] >= 1
    assert lines[0]["base"].startswith("abacus-base float32")
    assert {line["scenario"]: line["same"] for line in lines[2:]} == {"base only": None, "sequential": 1, "adaptive": 1}
    assert all(line["concurrency"] == 2 for line in lines[1:])


def test_bench_speed_refuses(here: Command) -> None:
    assert here("bench", "speed", "--scenario", "sideways").returncode == 2
    served = here("bench", "speed", "--engine", "server", "--base-url", "http://x", "--scenario", "bad draft")
    assert (served.returncode, "not ours to change" in served.stderr) == (2, True)


def test_the_overhead_of_runs_is_shown() -> None:
    result = CliRunner().invoke(app, ["overhead", "--steps", "3"])
    assert result.exit_code == 0, result.output
    _, heads, *rows = result.output.splitlines()
    assert heads.split()[:2] == ["saver", "steps"]
    assert [row.split()[:2] for row in rows] == [["memory", "3"], ["sqlite", "3"]]


def test_the_overhead_is_measured_on_postgresql(postgres: str) -> None:
    found = run_overhead(4, postgres)
    assert (found.saver, found.steps) == ("postgresql", 4)
    assert found.stored_bytes > 4 * len("Step 1 by the draft, with some words.")


def test_the_overhead_is_given_for_a_step() -> None:
    found = run_overhead(4, "sqlite")
    assert found.stored_bytes > 4 * len("Step 1 by the draft, with some words.")
    assert found.verify_seconds > 0
    told = found.model_copy(update={"seconds": 0.008, "cpu_seconds": 0.004, "stored_bytes": 4000, "peak_bytes": 10**6})
    (_, row) = overhead_lines([told])
    assert row.split()[:5] == ["sqlite", "4", "2.00", "1.00", "1.00"]
