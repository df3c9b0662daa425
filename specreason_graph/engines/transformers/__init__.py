"""Hugging Face transformers, each model in a process of its own that ends with this one."""

from specreason_graph.engines.transformers.engine import TransformersEngine

__all__ = ["TransformersEngine"]
