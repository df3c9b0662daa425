"""Speculative reasoning (SpecReason, arXiv 2504.07891) as LangGraph nodes."""

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
