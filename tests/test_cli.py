"""The command as people type it: what it prints, and what it says to bad input."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from specreason_graph.cli.live_view import LiveView, printable
from specreason_graph.models.abacus.problems import held_out, parse_answer
from specreason_graph.record.events import AnswerToken

Command = Callable[..., CompletedProcess[str]]
PROBLEM = held_out()[4]
STEP_KEYS = {
    "index", "author", "text", "token_ids", "ending", "seed", "decision", "score", "discarded", "alternatives", "costs",
    "elapsed", "reserve", "tokens_left", "hash",
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


def test_json_carries_the_evidence(here: Command) -> None:
    result = here("solve", "--json", "--seed", "3", stdin=PROBLEM.question)
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


def test_the_base_by_itself_is_measured_behind_the_run(here: Command) -> None:
    done = here("solve", "--with-base", "--json", "--set", "temperature=0", PROBLEM.question)
    told = json.loads(done.stdout)
    alone = told["base_alone"]
    assert alone["answer"] == told["answer"]
    assert alone["is_same_answer"]
    assert alone["step_count"] == len(told["steps"])
    assert alone["gain"] == pytest.approx(alone["seconds"] / told["usage"]["elapsed"])
    assert {each["engine"] for each in told["usage"]["costs"]} == {"base", "draft"}  # the run is as it was
    shown = here("solve", "--with-base", "--no-keep", PROBLEM.question).stdout
    assert re.search(r"measured: the base alone took [\d.]+ s and gave the same answer: speculation (was|took) ", shown)
    assert here("solve", "--json", PROBLEM.question).stdout.count('"base_alone": null') == 1


def test_a_finished_run_is_shown_again(here: Command) -> None:
    first = json.loads(here("solve", "--json", PROBLEM.question).stdout)
    again = here("resume", first["thread"], "--json")
    assert json.loads(again.stdout) == first


def test_one_seed_one_trace_and_another_seed_another(command: Command, here: Command) -> None:
    def trace(run: Command, seed: int) -> list[list[int]]:
        result = run("solve", "--json", "--temperature", "2", "--seed", str(seed), PROBLEM.question)
        return [step["token_ids"] for step in json.loads(result.stdout)["steps"]]

    assert trace(here, 5) == trace(here, 5) == trace(command, 5)
    assert trace(here, 5) != trace(here, 6)


def test_question_from_a_file_and_an_example(here: Command, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text(PROBLEM.question)
    assert str(PROBLEM.answer) in here("solve", "-f", str(tmp_path / "q.txt")).stdout
    assert here("solve", "--example").returncode == 0


def test_config_file_and_set(here: Command, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("threshold = 3.0\njudge = {reduction = 'greedy'}\n")
    given = ["--config", str(tmp_path / "c.toml"), "--threshold", "8", "--set", "max_steps=2"]
    document = json.loads(here("solve", "--json", *given, PROBLEM.question).stdout)
    assert (document["config"]["threshold"], document["config"]["judge"]["reduction"]) == (8.0, "greedy")
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
        "threshold = 11 is not allowed: the scale of the digit judge is 0 to 9",
    ),
    (
        ["solve", "--threshold", "high", PROBLEM.question],
        "threshold = 'high' is not allowed: input should be a valid number",
    ),
    (
        ["solve", "--thinking-tokens", "0", PROBLEM.question],
        "thinking_tokens = '0' is not allowed: input should be greater than or equal to 1",
    ),
    (
        ["solve", "--set", "treshold=3", PROBLEM.question],
        "unknown setting 'treshold'; known settings: judge, threshold,",
    ),
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
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], message: str, here: Command) -> None:
    result = here(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


def test_unknown_key_in_a_config_file(here: Command, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("budget = 10")
    result = here("solve", "--config", str(tmp_path / "c.toml"), PROBLEM.question)
    assert (result.returncode, "unknown setting 'budget'" in result.stderr) == (2, True)


def test_doctor_finds_the_pair_in_order(here: Command) -> None:
    result = here("doctor", "--json")
    findings = {finding["name"]: finding for finding in json.loads(result.stdout)}
    assert result.returncode == 0
    assert {
        "vocabularies",
        "base thinking",
        "draft thinking",
        "digits",
        "judge",
        "base cache",
        "draft cache",
        "speed",
        "break-even",
        "verdict",
    } == findings.keys()
    assert {findings[name]["status"] for name in ("digits", "judge", "base cache", "draft cache")} == {"ok"}


def test_what_a_model_writes_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    LiveView().show(AnswerToken(text="\x1b[2Jred\nline"))
    assert capsys.readouterr().out == "\n[2Jred\nline"
    assert printable("\x1b]0;x\x07a\n") == "]0;xa\n"
