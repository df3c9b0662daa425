"""Examples run, and print what they promise."""

import importlib.util
import re
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_python_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (EXAMPLES.parent / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {})  # noqa: S102 - our own README
    assert "answered The answer is \\boxed{385}." in capsys.readouterr().out


def test_direct() -> None:
    spec = importlib.util.spec_from_file_location("direct", EXAMPLES / "direct.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main().startswith("The answer is \\boxed{")
