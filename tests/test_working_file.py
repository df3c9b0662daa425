"""``specreason.toml`` in the working folder: commands and the chat model pick it up, and say so."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from specreason_graph import ChatSpecReason, EnginePair
from specreason_graph.config import make_config
from specreason_graph.errors import ConfigError
from specreason_graph.models.abacus.problems import held_out_short
from specreason_graph.runs.launch import check_found

Command = Callable[..., Any]
QUESTION = held_out_short()[0].question
LIKELY = 'temperature = 0\njudge = { kind = "likelihood", threshold = -1 }\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_solve_picks_it_up_and_options_win_over_it(here: Command, folder: Path) -> None:
    (folder / "specreason.toml").write_text(LIKELY)
    found = here("solve", "--json", QUESTION)
    assert "picked up specreason.toml: temperature, judge" in found.stderr.splitlines()
    config = json.loads(found.stdout)["config"]
    assert (config["temperature"], config["judge"]["kind"], config["judge"]["threshold"]) == (0, "likelihood", -1)
    config = json.loads(here("solve", "--json", "--threshold", "-2", "--temperature", "0.1", QUESTION).stdout)["config"]
    assert (config["temperature"], config["judge"]["kind"], config["threshold"]) == (0.1, "likelihood", -2)
    config = json.loads(here("solve", "--json", "--judge", "digit", QUESTION).stdout)["config"]
    assert (config["temperature"], config["judge"]["kind"]) == (0, "digit")
    (folder / "mine.toml").write_text("temperature = 0.2")  # a file that is named takes its place
    found = here("solve", "--json", "--config", "mine.toml", QUESTION)
    assert "picked up" not in found.stderr
    config = json.loads(found.stdout)["config"]
    assert (config["temperature"], config["judge"]["kind"]) == (0.2, "digit")


def test_many_questions_and_doctor_pick_it_up(here: Command, folder: Path) -> None:
    (folder / "specreason.toml").write_text(LIKELY)
    (folder / "q.jsonl").write_text(json.dumps({"question": QUESTION}))
    found = here("solve", "-f", "q.jsonl", "--json")
    assert "picked up specreason.toml" in found.stderr
    assert json.loads(found.stdout)["config"]["judge"]["kind"] == "likelihood"
    found = here("doctor", "--json")
    assert "picked up specreason.toml" in found.stderr
    assert "digits" not in {each["name"] for each in json.loads(found.stdout)}  # the judge is another one


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temperature = ", "config file specreason.toml cannot be parsed"),
        ("temprature = 0", "unknown setting 'temprature'"),
        ("threshold = 'high'", "threshold = 'high' is not allowed"),
        ("base = 3", "base = 3 is not allowed"),
        ('engine = "server"\nbase_url = "http://example.org/v1"', "add --config specreason.toml, or --base-url"),
        ('engine = "vllm"\n[base_options.arguments]\nx = 1', "add --config specreason.toml, or --option base.argum"),
    ],
)
def test_a_bad_file_is_one_line(text: str, message: str, here: Command, folder: Path) -> None:
    (folder / "specreason.toml").write_text(text)
    found = here("solve", QUESTION)
    *_, last = found.stderr.splitlines()
    assert (found.returncode, found.stdout, last.startswith("error: "), message in last) == (2, "", True, True)
    assert len(found.stderr.splitlines()) <= 2


def test_addresses_of_other_machines_are_used_when_the_caller_names_them(folder: Path) -> None:
    file = folder / "specreason.toml"
    file.write_text('base_url = "http://127.0.0.1:8000/v1"\ndraft_url = "http://draft.example/v1"')
    with pytest.raises(ConfigError, match="--draft-url http") as refused:
        check_found(file, {}, {})
    assert "--base-url" not in str(refused.value)
    assert check_found(file, {"draft_url": "http://draft.example/v1"}, {}) == ["base_url", "draft_url"]


def test_the_chat_model_picks_it_up_for_its_own_pair(
    abacus: EnginePair, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "specreason_graph")
    file = folder / "specreason.toml"
    file.write_text(f'base = "abacus-base"\ndraft = "abacus-draft"\n{LIKELY}')
    chat = ChatSpecReason(abacus, temperature=0.1)
    assert (chat.settings.judge.kind, chat.settings.temperature) == ("likelihood", 0.1)
    assert "picked up specreason.toml: temperature, judge" in caplog.messages
    assert ChatSpecReason(abacus, config_file=None).settings == make_config()
    assert ChatSpecReason(abacus, settings=make_config(seed=4)).settings == make_config(seed=4)
    file.write_text(f'base = "another"\n{LIKELY}')
    assert ChatSpecReason(abacus).settings == make_config()
    assert "its base is another, and here it is abacus-base" in caplog.text
    file.write_text("threshold = 10")
    with pytest.raises(ConfigError, match="threshold = 10 is not allowed"):
        ChatSpecReason(abacus)
    file.write_text("threshold = ")
    with pytest.raises(ConfigError, match="cannot be parsed"):
        ChatSpecReason(abacus)
