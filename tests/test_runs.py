"""The runs that `solve` keeps: listed, shown, removed, and told apart from those of other graphs."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from specreason_graph import EnginePair, create_specreason
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.record.claim import claimed
from specreason_graph.runs.launch import BUILT_IN, make_launch
from specreason_graph.runs.store import RunStore
from tests.support.databases import opened

Command = Callable[..., CompletedProcess[str]]
QUESTION = held_out()[4].question
BOXES = "Zoe has 25 boxes with 18 coins in each box. Zoe sells 65 coins. How many coins does Zoe have now?"


@pytest.fixture
def solved(here: Command) -> str:
    """The thread of a run that is kept."""
    return str(json.loads(here("solve", "--json", QUESTION).stdout)["thread"])


def test_a_kept_run_is_listed_and_shown_as_it_was_printed(here: Command) -> None:
    printed = here("solve", QUESTION).stdout
    thread = printed.split()[1]
    (line,) = here("runs", "list").stdout.splitlines()
    assert line.startswith(thread)
    assert "answered" in line
    assert QUESTION[:40] in line
    shown = here("runs", "show", thread)
    assert shown.returncode == 0
    unkept = [each for each in printed.splitlines() if not each.startswith("kept in ")]
    assert [each for each in shown.stdout.splitlines() if each not in ("", QUESTION)] == [
        each for each in unkept if each
    ]
    whole = json.loads(here("runs", "show", thread, "--json").stdout)
    assert whole == json.loads(here("resume", thread, "--json").stdout)


def test_where_runs_are_kept_is_told(here: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = here("runs", "path").stdout.strip()
    assert default == str(tmp_path / "specreason" / "runs.sqlite")
    assert not Path(default).exists()
    assert here("runs", "list").returncode == 0
    assert f"kept in {default}" in here("solve", QUESTION).stdout
    assert f"kept in {default}" in here("solve", QUESTION, "--json").stderr
    other = tmp_path / "other.sqlite"
    monkeypatch.setenv("SPECREASON_DB", str(other))
    assert here("runs", "path").stdout.strip() == str(other)
    assert json.loads(here("runs", "path", "--json").stdout) == {"database": str(other), "exists": False}
    thread = here("solve", QUESTION).stdout.split()[1]
    assert here("audit", "verify", thread).returncode == 0
    assert thread not in here("runs", "list", "--db", default).stdout


def test_a_removed_run_is_gone_with_its_texts(here: Command, tmp_path: Path) -> None:
    file = tmp_path / "specreason" / "runs.sqlite"
    thread = str(json.loads(here("solve", "--json", BOXES).stdout)["thread"])
    other = str(json.loads(here("solve", "--json", QUESTION).stdout)["thread"])
    assert here("runs", "rm", thread, "--dry-run").stdout == f"would remove {thread}\n"
    assert json.loads(here("runs", "rm", thread, "--json").stdout) == {"threads": [thread], "dry_run": False}
    assert [row["thread"] for row in json.loads(here("runs", "list", "--json").stdout)] == [other]
    assert "no run" in here("resume", thread).stderr
    for part in file.parent.iterdir():
        assert BOXES.encode() not in part.read_bytes(), part
    assert here("audit", "verify", other).returncode == 0
    assert here("runs", "rm", thread).returncode == 2
    assert here("runs", "rm").returncode == here("runs", "rm", "--all", other).returncode == 2
    assert here("runs", "rm", "--all").stdout == f"removed {other}\n"
    assert json.loads(here("runs", "list", "--json").stdout) == []


def test_a_run_that_is_worked_on_is_not_removed(here: Command, solved: str, tmp_path: Path) -> None:
    with RunStore.open(tmp_path / "specreason" / "runs.sqlite") as store, claimed(store.saver, solved):
        refused = here("runs", "rm", solved)
    assert (refused.returncode, "is being worked on" in refused.stderr) == (2, True)
    assert here("runs", "show", solved).returncode == 0


def test_a_run_that_has_not_begun_is_listed_and_can_be_resumed(here: Command, tmp_path: Path) -> None:
    with RunStore.open(tmp_path / "specreason" / "runs.sqlite") as store:
        thread = store.add(make_launch(QUESTION, models=BUILT_IN))
    assert "not_begun" in here("runs", "list", "--unfinished").stdout
    assert "has not begun" in here("runs", "show", thread).stderr
    assert here("resume", thread).returncode == 0
    assert here("runs", "list", "--unfinished").stdout == ""


class Outer(TypedDict, total=False):
    question: str
    answer: str


def test_runs_of_other_graphs_are_told_apart(abacus: EnginePair, here: Command, tmp_path: Path) -> None:
    file = str(tmp_path / "own.sqlite")
    with opened(file) as saver:
        around: Any = StateGraph(Outer)
        around.add_node("think", create_specreason(abacus, seed=1).compile())
        around.add_edge(START, "think")
        around.add_edge("think", END)
        around.compile(checkpointer=saver).invoke({"question": QUESTION}, {"configurable": {"thread_id": "mine"}})
        plain: Any = StateGraph(Outer)
        plain.add_node("say", lambda _: {"answer": "hi"})
        plain.add_edge(START, "say")
        plain.compile(checkpointer=saver).invoke({"question": "q"}, {"configurable": {"thread_id": "theirs"}})
    refused = here("resume", "mine", "--db", file)
    assert refused.returncode == 2
    assert "is of a graph of your own, with a run in its node think" in refused.stderr
    assert "invoke it with None and thread_id 'mine'" in refused.stderr
    refused = here("resume", "theirs", "--db", file)
    assert (refused.returncode, "without a run of specreason" in refused.stderr) == (2, True)
    assert f"no run 'nobody' in {file}" in here("resume", "nobody", "--db", file).stderr
    for thread in ("mine", "theirs", "nobody"):
        assert here("runs", "rm", thread, "--db", file).returncode == 2
    with sqlite3.connect(file) as connection:
        kept = {row[0] for row in connection.execute("select distinct thread_id from checkpoints")}
    assert kept == {"mine", "theirs"}


def test_a_run_without_a_file_is_whole(here: Command, tmp_path: Path) -> None:
    done = here("solve", "--no-keep", "--json", QUESTION)
    assert (done.returncode, "not kept" in done.stderr) == (0, True)
    assert json.loads(done.stdout)["stop_reason"] == "answered"
    assert list(tmp_path.rglob("*.sqlite*")) == []
    for wrong in (["--db", str(tmp_path / "a.db")], ["-f", "q.jsonl"]):
        assert here("solve", "--no-keep", QUESTION, *wrong).returncode == 2


def test_a_run_in_memory_is_that_of_a_file(abacus: EnginePair, tmp_path: Path) -> None:
    from specreason_graph.runs.resume import Run

    def tokens(file: Path | None) -> list[list[int]]:
        with RunStore.open(file) as store:
            run = Run.start(store, make_launch(QUESTION, models=BUILT_IN, settings={"seed": 2}), abacus)
            return [step.token_ids for step in run.advance()]

    assert tokens(None) == tokens(tmp_path / "runs.sqlite")


def test_an_engine_that_fails_is_named_with_the_command_that_goes_on(
    here: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from specreason_graph.engines.fake import FakeEngine
    from specreason_graph.errors import EngineError
    from specreason_graph.runs.launch import Launch

    failing = FakeEngine(lambda _: "One.\n\n", lambda _: 9, failure=lambda _: EngineError("it is ill", engine="fake"))
    monkeypatch.setattr(Launch, "open_pair", lambda _: EnginePair(failing, failing))
    failed = here("solve", "q", "--base", "fake", "--draft", "fake", "--db", str(tmp_path / "a b.sqlite"))
    assert failed.returncode == 1
    assert f"--db '{tmp_path / 'a b.sqlite'}'" in failed.stderr
