"""Python files that are in no package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any


def load(file: Path) -> Any:
    """The module that a file is."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
