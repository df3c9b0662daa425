"""Files that commands write and read: private, whole, never over a database; and databases that cannot be read."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.log import read_eval_log

from specreason_graph.cli.app import run
from specreason_graph.runs.launch import Launch
from tests.support.audited import think
from tests.support.databases import opened
from tests.support.hostile import steering, write_hostile
from tests.support.scripts import stepwise


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with two runs, in WAL mode as LangGraph makes them."""
    file = tmp_path_factory.mktemp("recorded") / "runs.db"
    with opened(str(file)) as saver:
        think(saver, "one", 3)
        think(saver, "two", 3)
    return file


@pytest.fixture
def database(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that in the current folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(recorded, tmp_path / "runs.db"))


@pytest.fixture
def thinking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that think do it with scripted engines."""
    monkeypatch.setattr(Launch, "open_pair", lambda _: stepwise(2))


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(file: Path | str) -> int:
    return stat.S_IMODE(Path(file).stat().st_mode)


def beside(database: Path) -> set[str]:
    """The files of a folder, without those that SQLite makes where it reads a database in WAL mode."""
    return {file.name for file in database.parent.iterdir()} - {"runs.db-wal", "runs.db-shm"}


REFUSED = [
    "runs.db", "./runs.db", "link", "link-to-link", "hard", "runs.db-wal", "runs.db-shm", "runs.db-journal",
    "runs.db.lock", "runs.db.claims", "other.db", "other-link", "other.db-wal", "folder", "folder/", "pipe",
    "/dev/full", "socket", "",
]  # fmt: skip
WRITERS = [
    ["audit", "anchor"],
    ["audit", "report", "one"], ["audit", "report", "one", "--compare", "two"], ["audit", "export"],
    ["solve", "-f", "questions.jsonl", "--base", "m", "--draft", "m"],
]  # fmt: skip


@pytest.mark.usefixtures("thinking")
@pytest.mark.parametrize("writer", WRITERS, ids=" ".join)
@pytest.mark.parametrize("target", REFUSED)
def test_nothing_is_written_over_a_database_or_into_what_is_no_file(
    writer: list[str], target: str, database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(database, "other.db")
    Path("link").symlink_to("runs.db")
    Path("link-to-link").symlink_to("link")
    Path("other-link").symlink_to("other.db")
    os.link("runs.db", "hard")
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("questions.jsonl").write_text('{"question": "What?"}')
    with closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind("socket")
        before = beside(database), database.read_bytes()
        assert run([*writer, "--db", "runs.db", "-o", target]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert len(said.err.splitlines()) == 1
    assert (beside(database), database.read_bytes()) == before


def test_a_log_for_inspect_is_not_written_over_a_database(database: Path) -> None:
    os.link("runs.db", "hard.eval")
    before = database.read_bytes()
    assert run(["audit", "export", "--format", "inspect", "--db", "runs.db", "-o", "hard.eval"]) == 2
    assert database.read_bytes() == before
    assert run(["audit", "export", "--format", "inspect", "--db", "runs.db", "-o", "new.eval"]) == 0
    assert len(read_eval_log("new.eval").samples or ()) == 2


@pytest.mark.usefixtures("thinking")
@pytest.mark.parametrize("target", ["settings.toml", "questions.jsonl", "fresh.db", "fresh.db-wal", "fresh.db.lock"])
def test_results_are_not_written_over_what_the_command_uses(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("settings.toml").write_text("seed = 1\n")
    Path("questions.jsonl").write_text('{"question": "What?"}')
    before = {file: file.read_bytes() for file in Path().iterdir()}
    asked = ["solve", "-f", "questions.jsonl", "--base", "m", "--draft", "m", "--config", "settings.toml"]
    assert run([*asked, "--db", "fresh.db", "-o", target]) == 2
    assert {file: file.read_bytes() for file in Path().iterdir()} == before


def test_pages_are_not_written_over_a_database_and_before_the_first_is_written(database: Path) -> None:
    Path("pages").mkdir()
    shutil.copy(database, "pages/index.html")
    before = Path("pages/index.html").read_bytes()
    assert run(["audit", "report", "--db", "runs.db", "-o", "pages"]) == 2
    assert [file.name for file in Path("pages").iterdir()] == ["index.html"]
    assert Path("pages/index.html").read_bytes() == before


def test_a_link_in_a_folder_of_pages_is_replaced_and_not_followed(database: Path) -> None:
    assert run(["audit", "report", "--db", "runs.db", "-o", "pages"]) == 0
    (page, index) = sorted(Path("pages").iterdir())[0], Path("pages/index.html")
    Path("mine.txt").write_text("mine")
    for file in (page, index):
        file.unlink()
        file.symlink_to(Path("mine.txt").resolve())
    assert run(["audit", "report", "--db", "runs.db", "-o", "pages"]) == 0
    assert Path("mine.txt").read_text() == "mine"
    assert not page.is_symlink()
    assert not index.is_symlink()


def test_a_file_is_replaced_as_a_whole_and_keeps_its_mode(database: Path) -> None:
    Path("run.html").write_text("of before")
    Path("run.html").chmod(0o644)
    os.link("run.html", "same")
    for arguments in (["audit", "report", "one"], ["audit", "export"]):
        assert run([*arguments, "--db", "runs.db", "-o", "run.html"]) == 0
        assert mode("run.html") == 0o644
    assert Path("same").read_text() == "of before"
    assert not [file for file in Path().iterdir() if file.name.startswith(".")]


@pytest.mark.usefixtures("thinking")
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_what_is_made_is_private_whatever_the_umask(
    mask: int, database: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    database.chmod(0o640)
    there = set(tmp_path.rglob("*"))
    Path("questions.jsonl").write_text('{"question": "What?"}')
    models = ["--base", "m", "--draft", "m"]
    seen: list[Path] = []
    asked = Launch.compile

    def watched(*given: Any, **more: Any) -> Any:
        found = [file for file in tmp_path.rglob("*") if file.name.endswith(("-wal", "-shm"))]
        assert all(mode(file) == 0o600 for file in found)
        seen.extend(found)
        return asked(*given, **more)

    monkeypatch.setattr(Launch, "compile", watched)
    with umask(mask):
        assert run(["solve", "What?", *models]) == 0
        assert run(["solve", "-f", "questions.jsonl", *models, "--db", "new/er/a.db", "-o", "answers.jsonl"]) == 0
        assert run(["audit", "report", "--db", "runs.db", "-o", "all/pages"]) == 0
        assert run(["audit", "report", "one", "--db", "runs.db", "-o", "sub/run.html"]) == 0
        assert run(["audit", "export", "--db", "runs.db", "-o", "ledger.jsonl"]) == 0
        assert run(["audit", "export", "--db", "runs.db", "--format", "inspect", "-o", "log.eval"]) == 0
    made = set(tmp_path.rglob("*")) - there - {tmp_path / "questions.jsonl"}
    made = {file for file in made if not file.name.startswith("runs.db")}
    assert {tmp_path / name for name in ("data/specreason/runs.sqlite", "new/er/a.db", "new/er/a.db.lock",
                                         "answers.jsonl", "all/pages/index.html", "log.eval")} <= made  # fmt: skip
    assert {file.name: oct(mode(file)) for file in made if mode(file) != (0o700 if file.is_dir() else 0o600)} == {}
    assert seen, "SQLite made no file beside a database"
    assert mode(database) == 0o640


def test_results_go_into_pipes_and_standard_output(database: Path) -> None:
    command = [sys.executable, "-m", "specreason_graph", "audit", "export", "--db", "runs.db", "-o"]
    told = subprocess.run([*command[:-1]], capture_output=True, check=True).stdout
    piped = subprocess.run([*command, "/dev/stdout"], capture_output=True, check=True)
    assert (piped.stdout, piped.stderr) == (told, b"written to /dev/stdout\n")
    with Path("kept").open("wb") as kept:
        kept.write(b"first\n")
        kept.flush()
        subprocess.run([*command, "/dev/fd/1"], stdout=kept, check=True)
    assert Path("kept").read_bytes() == b"first\n" + told
    assert Path("/dev/stdout").is_symlink()
    os.mkfifo("pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(Path("pipe").read_bytes()))
    reader.start()
    while run(["audit", "export", "--db", "runs.db", "-o", "pipe"]) == 2:  # until the reader has opened it
        pass
    reader.join(20)
    assert read == [told]
    assert Path("pipe").is_fifo()


def test_names_in_pages_are_escaped_and_clean(tmp_path: Path) -> None:
    file = str(tmp_path / "runs.db")
    write_hostile(file, thread="</title><script>x</script>\x1b[2J\u202e")
    assert run(["audit", "report", "--db", file, "-o", str(tmp_path / "pages")]) == 0
    for page in (tmp_path / "pages").iterdir():
        assert steering(page.name) == set()
        text = page.read_text(encoding="utf-8")
        assert steering(text) <= {"\u200d", "\u3164", "\U000e0100"}  # scripts and emoji need joiners
        assert "<script>x" not in text


@contextmanager
def without_root() -> Iterator[None]:
    """Work as nobody, for whom permissions count; as who is not root they count anyway."""
    if os.geteuid():
        yield
        return
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def shelf(recorded: Path) -> Iterator[Path]:
    """A folder that everybody may enter and nobody but root may write to, with databases."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    for name in ("runs.db", "changed.db", "secret.db"):
        shutil.copy(recorded, folder / name)
    with closing(sqlite3.connect(folder / "changed.db")) as connection:
        connection.execute("create table more (x)")
        connection.commit()
        for ending in ("", "-wal"):
            shutil.copy(folder / f"changed.db{ending}", folder / f"lone.db{ending}")
    for file in folder.iterdir():
        file.chmod(0o444)
    (folder / "secret.db").chmod(0)
    folder.chmod(0o555)
    assert run(["audit", "verify", "one", "--db", str(recorded)]) == 0  # imports all there is, as who may
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_wal_database_in_a_folder_that_is_only_readable_is_audited(
    shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(shelf.iterdir())
    with without_root():
        for arguments in (["list"], ["verify", "one"], ["show", "one"], ["diff", "one", "one"]):
            assert run(["audit", *arguments, "--db", str(shelf / "runs.db")]) == 0
        assert sorted(shelf.iterdir()) == before
        capsys.readouterr()
        assert run(["audit", "list", "--db", str(shelf / "lone.db")]) == 2
        assert "copy the database and its -wal" in capsys.readouterr().err
        assert run(["audit", "list", "--db", str(shelf / "secret.db")]) == 2
        assert "Permission denied" in capsys.readouterr().err


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("kind", ["folder", "empty", "truncated", "encrypted", "text", "pipe", "tables", "loop"])
@pytest.mark.parametrize("arguments", [["list"], ["show", "one"], ["prune", "one"], ["report"]], ids=lambda a: a[0])
def test_what_cannot_be_read_is_bad_input(
    kind: str, arguments: list[str], database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, place = database.read_bytes(), Path("here.db")
    match kind:
        case "folder":
            place.mkdir()
        case "pipe":
            os.mkfifo(place)
        case "loop":
            place.symlink_to(place)
        case "tables":
            sqlite3.connect(place).execute("create table x (y)").connection.close()
        case _:
            place.write_bytes({"empty": b"", "truncated": whole[: len(whole) // 2], "encrypted": bytes(range(256)) * 40,
                               "text": b"no database"}[kind])  # fmt: skip
    assert run(["audit", *arguments, "--db", "here.db"]) == 2
    said = capsys.readouterr()
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    assert "here.db" in said.err


def test_a_database_that_another_holds_is_bad_input(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("pragma journal_mode = delete")
        other.execute("begin exclusive")
        assert run(["audit", "list", "--db", "runs.db"]) == 2
    assert "another process holds it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:geheim@localhost:1/x", "postgresql://me:x@geheim@localhost:1/x", "mysql://me:geheim@h/x",
        "postgresql://me:x/geheim@localhost:1/x", "postgresql://me:ge heim@localhost:1/x",
        "postgresql://localhost:1/x?password=geheim", "postgresql://me:%geheim@localhost:1/x",
        "postgres://me:geheim@[::1/x", "postgresql://me@localhost:1/x?password=geheim&no=1",
    ],
)  # fmt: skip
def test_a_password_is_never_repeated(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", "list", "--db", address]) == 2
    said = capsys.readouterr()
    assert "heim" not in said.out + said.err
    assert said.err.startswith("error: ")


def test_resume_makes_nothing(tmp_path: Path, command: Callable[..., Any]) -> None:
    sqlite3.connect(tmp_path / "mine.db").execute("create table mine (x)").connection.close()
    before = (tmp_path / "mine.db").read_bytes()
    for place in (tmp_path / "typo" / "runs.db", tmp_path / "mine.db"):
        ended = command("resume", "t", "--db", str(place))
        assert (ended.returncode, ended.stdout) == (2, "")
        assert "no run 't'" in ended.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["mine.db"]
    assert (tmp_path / "mine.db").read_bytes() == before
