"""Commands in this process, on a pair that is open already."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from specreason_graph import EnginePair
from specreason_graph.runs.launch import BUILT_IN, Launch


def work_on(pair: EnginePair, patch: pytest.MonkeyPatch) -> None:
    """Have commands that name the reference pair, as they do where nobody names another, work on ``pair``."""
    opens = Launch.open_pair

    def open_pair(launch: Launch) -> Any:
        asked = launch.model_copy(update={"question": "", "settings": {}})
        return nullcontext(pair) if asked == Launch(**BUILT_IN, question="") else opens(launch)

    patch.setattr(Launch, "open_pair", open_pair)
