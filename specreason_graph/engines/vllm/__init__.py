"""vLLM in this process: each engine is an ``AsyncLLM``, whose core runs in a child process that ends with this one."""

from specreason_graph.engines.vllm.engine import VLLMEngine

__all__ = ["VLLMEngine"]
