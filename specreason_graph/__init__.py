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
    from specreason_graph.records import Answer, Step

__all__ = [
    "Answer",
    "EnginePair",
    "SpecReasonConfig",
    "SpecReasonError",
    "Step",
    "create_specreason",
    "open_pair",
]

_HOMES = {
    "Answer": "records", "EnginePair": "engines", "SpecReasonConfig": "config", "SpecReasonError": "errors",
    "Step": "records", "create_specreason": "graph", "open_pair": "engines",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
