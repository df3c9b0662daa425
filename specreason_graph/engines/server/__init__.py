"""A vLLM server by URL: token ids in and out over ``/v1/completions``, directly or behind a router."""

from specreason_graph.engines.server.engine import ServerEngine

__all__ = ["ServerEngine"]
