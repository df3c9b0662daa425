"""The command as people type it: what it prints, and what it says to bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from specreason_graph.cli.app import run
from specreason_graph.cli.live_view import LiveView, printable
from specreason_graph.models.abacus.problems import held_out, parse_answer
from specreason_graph.record.events import AnswerToken

Command = Callable[..., CompletedProcess[str]]
PROBLEM = held_out()[4]
STEP_KEYS = {
    "index", "author", "text", "token_ids", "ending", "seed", "decision", "score", "discarded", "alternatives", "costs",
    "elapsed", "reserve", "room", "hash",
}  # fmt: skip


def test_solve_shows_steps_answer_and_summary(command: Command) -> None:
    result = command("solve", PROBLEM.question)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("thread ")
    assert any(line.split()[1:2] == ["draft"] for line in lines)
    assert f"\\boxed{{{PROBLEM.answer}}}" in result.stdout
    assert "answered" in lines
    assert "of which discarded:" in result.stdout


def test_json_carries_the_evidence(command: Command) -> None:
    result = command("solve", "--json", "--seed", "3", stdin=PROBLEM.question)
    document = json.loads(result.stdout)
    assert {"thread", "answer", "stop_reason", "steps", "usage", "engines"} <= document.keys()
    assert parse_answer(document["answer"]) == PROBLEM.answer
    for step in document["steps"]:
        assert step.keys() == STEP_KEYS
        assert (step["score"] is None) == (step["decision"]["number"] is None)
        if step["score"]:
            assert len(step["score"]["digit_logprobs"]) == 10
            assert 0 <= step["score"]["other_mass"] <= 1
    written = sum(cost["usage"]["generated_tokens"] for cost in document["usage"]["costs"])
    assert written > sum(len(step["token_ids"]) for step in document["steps"])
    assert document["engines"]["base"]["weights"] != document["engines"]["draft"]["weights"]


def test_a_finished_run_is_shown_again(command: Command) -> None:
    first = json.loads(command("solve", "--json", PROBLEM.question).stdout)
    again = command("resume", first["thread"], "--json")
    assert json.loads(again.stdout) == first


def test_one_seed_one_trace_and_another_seed_another(command: Command) -> None:
    def trace(seed: int) -> list[list[int]]:
        result = command("solve", "--json", "--temperature", "2", "--seed", str(seed), PROBLEM.question)
        return [step["token_ids"] for step in json.loads(result.stdout)["steps"]]

    assert trace(5) == trace(5)
    assert trace(5) != trace(6)


def test_question_from_a_file_and_an_example(command: Command, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text(PROBLEM.question)
    assert str(PROBLEM.answer) in command("solve", "-f", str(tmp_path / "q.txt")).stdout
    assert command("solve", "--example").returncode == 0


def test_config_file_and_set(command: Command, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("threshold = 3.0\nreading = 'greedy'\n")
    result = command(
        "solve",
        "--json",
        "--config",
        str(tmp_path / "c.toml"),
        "--threshold",
        "8",
        "--set",
        "max_steps=2",
        PROBLEM.question,
    )
    document = json.loads(result.stdout)
    assert (document["config"]["threshold"], document["config"]["score_reduction"]) == (8.0, "greedy")
    assert (document["stop_reason"], len(document["steps"])) == ("step_limit", 2)


BAD: list[tuple[list[str], str]] = [
    (["solve", ""], "the question is empty"),
    (["solve", "-f", "missing.txt"], "cannot read the question from missing.txt: No such file or directory"),
    (["solve", "-f", "."], "cannot read the question from .: Is a directory"),
    (["solve", PROBLEM.question * 40], "context of 1024"),
    (["solve", "--base", "/no/such/model", PROBLEM.question], "model '/no/such/model' is not a folder"),
    (["solve", "--base", "tests", PROBLEM.question], "tests' is no model: it has no config.json"),
    (
        ["solve", "--threshold", "11", PROBLEM.question],
        "threshold = '11' is not allowed: input should be less than or equal to 9",
    ),
    (
        ["solve", "--threshold", "high", PROBLEM.question],
        "threshold = 'high' is not allowed: input should be a valid number",
    ),
    (
        ["solve", "--thinking-tokens", "0", PROBLEM.question],
        "thinking_tokens = '0' is not allowed: input should be greater than or equal to 1",
    ),
    (["solve", "--set", "treshold=3", PROBLEM.question], "unknown setting 'treshold'; known settings: threshold,"),
    (["solve", "--set", "threshold", PROBLEM.question], "is not NAME=VALUE"),
    (["solve", "--set", 'review={"low": 4, "high": 7}', PROBLEM.question], "there is no human to be asked"),
    (["solve", "--engine", "abacus", PROBLEM.question], "unknown engine 'abacus'; known engines: transformers"),
    (["solve", "--config", "missing.toml", PROBLEM.question], "cannot read config file missing.toml"),
    (["solve", "--db", "README.md", PROBLEM.question], "database README.md cannot be used: file is not a database"),
    (["solve", "Who wrote Faust, and when?"], "name real models with --base MODEL --draft MODEL"),
    (["resume", "nothread"], "no run 'nothread' in this database"),
    (["sovle", "x"], "No such command 'sovle'"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), BAD, ids=lambda value: None if isinstance(value, list) else value[:40]
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert run(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("error: ")
    assert len(printed.err.splitlines()) == 1
    assert printed.out == ""


def test_unknown_key_in_a_config_file(command: Command, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("budget = 10")
    result = command("solve", "--config", str(tmp_path / "c.toml"), PROBLEM.question)
    assert (result.returncode, "unknown setting 'budget'" in result.stderr) == (2, True)


def test_doctor_finds_the_pair_in_order(command: Command) -> None:
    result = command("doctor", "--json")
    findings = {finding["name"]: finding for finding in json.loads(result.stdout)}
    assert result.returncode == 0
    assert {"vocabularies", "digits", "judge", "base cache", "draft cache", "speed", "break-even"} == findings.keys()
    assert {findings[name]["status"] for name in ("digits", "judge", "base cache", "draft cache")} == {"ok"}


def test_bench_overhead(command: Command) -> None:
    found = json.loads(command("bench", "overhead", "--steps", "12", "--json").stdout)
    assert found["steps"] == 13
    assert found["database_bytes"] > found["text_bytes"] > 0


def test_what_a_model_writes_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    LiveView().show(AnswerToken(text="\x1b[2Jred\nline"))
    assert capsys.readouterr().out == "\n[2Jred\nline"
    assert printable("\x1b]0;x\x07a\n") == "]0;xa\n"
