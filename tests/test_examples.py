"""Examples run, and print what they promise."""

import importlib.util
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.read.reader import read_runs
from tests.support.databases import opened

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [page for page in DOCUMENTS if "```python" in page.read_text()]
PRINTED = {"tune.md": "-4.0 0.033"}
"""What a page prints that does not solve the problem of the others."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_pages(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        exec(block, names)  # noqa: S102 - our own page
    assert PRINTED.get(page.name, "385") in capsys.readouterr().out


def test_the_readme_shows_what_its_first_command_prints(
    command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    block = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    line, _, shown = block.partition("\n")
    done = command(*shlex.split(line.partition("specreason ")[2]))
    assert done.returncode == 0
    assert lasting(shown) == lasting(done.stdout)


def lasting(output: str) -> list[str]:
    """Lines without what differs between runs and machines: thread, file, scores, seconds, wasted speculation.

    A call finds in the cache what the base has begun ahead of it, which is a matter of time, too. So is the
    advice: whether speculation gained or lost, and whether another setting would have done better.
    """
    lines = [re.sub(r"^thread \S+|^kept in .*|\d+\.\d+( s)?\b", "", line) for line in output.strip().splitlines()]
    lines = [re.sub(r"\d+ cached", "", line) for line in lines]
    lines = [
        re.sub(r"(steps took|base alone took)\b.*", r"\1", line)
        for line in lines
        if not line.strip().startswith("better:")
    ]
    return [" ".join(line.split()) for line in lines if "wasted speculation" not in line]


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["direct", "subgraph", "chain", "agent", "own_judge"])
def test_example(name: str) -> None:
    answers = {
        "direct": "The answer is \\boxed{385}.",
        "subgraph": "The answer is \\boxed{385}. The answer is \\boxed{385}.",
        "chain": 385,
        "agent": "No: 6 pens are missing.",
        "own_judge": "The answer is \\boxed{385}.",
    }
    assert load(name).main() == answers[name]


def test_example_of_a_review() -> None:
    asked: list[Any] = []

    def human(question: Any) -> str:
        asked.append(question)
        return "reject" if len(asked) == 1 else "accept"

    steps = load("review").main(human)
    reviewed = [step for step in steps if step.decision.review]
    assert len(reviewed) == len(asked) > 1
    assert [step.decision.reason for step in reviewed[:2]] == ["rejected_by_reviewer", "accepted_by_reviewer"]


def test_example_of_an_agent_that_is_audited(
    tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    place = str(tmp_path / "agent.sqlite")
    assert load("audited_agent").main("shop", "Can we send 20 pens?", place) == "No: 6 pens are missing."
    with opened(place) as saver:
        runs = read_runs(saver, "shop")
        assert [verify(run).findings for run in runs] == [[], []]
        assert [run.manifest["turns"][-1]["speaker"] for run in runs] == ["tool", "user"]
    for asked in (["fork", "shop", "--at", "1"], ["replay", "shop", "--how", "rescore"]):
        done = command("audit", *asked, "--run", runs[0].run, "--db", place)
        assert done.returncode == 2
        assert "the base of this run is an engine of kind 'fake', which no command can open" in done.stderr


def test_examples_are_short() -> None:
    files = list(EXAMPLES.glob("*.py"))
    assert len(files) == 8
    assert all(len(file.read_text().splitlines()) < 60 for file in files)
