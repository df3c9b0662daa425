"""Settings that ``specreason tune`` has left in the working folder, for the pair that they were found with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from specreason_graph.config import ENGINE_TABLES, MODELS, read_config_file
from specreason_graph.engines.pair import EnginePair

log = logging.getLogger(__name__)


def settings_for(pair: EnginePair, file: Path | None) -> dict[str, Any]:
    """Settings of a config file that is there and is for the models of a pair."""
    if file is None or not file.is_file():
        return {}
    found = read_config_file(file)
    for role, name in (("base", pair.base.name), ("draft", pair.draft.name)):
        if role in found and not _is_same(str(found[role]), name):
            log.info("%s is not picked up: its %s is %s, and here it is %s", file, role, found[role], name)
            return {}
    settings = {name: value for name, value in found.items() if name not in {*MODELS, *ENGINE_TABLES.values()}}
    log.info("picked up %s: %s", file, ", ".join(settings) or "it has no settings")
    return settings


def _is_same(one: str, other: str) -> bool:
    """Whether two names are of one model: folders have many."""
    return one == other or Path(one).expanduser().resolve() == Path(other).expanduser().resolve()
