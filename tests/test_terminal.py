"""What reaches the terminal: text and no more, one line or one document, and an exit code that says what happened."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import specreason_graph.cli
from specreason_graph.cli.app import run
from specreason_graph.errors import RecordError
from specreason_graph.runs.launch import Launch
from tests.support.hostile import FORGED, HOSTILE, STEERING, hostile_pair, steering, write_hostile

CLI = Path(specreason_graph.cli.__file__).parent
QUESTION = "Zoe has 25 boxes with 18 coins in each box. Zoe sells 65 coins. How many coins does Zoe have now?"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database in which all texts are hostile."""
    file = tmp_path_factory.mktemp("hostile") / "runs\x1b[2J\u202e.sqlite"
    write_hostile(str(file))
    return str(file)


def specreason(*arguments: str | bytes, code: str = "main()", **more: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own, as `code` does it."""
    program = f"import logging, sys\nfrom specreason_graph.cli import app\nmain = app.main\n{code}"
    environment = {**os.environ, **more.pop("env", {})}
    return subprocess.run([sys.executable, "-c", program, *arguments], check=False, env=environment,
                          **{"capture_output": True, **more})  # fmt: skip


def no_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


def document(text: str) -> Any:
    return json.loads(text, parse_constant=no_constant)


COMMANDS = [
    ["show", FORGED], ["verify", FORGED], ["replay", FORGED], ["whatif", FORGED, "--threshold", "9"], ["whatif"],
    ["whatif", "--target", "0.2"], ["diff", FORGED, FORGED], ["list"], ["prune", FORGED, "--dry-run"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_nothing_in_a_record_steers_the_terminal(
    arguments: list[str], database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["audit", *arguments, "--db", database]) == 0
    shown = capsys.readouterr()
    assert steering(shown.out + shown.err) == set()
    assert shown.out
    if arguments[0] not in ("show", "list"):  # questions have lines of their own there
        assert not [line for line in shown.out.splitlines() if line.startswith("run 0123")]
    assert run(["audit", *arguments, "--db", database, "--json"]) == 0
    shown = capsys.readouterr()
    assert steering(shown.out) == set()
    assert len(shown.out.splitlines()) == 1
    assert document(shown.out) or document(shown.out) == []


def test_an_exported_ledger_is_clean_and_the_same_on_standard_output(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["audit", "export", "--db", database]) == 0
    told = capsys.readouterr().out
    assert steering(told) == set()
    assert run(["audit", "export", "--db", database, "-o", str(tmp_path / "ledger.jsonl")]) == 0
    assert (tmp_path / "ledger.jsonl").read_text() == told
    (answer,) = [line for line in map(document, told.splitlines()) if line["entry"]["kind"] == "answer"]
    assert answer["entry"]["body"]["text"].strip() == f"So {HOSTILE}"


def test_an_anchor_on_standard_output_names_the_threads_as_they_are(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["audit", "anchor", "--db", database]) == 0
    told = capsys.readouterr().out
    assert steering(told) == set()
    assert document(told)["runs"][0]["thread_id"] == FORGED
    (tmp_path / "anchor.json").write_text(told)
    assert run(["audit", "verify", "--anchor", str(tmp_path / "anchor.json"), "--db", database]) == 0


def test_texts_are_whole_in_json(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", "show", FORGED, "--db", database, "--json"]) == 0
    shown = document(capsys.readouterr().out)
    assert shown["thread"] == FORGED
    assert shown["answer"].strip() == f"So {HOSTILE}"


@pytest.mark.parametrize("text", STEERING, ids=ascii)
def test_error_lines_are_one_clean_line(text: str, database: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["audit", "show", f"x{text}\ny", "--db", database], ["audit", "list", "--db", f"no{text}\n.db"],
                      [f"x{text}"], ["solve", f"--x{text}"], ["solve", "--seed", f"x{text}"]):  # fmt: skip
        assert run(arguments) == 2
        said = capsys.readouterr()
        assert (steering(said.err), len(said.err.splitlines()), said.out) == (set(), 1, "")


@pytest.mark.parametrize("as_json", [True, False])
def test_answers_are_clean_while_they_are_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, as_json: bool
) -> None:
    monkeypatch.setattr(Launch, "open_pair", lambda _: hostile_pair())
    asked = ["solve", f"What of {HOSTILE}?", "--base", FORGED, "--draft", FORGED, "--db", str(tmp_path / "a.db")]
    assert run([*asked, *["--json"] * as_json]) == 0
    said = capsys.readouterr()
    assert steering(said.out + said.err) == set()
    if as_json:
        assert document(said.out)["answer"].strip() == f"So {HOSTILE}"
    else:
        assert said.out.splitlines()[0].startswith("thread ")
        assert "title" in said.out


def test_json_is_valid_whatever_a_record_holds() -> None:
    from specreason_graph.cli.terminal import to_json

    deep: Any = "end"
    for _ in range(5000):
        deep = [deep]
    held = {"n": float("nan"), "i": [float("-inf"), 1.5], "s": "\ud800\x9b", 3: b"\xff", None: {1}, "deep": deep,
            "t": (True, None, 2**70)}  # fmt: skip
    text = to_json(held)
    text.encode()
    assert steering(text) == set()
    read = document(text)
    assert (read["n"], read["i"], read["s"], read["3"]) == (None, [None, 1.5], "\ud800\x9b", "ff")
    assert read["t"] == [True, None, 2**70]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_output_that_cannot_encode_a_text_shows_its_code(encoding: str, tmp_path: Path) -> None:
    file = str(tmp_path / "runs.sqlite")
    write_hostile(file, thread="\u2192 caf\u00e9 \U0001f600")
    env = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    plain = specreason("audit", "list", "--db", file, env=env)
    assert (plain.returncode, plain.stderr) == (0, b"")
    assert "\\u2192" in plain.stdout.decode(encoding)
    (row,) = document(specreason("audit", "list", "--json", "--db", file, env=env).stdout.decode(encoding))
    assert row["thread"] == "\u2192 caf\u00e9 \U0001f600"


def test_a_closed_pipe_ends_quietly(database: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = specreason("audit", "show", FORGED, "--db", database, stdout=writer, stderr=subprocess.PIPE,
                       capture_output=False)  # fmt: skip
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_behind_the_output_is_one_line(database: str) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        ended = specreason("audit", "list", "--db", database, stdout=full, stderr=subprocess.PIPE,
                           capture_output=False)  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr == b"error: the output cannot be written: No space left on device\n"


def test_log_messages_and_warnings_are_clean() -> None:
    code = f"""
import warnings
def app_(*_, **__):
    logging.getLogger("specreason_graph.engines").warning("server: %s", {FORGED!r})
    warnings.warn({FORGED!r})
app.app = app_
main()"""
    ended = specreason(code=code)
    assert ended.returncode == 0
    assert steering(ended.stderr.decode()) == set()
    assert "run 0123: 9 entries" in ended.stderr.decode()
    assert not re.search(r"^run 0123", ended.stderr.decode(), re.MULTILINE)


def test_what_nobody_foresaw_is_one_line_and_has_a_traceback_for_who_asks() -> None:
    code = "def app_(*_, **__):\n    raise RuntimeError('boom \\x1b[2J \\n x')\napp.app = app_\nmain()"
    ended = specreason(code=code)
    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (1, b"", 1)
    assert b"RuntimeError: boom" in ended.stderr
    assert b"SPECREASON_TRACEBACK=1" in ended.stderr
    assert b"\x1b" not in ended.stderr
    asked = specreason(code=code, env={"SPECREASON_TRACEBACK": "1"})
    assert asked.returncode == 1
    assert b"Traceback (most recent call last)" in asked.stderr
    assert b"\x1b" not in asked.stderr


def test_a_record_that_is_not_as_it_was_written_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def changed(*_: Any) -> Any:
        raise RecordError("step 2 is not what was written")

    monkeypatch.setattr("specreason_graph.cli.audit.inspect.read_all_runs", changed)
    assert run(["audit", "list", "--db", database]) == 1
    assert capsys.readouterr().err == "error: step 2 is not what was written\n"


def test_commands_print_through_one_module_only() -> None:
    direct = re.compile(r"typer\.(echo|secho|style)|(?<![\w.])print\(|sys\.(stdout|stderr)\.write|json\.dumps")
    for file in CLI.rglob("*.py"):
        if file.name != "terminal.py":
            assert not direct.search(file.read_text()), file
        if file.name != "screen.py":  # it cleans what Rich lays out
            assert not re.search(r"\b(Console|Live)\(", file.read_text()), file


BAD = [
    ["solve", QUESTION, "--set", "max_steps=99999999999999999999"],
    ["solve", QUESTION, "--max-steps", "99999999999999999999"],
    ["solve", QUESTION, "--deadline", "inf"],
    ["solve", QUESTION, "--set", "seed=true"],
    ["solve", QUESTION, "--set", 'review={"low": true, "high": 9}'],
    ["solve", QUESTION, "--set", 'think_close=""'],
    ["solve", QUESTION, "--set", "think_open= "],
    ["solve", QUESTION, "--set", 'tools=[{"function": [1]}]'],
    ["solve", QUESTION, "--config", "deep.json"],
    ["solve", QUESTION, "--config", "deep.toml"],
    ["solve", QUESTION, "--config", ""],
    ["solve", QUESTION, "--db", ""],
    ["solve", QUESTION, "--db", "folder"],
    ["solve", QUESTION, "--db", "pipe"],
    ["solve", "-f", ""],
    ["solve", "-f", "deep.jsonl", "--base", "m"],
    ["solve", "\udcff"],
    ["resume", "t", "--db", ""],
    ["resume", "t", "--db", "typo/runs.sqlite"],
    ["resume", "t", "--db", "empty"],
    ["resume", "t", "--db", "folder"],
    ["resume", "t", "--db", "pipe"],
    ["solve", QUESTION, "--db", "postgresql://somebody@there/runs"],
    ["solve", QUESTION, "--no-keep", "--db", "a.sqlite"],
    ["solve", QUESTION, "--speculation-control", "--no-speculation-control"],
    ["solve", QUESTION, "--question-key", "problem"],
    ["runs", "list", "--db", ""],
    ["runs", "list", "--db", "folder"],
    ["runs", "list", "--db", "deep.json"],
    ["runs", "list", "-n", "0"],
    ["runs", "show", "t"],
    ["runs", "show", "t", "--db", "empty"],
    ["runs", "show", "t", "--db", "pipe"],
    ["runs", "rm", "t", "--db", "folder"],
    ["runs", "rm", "t", "--db", "typo/runs.sqlite"],
    ["runs", "path", "--db", ""],
    ["settings", "no such setting"],
    ["doctor", "-f", "deep.jsonl"],
    ["doctor", "--set", "seed=true"],
    ["bench", "speed", "--problems", "9999999999999999999999"],
    ["serve-engines", "--base-port", "99999"],
    ["audit", "list", "--db", ""],
    ["audit", "fork", "t", "--at", "1", "--into", ""],
    ["audit", "verify", "t", "--signature", ""],
    ["audit", "report", "-o", ""],
]


@pytest.mark.parametrize("arguments", BAD, ids=lambda arguments: " ".join(arguments[:1] + arguments[-2:])[:50])
def test_bad_input_exits_with_2_and_makes_nothing(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    Path("deep.json").write_text("[" * 100_000)
    Path("deep.toml").write_text("a = " + "[" * 100_000)
    Path("deep.jsonl").write_text('{"question": ' + "[" * 5000 + "]" * 5000 + "}\n")
    Path("folder").mkdir()
    Path("empty").touch()
    os.mkfifo("pipe")
    before = sorted(tmp_path.rglob("*"))
    assert run(arguments) == 2
    said = capsys.readouterr()
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    assert "bug" not in said.err
    assert sorted(tmp_path.rglob("*")) == before
    assert Path("empty").stat().st_size == 0


@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_bytes_that_are_no_text_are_bad_input(locale: str, tmp_path: Path) -> None:
    env = {"LC_ALL": locale, "XDG_DATA_HOME": str(tmp_path)}
    for ended in (specreason("solve", env=env, input=b"How many \xff\xfe?"), specreason("solve", b"\xff?", env=env)):
        assert ended.returncode == 2
        assert b"is not UTF-8 text" in ended.stderr
        assert len(ended.stderr.splitlines()) == 1


def test_a_standard_input_that_is_closed_is_no_question(tmp_path: Path) -> None:
    ended = specreason("solve", env={"XDG_DATA_HOME": str(tmp_path)}, code="sys.stdin = None\nmain()")
    assert (ended.returncode, b"the question is empty" in ended.stderr) == (2, True)


def test_colours_are_for_terminals(command: Callable[..., Any], database: str) -> None:
    shown = command("audit", "show", FORGED, "--db", database)
    assert (shown.returncode, "\x1b" in shown.stdout) == (0, False)
