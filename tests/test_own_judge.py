"""A judge of the caller's own, in a package of its own: the command line and the audit find it by its entry point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
QUESTION = "Zoe has 25 boxes with 18 coins in each box. Zoe sells 65 coins. How many coins does Zoe have now?"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as an installed package."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "cautious.py").write_text((ROOT / "examples" / "own_judge.py").read_text())
    told = folder / "cautious-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: cautious\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text("[specreason_graph.strategies]\ncautious = cautious:Cautious\n")
    return folder


def test_the_command_line_and_the_audit_find_a_judge_by_its_entry_point(package: Path, tmp_path: Path) -> None:
    def run(*arguments: str, knows: bool = True) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([*([str(package)] if knows else []), str(ROOT)])
        return subprocess.run(
            [sys.executable, "-m", "specreason_graph", *arguments], capture_output=True, text=True, check=False,
            env={**os.environ, "XDG_DATA_HOME": str(tmp_path), "PYTHONPATH": path}, cwd=tmp_path,
        )  # fmt: skip

    settings = ["--judge", "cautious", "--set", "judge.threshold=-3", "--temperature", "0"]
    solved = run("solve", QUESTION, *settings, "--json")
    assert solved.returncode == 0, solved.stderr
    document = json.loads(solved.stdout)
    assert document["config"]["judge"] == {"kind": "cautious", "threshold": -3.0}
    assert {step["decision"].get("judge") for step in document["steps"] if step["score"]} == {"cautious"}
    thread = document["thread"]
    for command in (
        ["verify"],
        ["replay"],
        ["whatif", "--threshold", "-0.01"],
        ["show"],
        ["report", "-o", "page.html"],
    ):
        done = run("audit", command[0], thread, *command[1:])
        assert done.returncode == 0, done.stderr
    assert "by cautious, threshold -3" in (tmp_path / "page.html").read_text()
    assert run("audit", "verify", thread, knows=False).returncode == 0
    replayed = run("audit", "replay", thread, knows=False)
    assert replayed.returncode == 2
    assert "there is no judge 'cautious' here; register the class that the run had" in replayed.stderr
    again = run("solve", QUESTION, *settings, knows=False)
    assert (again.returncode, "there is no judge 'cautious' here" in again.stderr) == (2, True)
