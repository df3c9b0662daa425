"""Databases of earlier schema versions, and what the packages of their time said of the runs in them.

They were made with ``stepwise(STEPS, OPINIONS)``, but for the threads ``guarded``, ``deadline``, ``late`` and
``proposals``, in which other things were tried; ``guarded`` and ``deadline`` of version 3 were pruned then.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from specreason_graph import EnginePair
from tests.support.scripts import stepwise

DATA = Path(__file__).parents[1] / "data"
VERSIONS = (2, 3, 4, 5, 6)
STEPS, OPINIONS = 6, (9, 2, 8, 6)
TOLD: dict[int, dict[str, Any]] = {
    version: json.loads((DATA / f"schema{version}.json").read_text())["runs"] for version in VERSIONS
}
"""What was said of each run, by version and thread: head, entries, finished, steps, reasons and more."""
FIRST = "schema-one"
"""The thread of version 1, whose runs have no ledger."""


def copied(version: int, folder: Path) -> str:
    """A copy of a database, because opening one changes it."""
    return str(shutil.copy(DATA / f"schema{version}.sqlite", folder))


def pair_of_then() -> EnginePair:
    """A pair that says what the one said that the runs were made with."""
    return stepwise(STEPS, OPINIONS)
