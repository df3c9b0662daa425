"""The arithmetic of efficiency, and what a step costs besides the engines. No seconds are asserted."""

from __future__ import annotations

from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.overhead import overhead_lines, run_overhead
from specreason_graph import Step
from specreason_graph.bench.efficiency import committed_costs, seconds_measured
from specreason_graph.record.records import Author, Cost, Decision, Engine, Purpose, Usage
from specreason_graph.record.summary import Summary


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
