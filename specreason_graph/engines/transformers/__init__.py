"""Hugging Face transformers: each model runs in a child process that ends with this one."""

from specreason_graph.engines.transformers.engine import TransformersEngine

__all__ = ["TransformersEngine"]
