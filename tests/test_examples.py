"""Examples run, and print what they promise."""

import importlib.util
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_direct() -> None:
    spec = importlib.util.spec_from_file_location("direct", EXAMPLES / "direct.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main().startswith("The answer is \\boxed{")
