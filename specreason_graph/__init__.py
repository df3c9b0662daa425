"""Speculative reasoning (SpecReason, arXiv 2504.07891) as LangGraph nodes.

Names are imported when they are first used: every process of an engine imports this package, and needs no graph.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specreason_graph.config import SpecReasonConfig
    from specreason_graph.engines import EnginePair, open_pair
    from specreason_graph.errors import SpecReasonError
    from specreason_graph.graph import create_specreason
    from specreason_graph.langchain.chat_model import ChatSpecReason
    from specreason_graph.record.events import read_event
    from specreason_graph.record.records import Answer, Step
    from specreason_graph.runs.find import afind_runs, find_runs

__all__ = [
    "Answer",
    "ChatSpecReason",
    "EnginePair",
    "SpecReasonConfig",
    "SpecReasonError",
    "Step",
    "afind_runs",
    "create_specreason",
    "find_runs",
    "open_pair",
    "read_event",
]

_HOMES = {
    "Answer": "record.records", "ChatSpecReason": "langchain.chat_model", "EnginePair": "engines",
    "SpecReasonConfig": "config", "SpecReasonError": "errors", "Step": "record.records", "afind_runs": "runs.find",
    "create_specreason": "graph", "find_runs": "runs.find", "open_pair": "engines", "read_event": "record.events",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
