"""The harness: what it measures, that it goes on after any kill, and what it refuses. No seconds are asserted."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from specreason_graph.bench.compare import compare, verdict
from specreason_graph.bench.figures import compute, share_right, times_faster
from specreason_graph.bench.markdown import markdown
from specreason_graph.bench.results import Header, Lap, Measured, Results, ResultsFile, RunRow
from specreason_graph.bench.strategies import BASE, Strategy
from specreason_graph.cli.bench.run import parse_strategy, split
from specreason_graph.errors import ConfigError, UsageError

Command = Callable[..., subprocess.CompletedProcess[str]]
GREEDY = ("--set", "temperature=0", "--set", "lookahead=0")
LIKELY = ("--strategy", "likelihood:judge.threshold=-1")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lines(file: str | Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in Path(file).read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def test_strategies_side_by_side(here: Command) -> None:
    done = here("bench", "run", "abacus", "--count", "3", "--part", "2", *GREEDY, *LIKELY, "--markdown", "table.md")
    assert done.returncode == 0, done.stderr
    assert "part 2 of 2, likelihood: 1 questions" in done.stderr
    assert Path("table.md").read_text().strip() == done.stdout.strip()
    runs = lines("bench-abacus.jsonl", "run")
    assert len(runs) == 3 * 3
    by_name = {name: [run for run in runs if run["strategy"] == name] for name in ("base", "draft", "likelihood")}
    assert all(run["right"] for run in by_name["base"])
    assert all(cost["engine"] == "draft" for run in by_name["draft"] for cost in run["costs"])
    assert {run["by_draft"] == run["steps"] for run in by_name["draft"]} == {True}
    assert sum(run["accepted"] for run in by_name["likelihood"]) > 0
    assert [run["seed"] for run in by_name["base"]] == [
        run["seed"] for run in sorted(by_name["likelihood"], key=lambda r: r["question"])
    ]
    assert "base-ngram (not measured: the transformers engine takes no options" in done.stdout
    shown = here("audit", "show", by_name["likelihood"][0]["thread"], "--db", "bench-abacus.sqlite")
    assert shown.returncode == 0
    assert by_name["likelihood"][0]["reply"].split()[0] in shown.stdout
    again = here("bench", "run", "abacus", "--count", "3", "--part", "2", *GREEDY, *LIKELY)
    assert again.stdout == done.stdout
    more = here("bench", "run", "abacus", "--count", "4", "--part", "2", *GREEDY, *LIKELY, "--only", "--json")
    assert {row["strategy_settings"]["name"]: row["run_count"] for row in json.loads(more.stdout)["rows"]} == {
        "base": 4, "draft": 3, "likelihood": 4,
    }  # fmt: skip
    other = here("bench", "run", "abacus", "--count", "3", "--part", "2", *GREEDY, "--set", "max_steps=9")
    assert (other.returncode, "settings.max_steps was 256 and is 9" in other.stderr) == (2, True)
    renamed = here("bench", "run", "abacus", "--count", "3", "--part", "2", *GREEDY, "--strategy", "likelihood")
    assert (renamed.returncode, "other settings" in renamed.stderr) == (2, True)


def test_questions_without_answers_side_by_side_at_once(here: Command, tmp_path: Path) -> None:
    asked = [{"prompt": f"What is {n}+4?", "why": n} for n in (3, 5, 8, 11)]
    Path("own.jsonl").write_text("".join(json.dumps(each) + "\n" for each in asked))
    command = ("bench", "run", "own.jsonl", "--template", "{prompt}", "--grader", "agreement:number", *GREEDY, *LIKELY,
               "--concurrency", "3", "--only", "-o", "out.jsonl")  # fmt: skip
    done = here(*command)
    assert done.returncode == 0, done.stderr
    assert "same answer as the base" in done.stdout
    assert lines("out.jsonl", "question")[0]["question"]["extra"] == {"why": 3}
    (base, likely) = lines("out.jsonl", "lap")
    assert len(base["questions"]) == 4
    shares = Results.read(Path("out.jsonl"))
    assert sum(shares.shares[run.key] for run in shares.runs("likelihood")) == pytest.approx(likely["seconds"])
    assert all(run.right is not None for name in ("base", "likelihood") for run in shares.runs(name))
    # A kill in the last turn leaves runs without their lap, and half a line: they are asked anew.
    text = Path("out.jsonl").read_text().splitlines(keepends=True)
    Path("out.jsonl").write_text("".join(line for line in text if json.loads(line) != likely) + '{"kind": "ru')
    again = here(*command)
    assert again.returncode == 0, again.stderr
    assert "part 1 of 1, likelihood: 4 questions" in again.stderr
    assert "part 1 of 1, base" not in again.stderr
    assert accuracy(again.stdout) == accuracy(done.stdout)


def accuracy(table: str) -> list[list[str]]:
    """What of a table does not depend on the clock: names, right, accepted, tokens."""
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines() if line.startswith("| ")]
    return [[row[1], row[2], row[4], *row[7:10]] if len(row) > 12 else row for row in rows]


SCRIPTED = """
import sys
from specreason_graph.cli.app import run
from specreason_graph.runs.launch import Launch
from tests.support.scripts import stepwise
Launch.open_pair = lambda launch: stepwise(6, (2, 9, 8), draft=0.005, base=0.005)
sys.exit(run(sys.argv[1:]))
"""


def test_killed_at_random_instants_it_ends_with_the_same_table(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPTED, "bench", "run", "abacus", "--count", "4", "--part", "2", "--grader",
               "exact", *GREEDY, "--strategy", "loop", "--strategy", "paper", "--only"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    run: Any = partial(subprocess.run, env=environment, capture_output=True, text=True, check=True)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = run(command, cwd=tmp_path / "whole")
    results, chance = tmp_path / "killed" / "bench-abacus.jsonl", random.Random(7)
    for wanted in (1, 5, 9):
        quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
        with subprocess.Popen(command, cwd=results.parent, **quiet) as process:
            while process.poll() is None and ended(results) < wanted:
                time.sleep(0.01)
            time.sleep(chance.random() * 0.2)
            process.kill()
    last = run(command, cwd=results.parent)
    assert accuracy(last.stdout) == accuracy(whole.stdout)
    assert "0 are there" not in last.stderr
    keys = [(line["strategy"], line["question"]) for line in lines(results, "run")]
    assert len(keys) == len(set(keys)) == 3 * 4


def ended(results: Path) -> int:
    return results.read_text().count('"kind":"run"') if results.exists() else 0


def test_what_cannot_be_measured_is_refused_before_engines_start_or_left_out(here: Command, tmp_path: Path) -> None:
    Path("bad.jsonl").write_text('{"question": "What is 3+4?"}\n{"question": 7}\n')
    refused = here("bench", "run", "bad.jsonl")
    assert (refused.returncode, "line 2: question = 7" in refused.stderr) == (2, True)
    for wrong in (("--strategy", "sideways"), ("--set", "review={\"low\": 1, \"high\": 2}"), ("--grader", "none"),
                  ("--samples", "2", "--set", "temperature=0"), ("--strategy", "likelihood:lookahed=2"),
                  ("--strategy", "a=loop", "--strategy", "a=paper"), ("-o", "bad.jsonl")):  # fmt: skip
        said = here("bench", "run", "abacus", "--count", "1", *wrong)
        assert (said.returncode, said.stderr.startswith("error:")) == (2, True), said.stderr
    assert not Path("bench-abacus.jsonl").exists()
    done = here(
        "bench", "run", "abacus-short", "--count", "1", *GREEDY, "--strategy", f"other=loop:draft={tmp_path}", "--only"
    )
    assert done.returncode == 0, done.stderr
    assert "other (not measured:" in done.stdout


def test_strategies_on_the_command_line_and_in_a_file(here: Command) -> None:
    assert split('a=1,b={"x": [1, 2]},c="d,e"') == ["a=1", 'b={"x": [1, 2]}', 'c="d,e"']
    found = parse_strategy(
        'mine=likelihood:judge.threshold=-8,lookahead=4,draft=M,base.speculative={"method": "ngram"}'
    )
    assert found == Strategy(
        name="mine", settings={"judge": {"kind": "likelihood", "threshold": -8}, "lookahead": 4, "threshold": None},
        engines={"draft": "M", "base_options": {"speculative": {"method": "ngram"}}},
    )  # fmt: skip
    Path("s.toml").write_text(
        '[likelihood]\nlookahead = 2\n[mine]\nas = "paper"\nthreshold = 5\n[plain]\nmax_steps = 3\n'
    )
    done = here("bench", "run", "abacus-short", "--count", "1", *GREEDY, "--strategies", "s.toml", "--only")
    assert done.returncode == 0, done.stderr
    kept = {
        line["strategy"]["name"]: line["strategy"]["settings"] for line in lines("bench-abacus-short.jsonl", "strategy")
    }
    assert kept["plain"] == {"max_steps": 3}
    assert kept["mine"]["threshold"] == 5
    assert kept["likelihood"]["judge"] == {"kind": "likelihood"}
    with pytest.raises(ConfigError, match="no strategy"):
        parse_strategy("mine=sideways")


def made(strategy: str, count: int, seconds: float, right: Callable[[int], bool]) -> list[RunRow]:
    return [
        RunRow(strategy=strategy, question=str(n), sample=0, part=n // 5, thread="t", seed=n, started=0.0,
               seconds=seconds * (1 + n % 3), right=right(n))
        for n in range(count)
    ]  # fmt: skip


def results_of(*runs: list[RunRow], concurrency: int = 1) -> Results:
    header = Header(
        task="t",
        grader="exact",
        engines={},
        settings={"temperature": 0},
        samples=1,
        seed=0,
        concurrency=concurrency,
        part=5,
    )
    names = dict.fromkeys(each[0].strategy for each in runs)
    strategies = [Measured(strategy=BASE if name == "base" else Strategy(name=name)) for name in names]
    return Results([header, *strategies, *(run for each in runs for run in each)])


def test_intervals() -> None:
    base, fast = made("base", 60, 2.0, lambda n: n % 4 > 0), made("fast", 60, 1.0, lambda n: True)
    known = results_of(base, fast)
    right = share_right(base)
    assert right is not None
    assert right.value == 0.75
    assert 0.6 < right.low < 0.7 < 0.8 < right.high < 0.9
    all_right = share_right(fast)
    assert all_right is not None
    assert (all_right.high, 0.9 < all_right.low < 0.97) == (1.0, True)  # Clopper and Pearson's
    for by_part in (True, False):
        faster = times_faster(known, base, fast, by_part=by_part)
        assert faster is not None
        assert (faster.value, faster.low, faster.high) == pytest.approx((2, 2, 2))
    figures = compute(known)
    assert [row.strategy.name for row in figures.rows] == ["base", "fast"]
    assert figures.resampled == "parts"
    assert "| fast | 100% (94% to 100%) | 2.00 (2.00 to 2.00) |" in markdown(known, figures)


def test_runs_side_by_side_share_the_time_of_their_lap(tmp_path: Path) -> None:
    runs = made("base", 5, 1.0, lambda n: True)
    known = results_of(runs, concurrency=4)
    assert known.runs("base") == []  # nobody knows yet how long they took together
    known.add(Lap(strategy="base", part=0, sample=0, questions=["0", "1", "2", "3", "4"], seconds=3.0))
    assert sum(known.shares.values()) == pytest.approx(3.0)
    assert len(known.runs("base")) == 5
    for text in ("{}\n", "not JSON\n", '{"kind": "run"}\n'):
        (tmp_path / "other.jsonl").write_text(text)
        assert known.header is not None
        with pytest.raises(UsageError, match="another file"):
            ResultsFile.open(tmp_path / "other.jsonl", known.header)


def test_a_difference_is_real_or_not() -> None:
    base, fast = made("base", 60, 2.0, lambda n: n % 4 > 0), made("fast", 60, 1.0, lambda n: n % 4 > 0)
    bad = made("bad", 60, 1.0, lambda n: n % 2 > 0 and n % 4 > 0 and n % 3 > 0)
    slow = [
        run.model_copy(update={"strategy": "slow", "seconds": run.seconds + (0.1 if run.seed % 2 else -0.1)})
        for run in base
    ]
    known = results_of(base, fast, bad, slow)
    found = {name: compare(known, "base", other=name) for name in ("fast", "bad", "slow")}
    assert found["fast"].right_p == 1.0
    assert found["fast"].faster.value == pytest.approx(2)
    assert found["fast"].time_p is not None
    assert found["fast"].time_p < 0.01
    assert "fast is faster" in " ".join(found["fast"].words())
    assert found["bad"].is_worse
    assert (found["bad"].only_one, found["bad"].only_other) == (25, 0)
    assert found["bad"].right_p == pytest.approx(2 * 0.5**25)  # McNemar's exact test: 25 heads in a row, or tails
    assert "base answers better" in " ".join(found["bad"].words())
    assert " ".join(found["slow"].words()).count("no real difference") == 2
    assert verdict(known).startswith("Use fast: 2.00 times as fast")
    assert verdict(results_of(base, bad, slow)).startswith("Use the base alone")


def test_two_files_are_compared(here: Command) -> None:
    header = Header(task="t", grader="exact", engines={}, settings={}, samples=1, seed=0, concurrency=1, part=5)
    for name, seconds in (("a.jsonl", 1.0), ("b.jsonl", 0.5)):
        file = ResultsFile.open(Path(name), header)
        file.write(Measured(strategy=BASE), *made("base", 20, seconds, lambda n: True))
    done = here("bench", "compare", "a.jsonl", "b.jsonl")
    assert done.returncode == 0, done.stderr
    assert "the second is 2.00 times as fast" in done.stdout
    assert "measured apart" in done.stdout
    (found,) = json.loads(here("bench", "compare", "a.jsonl", "b.jsonl", "--json").stdout)
    assert (found["pair_count"], found["only_one"], found["right_p"]) == (20, 0, 1.0)
    for wrong in (["a.jsonl"], ["a.jsonl", "b.jsonl", "--strategy", "none"], ["missing.jsonl"]):
        assert here("bench", "compare", *wrong).returncode == 2
