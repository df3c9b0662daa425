"""Help as people know it: --version, -h, completion, defaults, choices, and what is said where nothing is asked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import pytest
import typer.main

from specreason_graph.cli.app import app, run
from specreason_graph.config import SpecReasonConfig


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands and groups, by the words that name them."""
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, (*path, name))


ALL = dict(commands(typer.main.get_command(app)))
GROUPS = [path for path, command in ALL.items() if hasattr(command, "commands")]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_has_help_under_both_names(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for asked in ("-h", "--help"):
        assert run([*path, asked]) == 0
        said = capsys.readouterr()
        assert said.err == ""
        told.append(said.out)
    assert told[0] == told[1]
    assert f"Usage: {' '.join(('specreason', *path))}" in told[0]
    for option in ALL[path].params:
        for name in () if getattr(option, "hidden", False) else option.opts:
            assert name in told[0] or getattr(option, "param_type_name", "") == "argument", name


@pytest.mark.parametrize("path", GROUPS, ids=" ".join)
def test_a_group_alone_shows_its_help_line_by_line(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(list(path)) == 2
    said = capsys.readouterr()
    assert "error" not in said.out + said.err
    lines = (said.out or said.err).splitlines()
    assert len(lines) > 10
    for name in ALL[path].commands:
        assert any(re.match(rf"\W+{name}\s", line) for line in lines), name


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    for asked in ("--version", "-V"):
        assert run([asked]) == 0
        assert capsys.readouterr().out.startswith(f"specreason {version('specreason-graph')} ")


def test_help_shows_defaults_choices_and_variables(capsys: pytest.CaptureFixture[str]) -> None:
    run(["solve", "-h"])
    told = " ".join(capsys.readouterr().out.split())
    fields = SpecReasonConfig.model_fields
    for name in ("temperature", "top_p", "seed", "max_steps", "thinking_tokens", "proposals"):
        assert re.search(rf"--{name.replace('_', '-')} NUMBER [^\[]*\[default: \({fields[name].default:g}\)\]", told), (
            name
        )
    assert "[transformers|vllm|server]" in told
    assert "[env var: SPECREASON_DB]" in told
    for kind in ("digit", "likelihood", "cascade"):
        assert kind in told
    run(["audit", "replay", "-h"])
    assert "[recorded|rescore|regenerate]" in capsys.readouterr().out


@pytest.mark.parametrize("width", ["80", "140"])
def test_no_option_is_cut_in_a_narrow_terminal(
    width: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    for path, command in ALL.items():
        run([*path, "-h"])
        told = capsys.readouterr().out
        assert max(map(len, told.splitlines())) <= int(width)
        for option in command.params:
            for name in option.opts if option.param_type_name == "option" else ():
                assert name in told, (path, name)


def test_a_misspelt_command_is_told_what_it_may_have_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sovle"]) == 2
    assert "Did you mean 'solve'?" in capsys.readouterr().err


def complete(words: str) -> list[str]:
    """What bash would offer behind these words."""
    env = {
        **os.environ, "_SPECREASON_COMPLETE": "complete_bash", "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }  # fmt: skip
    code = "from specreason_graph.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_the_shell_completes_commands_options_and_choices() -> None:
    assert complete("specreason so") == ["solve"]
    assert complete("specreason solve --engine ") == ["transformers", "vllm", "server"]


def test_settings_are_listed_and_searched(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["settings"]) == 0
    listed = capsys.readouterr().out
    for name in SpecReasonConfig.model_fields:
        assert re.search(rf"^{name} = ", listed, re.MULTILINE), name
    assert run(["settings", "deadline"]) == 0
    assert "deadline_seconds = null" in capsys.readouterr().out
    assert run(["settings", "no such words"]) == 2


def test_colours_are_taken_away_on_request(monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in command("-h").stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[(?:\d+;)*3\d", command("-h").stdout)
