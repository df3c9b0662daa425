"""The package is what its files say: nothing forgotten in a build, one name for the stages, records documented."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import specreason_graph
from specreason_graph import records, summary
from specreason_graph.record.records import Record

ROOT = Path(__file__).parent.parent


def test_every_package_folder_is_built() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent for path in (ROOT / "specreason_graph").rglob("__init__.py")} | {
        ROOT / "specreason_graph/nodes"
    }
    assert sorted(listed) == sorted(".".join(folder.relative_to(ROOT).parts) for folder in folders)


def test_public_names_are_sorted_and_exist() -> None:
    names = specreason_graph.__all__
    assert sorted(names, key=str.swapcase) == names or sorted(names) == names
    assert all(hasattr(specreason_graph, name) for name in names)


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


@pytest.mark.parametrize(
    "record", [r for m in (records, summary) for r in vars(m).values() if isinstance(r, type) and issubclass(r, Record)]
)
def test_every_field_of_a_record_is_described(record: type[Record]) -> None:
    assert all(field.description for field in record.model_fields.values())
