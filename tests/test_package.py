"""The package is what its files say: nothing forgotten in a build, one name for the stages, records documented."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import specreason_graph
from specreason_graph import audit, record
from specreason_graph.record.records import Record

ROOT = Path(__file__).parent.parent


def test_every_package_folder_is_built() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent for path in (ROOT / "specreason_graph").rglob("__init__.py")} | {
        ROOT / "specreason_graph/nodes"
    }
    assert sorted(listed) == sorted(".".join(folder.relative_to(ROOT).parts) for folder in folders)


def typed_names() -> dict[str, str]:
    """The names that a type checker is given by ``specreason_graph/__init__.py``, and the modules they are in."""
    tree = ast.parse((ROOT / "specreason_graph/__init__.py").read_text())
    (checked,) = [
        node for node in tree.body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]  # fmt: skip
    imports = [node for node in checked.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_public_names_are_complete_sorted_and_few() -> None:
    names = specreason_graph.__all__
    assert set(names) == set(typed_names())
    assert names == sorted(names)
    assert len(names) <= 12


def test_public_names_are_what_a_type_checker_takes_them_for() -> None:
    for name, module in typed_names().items():
        assert getattr(specreason_graph, name) is getattr(importlib.import_module(module), name)
    with pytest.raises(AttributeError, match="module 'specreason_graph' has no attribute 'nothing'"):
        _ = specreason_graph.nothing


def test_stages_have_one_import_name() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "import nodes"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "import specreason_graph.nodes" in result.stderr
    assert importlib.import_module("specreason_graph.nodes").Draft.__module__ == "specreason_graph.nodes.draft"


def test_importing_the_package_loads_no_model_library() -> None:
    heavy = "('torch', 'transformers', 'vllm')"
    code = f"import sys, specreason_graph.cli.app; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def records() -> Iterator[type[Record]]:
    """All that is kept, sent as an event, or told by the audit."""
    for package in (audit, record):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    left = [Record]
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        if kind.__module__.startswith("specreason_graph."):
            yield kind


def test_every_field_of_a_record_is_described() -> None:
    found = list(records())
    bare = [f"{kind.__name__}.{name}" for kind in found for name, field in kind.model_fields.items()
            if not field.description]  # fmt: skip
    assert bare == []
    assert len(found) > 40
