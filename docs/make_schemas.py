"""Writes ``schemas/``: a JSON Schema for what each command prints with ``--json``: ``python docs/make_schemas.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, RootModel

from specreason_graph.bench.compare import Comparison
from specreason_graph.bench.figures import Figures
from specreason_graph.cli.documents import DOCUMENTS
from specreason_graph.cli.plan_document import PlanDocument
from specreason_graph.cli.vocabulary import schema
from specreason_graph.tuning.tune import Tuned

FOLDER = Path(__file__).with_name("schemas")


class Comparisons(RootModel[list[Comparison]]):
    """Pairs of strategies: `bench compare`."""


OF_EXTRAS: dict[str, type[BaseModel]] = {
    "plan": PlanDocument, "tune": Tuned, "bench-run": Figures, "bench-compare": Comparisons,
}  # fmt: skip
"""Documents of commands that need more libraries than the others."""


def schemas() -> dict[str, dict[str, Any]]:
    """All schemas by name."""
    return {name: schema(model) for name, model in sorted((DOCUMENTS | OF_EXTRAS).items())}


def text_of(found: dict[str, Any]) -> str:
    """A schema as its file holds it."""
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, found in schemas().items():
        (FOLDER / f"{name}.json").write_text(text_of(found), encoding="utf-8")
