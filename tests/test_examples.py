"""Examples run, and print what they promise."""

import importlib.util
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_python_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (EXAMPLES.parent / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {})  # noqa: S102 - our own README
    assert "answered The answer is \\boxed{385}." in capsys.readouterr().out


def test_the_readme_shows_what_its_first_command_prints(
    command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    block = re.findall(r"```console\n(.*?)```", (EXAMPLES.parent / "README.md").read_text(), re.DOTALL)[0]
    line, _, shown = block.partition("\n")
    done = command(*shlex.split(line.partition("specreason ")[2]))
    assert done.returncode == 0
    assert lasting(shown) == lasting(done.stdout)


def lasting(output: str) -> list[str]:
    """Lines without what differs between runs and processors: thread, scores, seconds."""
    lines = [re.sub(r"^thread \S+|\d+\.\d+( s)?\b", "", line) for line in output.strip().splitlines()]
    return [" ".join(line.split()) for line in lines]


def test_direct() -> None:
    spec = importlib.util.spec_from_file_location("direct", EXAMPLES / "direct.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main().startswith("The answer is \\boxed{")
