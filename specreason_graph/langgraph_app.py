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
from typing import TYPE_CHECKING, Any

from specreason_graph.config import CONFIG_KEY
from specreason_graph.errors import ConfigError, with_builtin_base
from specreason_graph.graph import CompiledSpecReason
from specreason_graph.runs.launch import make_launch

if TYPE_CHECKING:
    from langgraph_sdk.runtime import ServerRuntime

CONFIG = "SPECREASON_CONFIG"
OTHERS = {
    CONFIG_KEY, "assistant_id", "checkpoint_id", "checkpoint_map", "checkpoint_ns", "cron_id", "graph_id", "run_id",
    "thread_id", "user_id",
}  # fmt: skip
"""Names beside settings that a server may find in a call: it takes ``context`` and ``configurable`` for the same."""
_opening = threading.Lock()


async def make_graph(runtime: ServerRuntime[Any]) -> CompiledSpecReason:
    """The compiled loop; the server calls this for every run and every look at a state, and brings the checkpointer."""
    graph = await asyncio.to_thread(_compiled)
    check_settings(graph, runtime)
    return graph


def check_settings(graph: CompiledSpecReason, runtime: ServerRuntime[Any]) -> None:
    """`ConfigError` for settings of a call that are wrong; the server leaves out those that it does not know.

    For factories of graphs of your own, which a server gives ``runtime``.
    """
    execution = runtime.execution_runtime
    given = dict(execution.context or {}) if execution else {}
    settings = {
        name: value for name, value in given.items() if name not in OTHERS and not name.startswith(("__", "langgraph_"))
    }
    try:
        graph.check_settings(settings)
    except ConfigError as error:
        raise with_builtin_base(error) from error


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
