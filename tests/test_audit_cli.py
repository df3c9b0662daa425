"""``specreason audit``: what it prints, its exit codes, and that it writes nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.log import read_eval_log
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from specreason_graph import EnginePair, create_specreason
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.cli.app import run
from specreason_graph.cli.audit.locate import engines_of
from specreason_graph.cli.options import ModelOptions
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import ConfigError
from specreason_graph.runs.launch import BUILT_IN, Launch
from specreason_graph.runs.store import RunStore
from tests.support.audited import meddling, think
from tests.support.commands import work_on
from tests.support.databases import opened
from tests.support.old_runs import FIRST, copied

QUESTION = "Zoe has 25 boxes with 18 coins in each box. Zoe sells 65 coins. How many coins does Zoe have now?"


pytestmark = pytest.mark.usefixtures("on_abacus")


@pytest.fixture(scope="module")
def solved(abacus: EnginePair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with two runs of the reference pair."""
    file = tmp_path_factory.mktemp("audit") / "runs.sqlite"
    with pytest.MonkeyPatch.context() as patch:
        work_on(abacus, patch)
        for seed in ("3", "4"):
            assert run(["solve", "--db", str(file), "--seed", seed, QUESTION]) == 0
    return file


@pytest.fixture
def threads(solved: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    run(["audit", "list", "--json", "--db", str(solved)])
    return [row["thread"] for row in json.loads(capsys.readouterr().out)]


def commands(first: str, second: str, folder: Path) -> Iterator[tuple[list[str], set[int]]]:
    """Every audit command that looks at a run, with the exit codes it may have."""
    for asked in (["show"], ["verify"], ["replay"], ["replay", "--how", "rescore"], ["replay", "--how", "regenerate"]):
        yield [asked[0], first, *asked[1:]], {0}
    yield ["whatif", first, "--threshold", "9"], {0}
    yield ["whatif"], {0}
    yield ["whatif", "--target", "0.2"], {0}
    yield ["diff", first, second], {0, 1}
    yield ["diff", first, first], {0}
    yield ["fork", first, "--at", "1", "--threshold", "9"], {0}
    yield ["list"], {0}
    yield ["report", first, "-o", str(folder / "run.html")], {0}
    yield ["report", first, "--compare", second, "-o", str(folder / "two.html")], {0}
    yield ["report", "-o", str(folder / "pages")], {0}
    yield ["prune", first, "--dry-run"], {0}


def test_no_audit_command_changes_a_row_of_the_thread(
    solved: Path, threads: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with meddling(str(solved)) as meddler:
        before = [meddler.fingerprint(thread) for thread in threads]
        for arguments, allowed in commands(threads[0], threads[1], tmp_path):
            assert run(["audit", *arguments, "--db", str(solved)]) in allowed, arguments
            assert capsys.readouterr().out
            assert run(["audit", *arguments, "--db", str(solved), "--json"]) in allowed, arguments
            json.loads(capsys.readouterr().out)
            assert [meddler.fingerprint(thread) for thread in threads] == before, arguments


def test_runs_are_given_to_other_tools(
    solved: Path, threads: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with meddling(str(solved)) as meddler:
        before = [meddler.fingerprint(thread) for thread in threads]
        assert run(["audit", "export", threads[0], "--db", str(solved)]) == 0
        kinds = [json.loads(line)["entry"]["kind"] for line in capsys.readouterr().out.splitlines()]
        assert (kinds[0], kinds[-1]) == ("manifest", "answer")
        log = tmp_path / "runs.eval"
        assert run(["audit", "export", "--format", "inspect", "-o", str(log), "--db", str(solved)]) == 0
        assert len(read_eval_log(str(log)).samples or ()) == len(threads)
        assert run(["audit", "report", threads[0], "-o", str(tmp_path / "run.html"), "--db", str(solved)]) == 0
        assert "<title>" in (tmp_path / "run.html").read_text()
        assert [meddler.fingerprint(thread) for thread in threads] == before
    capsys.readouterr()
    assert run(["audit", "schema"]) == 0
    assert "properties" in json.loads(capsys.readouterr().out)
    for bad in (["--format", "pdf"], ["--format", "inspect"], ["--format", "inspect", "-o", "x.pdf"]):
        assert run(["audit", "export", *bad, "--db", str(solved)]) == 2


def test_a_fork_is_a_run_like_any_other(solved: Path, threads: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", "fork", threads[-1], "--at", "1", "--text", "As I say.", "--json", "--db", str(solved)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["steps"][0]["text"] == "As I say.\n\n"
    asks = ["--set", 'review={"low": 1, "high": 9}']
    assert run(["audit", "fork", threads[-1], "--at", "1", *asks, "--db", str(solved)]) == 2
    assert "no human to be asked; set it to null" in capsys.readouterr().err
    assert run(["resume", document["thread"], "--db", str(solved), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == document["steps"]
    assert run(["audit", "verify", document["thread"], "--db", str(solved)]) == 0
    assert run(["audit", "show", document["thread"], "--db", str(solved)]) == 0
    assert "forked from step 1 of run" in capsys.readouterr().out


def test_a_finding_has_exit_code_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "runs.sqlite")
    with opened(file) as saver:
        think(saver, "one")
        think(saver, "two")
    with meddling(file) as meddler:
        rows = meddler.steps("one")
        meddler.write("one", rows[2], bytes(rows[2][3]).replace(b"Step 2", b"Step X"))
    assert run(["audit", "verify", "one", "--db", file]) == 1
    assert "step 3: is not what was written" in capsys.readouterr().out
    assert run(["audit", "verify", "one", "--db", file, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["step"] == 2
    page = str(tmp_path / "page.html")
    assert run(["audit", "report", "two", "--compare", "one", "-o", page, "--db", file]) == 1
    assert run(["audit", "report", "two", "-o", page, "--db", file]) == 0


def test_pages_stay_in_their_folder_however_runs_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, folder = str(tmp_path / "runs.sqlite"), tmp_path / "a" / "pages"
    with opened(file) as saver:
        think(saver, "one")
        (found,) = read_runs(saver, "one")
    outside = replace(found, manifest={**found.manifest, "run": "../../x"})
    monkeypatch.setattr("specreason_graph.cli.audit.export.read_all_runs", lambda _: [outside, found, found])
    assert run(["audit", "report", "-o", str(folder), "--db", file]) == 1
    written = [path for path in tmp_path.rglob("*.html") if path.name != "index.html"]
    assert {path.parent for path in written} == {folder}
    assert len(written) == 3


def test_all_pages_need_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, page = str(tmp_path / "runs.sqlite"), tmp_path / "page.html"
    with opened(file) as saver:
        think(saver, "one")
    assert run(["audit", "report", "-o", str(page), "--db", file]) == 2
    assert f"-o {page} is a file, and the pages of all runs need a folder" in capsys.readouterr().err
    assert not page.with_suffix("").exists()


def test_a_score_is_told_apart_from_the_threshold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, close = str(tmp_path / "runs.sqlite"), (0.0,) * 8 + (0.002, 0.998)
    with (
        opened(file) as saver,
        EnginePair(FakeEngine(["One.\n\n", "</think>"]), FakeEngine(["</think>", "So."], [close])) as pair,
    ):
        create_specreason(pair).compile(checkpointer=saver).invoke(
            {"question": "Q?"}, {"configurable": {"thread_id": "close"}}
        )
    assert run(["audit", "whatif", "close", "--threshold", "9", "--db", file]) == 0
    assert "step 1: 8.998 would be rejected" in capsys.readouterr().out
    assert run(["audit", "show", "close", "--db", file]) == 0
    assert "judge digit   threshold 7   writer draft" in capsys.readouterr().out
    assert run(["audit", "whatif", "close", "--db", file]) == 0
    assert "under its own policy; name another --threshold, --judge" in capsys.readouterr().out


def test_engines_are_opened_as_the_manifest_names_them() -> None:
    saver = InMemorySaver()
    think(saver, "one", 2)

    def launch(engine: str, named: Any) -> Launch:
        (found,) = read_runs(saver, "one")
        for role in ("base", "draft"):
            found.manifest["engines"][role] |= {"engine": engine, "dtype": engine, "options": {"context": 512}}
        return engines_of(found, "postgresql://not/asked", ModelOptions(**named))

    assert (launch("vllm", {}).engine, launch("vllm", {}).base_options) == ("vllm", {"context": 512})
    assert launch("vllm", {"engine": "transformers"}).base_options == {}
    assert (launch("server", {"base_url": "http://x"}).engine, launch("server", {}).dtype) == ("server", None)
    with pytest.raises(ConfigError, match="give --base-url"):
        launch("server", {}).open_pair()


def test_runs_on_postgresql_are_read_by_url(postgres: str, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(postgres) as saver:
        think(saver, "by-url")
    for command in (
        ["verify", "by-url"],
        ["show", "by-url"],
        ["replay", "by-url"],
        ["whatif", "by-url", "--threshold", "9"],
    ):
        assert run(["audit", *command, "--db", postgres]) == 0
    assert run(["audit", "verify", "nowhere", "--db", postgres]) == 2
    assert "no thread 'nowhere'" in capsys.readouterr().err
    assert run(["audit", "list", "--db", "postgresql:///nowhere?host=/nowhere"]) == 2


class Other(TypedDict, total=False):
    answer: str


def _bad(folder: Path) -> Iterator[tuple[list[str], str]]:
    """Commands on what cannot be audited, and what is said of it."""
    nothing, text, empty, foreign, begun = (
        folder / name for name in ("no.db", "text.db", "empty.db", "other.db", "begun.db")
    )
    text.write_text("not a database at all, but long enough to be looked at")
    sqlite3.connect(empty).execute("create table x (y)").connection.close()
    with SqliteSaver.from_conn_string(str(foreign)) as saver:
        graph = StateGraph(Other)
        graph.add_node("n", lambda _: {"answer": "x"})
        graph.add_edge(START, "n")
        graph.compile(checkpointer=saver).invoke({"answer": ""}, {"configurable": {"thread_id": "t"}})
        think(saver, "ours", 2)
    with RunStore.open(begun) as runs:
        runs.saver.setup()
        thread = runs.add(Launch(**BUILT_IN, question=QUESTION))
    for verb in ("show", "verify", "replay", "whatif"):
        yield [verb, "t", "--db", str(nothing)], "there is no database"
        yield [verb, "t", "--db", str(text)], "cannot be read"
        yield [verb, "t", "--db", str(empty)], "holds no LangGraph checkpoints"
        yield [verb, "t", "--db", str(foreign)], "holds no run of specreason"
        yield [verb, "x", "--db", str(foreign)], "no thread 'x' in this database"
        yield [verb, thread, "--db", str(begun)], "no thread"
    yield ["verify", FIRST, "--db", str(folder / "old.db")], "it has no ledger"
    yield ["show", "ours", "--run", "zzz", "--db", str(foreign)], "no run 'zzz'"
    yield ["verify", "ours", "--key", "zzz", "--db", str(foreign)], "cannot read the key file zzz"
    yield ["verify", "ours", "--signature", "zzz", "--db", str(foreign)], "cannot read the signature zzz"
    yield ["replay", "ours", "--how", "loudly", "--db", str(foreign)], "write recorded, rescore or regenerate"
    yield ["whatif", "ours", "--threshold", "12", "--db", str(foreign)], "the scale of the digit judge is 0 to 9"
    yield (
        ["whatif", "ours", "--set", "judge.reduction=loud", "--db", str(foreign)],
        "judge.reduction = 'loud' is not allowed",
    )
    yield ["whatif", "--target", "7", "--db", str(foreign)], "target = 7"


def test_what_cannot_be_audited_is_said_in_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(copied(1, tmp_path), tmp_path / "old.db")
    cases = list(_bad(tmp_path))
    before = _contents(tmp_path)
    for arguments, problem in cases:
        assert run(["audit", *arguments]) == 2, arguments
        said = capsys.readouterr().err
        assert problem in said, arguments
        assert said.count("\n") == 1, said
        assert _contents(tmp_path) == before, arguments


def _contents(folder: Path) -> dict[str, str]:
    """The databases of a folder; what SQLite puts beside a file to read it is no content."""
    files = [file for file in folder.iterdir() if file.suffix == ".db"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_runs_of_the_first_schema_are_still_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = copied(1, tmp_path)
    for command in (
        ["list"],
        ["show", FIRST],
        ["replay", FIRST],
        ["whatif", FIRST, "--threshold", "9"],
    ):
        assert run(["audit", *command, "--db", file]) == 0
        assert capsys.readouterr().out
    assert run(["resume", FIRST, "--db", file]) == 0
    assert "385" in capsys.readouterr().out
