"""The graph that ``langgraph dev`` and LangGraph's servers load; the engines are opened once a process.

`SPECREASON_CONFIG` names a TOML or JSON file with models and settings, as ``specreason solve --config`` takes it;
without it the built-in pair answers.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from functools import cache
from pathlib import Path

from specreason_graph.graph import CompiledSpecReason
from specreason_graph.runs.launch import make_launch

CONFIG = "SPECREASON_CONFIG"
_opening = threading.Lock()


async def make_graph() -> CompiledSpecReason:
    """The compiled loop; the server calls this for every run and every look at a state, and brings the checkpointer."""
    return await asyncio.to_thread(_compiled)


def _compiled() -> CompiledSpecReason:
    with _opening:  # the first two calls may come at once
        return _open()


@cache
def _open() -> CompiledSpecReason:
    file = os.environ.get(CONFIG)
    launch = make_launch("", Path(file) if file else None)
    pair = launch.open_pair()
    atexit.register(pair.close)
    return launch.compile(pair)
