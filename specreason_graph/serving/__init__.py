"""The loop behind an OpenAI-compatible HTTP server, for clients in any language; needs the extra ``serve``."""

from specreason_graph.serving.app import create_app
from specreason_graph.serving.options import ServeOptions

__all__ = ["ServeOptions", "create_app"]
