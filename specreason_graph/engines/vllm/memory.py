"""The memory plan: how two engines share the memory of their devices.

The size of the weights is given. What is left goes to the KV caches, so that both hold the same number of tokens,
because both engines read the same trace. Working memory is estimated: vLLM does not measure it for an engine that is
given the size of its KV cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from specreason_graph.engines.options import VLLMOptions
from specreason_graph.errors import ConfigError
from specreason_graph.record.records import Engine, Record

GIB = 1 << 30
GPU_MARGIN = 0.04
"""Fraction of a GPU's memory that stays unused."""
CPU_SHARE, CPU_MOST = 0.5, 0.9
"""Fraction of a machine's free memory that the engines take, and that they may take where half does not do."""
GPU_PROCESS, CPU_PROCESS = int(1.25 * GIB), int(0.75 * GIB)
"""Memory of an engine besides weights, KV cache and activations: libraries, CUDA context and CUDA graphs."""
BLOCK = 32
"""Tokens of a KV block, where the option ``block_size`` is not given."""
BATCHED_TOKENS = 8192
"""Most tokens of one forward pass in vLLM; activations grow with it."""
SHORTEST = 4096
"""Shortest context that the plan chooses by itself, in tokens."""
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float": 4, "half": 2}


@dataclass(frozen=True)
class Footprint:
    """The memory that a model takes on each of its devices, in bytes."""

    weights: int
    """Bytes of weights."""
    activations: int
    """Bytes of working memory for the largest batch."""
    token: int
    """Bytes of KV cache for one token."""
    context: int
    """Longest context that the model allows, in tokens."""


@dataclass(frozen=True)
class Device:
    """One GPU, or the memory of the machine."""

    kind: str
    """``cuda`` or ``cpu``."""
    total: int
    """Bytes in all."""
    free: int
    """Bytes that are not in use."""


class Share(Record):
    """The memory that one engine gets on each device."""

    weights: int
    """Bytes of weights."""
    overhead: int
    """Bytes of activations, libraries and CUDA graphs, estimated."""
    kv_bytes: int
    """Bytes of KV cache."""
    tokens: int
    """Tokens that the KV cache holds."""
    context: int
    """Longest prompt plus output, in tokens."""
    utilization: float
    """All memory of the engine as a fraction of the device, 0 to 1."""


class MemoryPlan(Record):
    """The memory shares of both engines."""

    base: Share
    """Share of the base model."""
    draft: Share
    """Share of the draft model; the base's where one engine plays both roles."""
    total: int
    """Bytes of a device."""
    free: int
    """Bytes of a device that were free when the plan was made."""

    def share(self, role: Engine) -> Share:
        """The share of the engine that plays ``role``."""
        return self.base if role == "base" else self.draft


def footprint(config: Any, weights: int, options: VLLMOptions, dtype: str) -> Footprint:
    """Compute what each device holds, from a model's configuration and the bytes of its weights."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    parallel, width = options.tensor_parallel, BYTES.get(dtype, 2)
    layers = math.ceil(config.num_hidden_layers / options.pipeline_parallel)
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return Footprint(
        weights=math.ceil(weights / (parallel * options.pipeline_parallel)),
        activations=BATCHED_TOKENS * 2 * width * inner // parallel,
        token=2 * layers * math.ceil(heads / parallel) * size * width,
        context=config.max_position_embeddings,
    )


@dataclass(frozen=True)
class Claim:
    """The memory that one engine needs on each of its devices."""

    name: str
    """Role of the engine, for messages."""
    model: Footprint
    """Memory of its model."""
    options: VLLMOptions
    """Options of the engine."""
    overhead: int
    """Bytes besides weights and KV cache."""

    @property
    def fixed(self) -> int:
        """Bytes that the engine takes before the rest is divided."""
        return self.model.weights + self.overhead + (self.options.kv_bytes or 0)

    def share(self, tokens: int, device: Device) -> Share:
        """Compute the share of an engine whose KV cache may hold ``tokens``.

        Raises `ConfigError` when the KV cache holds less than one sequence.
        """
        options, block = self.options, self.options.block_size or BLOCK
        limit = options.kv_bytes or self._limit(device)
        held = limit // self.model.token if options.kv_bytes else min(tokens, limit // self.model.token)
        usable = max(0, held - block)  # vLLM keeps one block for itself
        context = options.context or min(self.model.context, max(SHORTEST, usable // 256 * 256))
        if usable < context:
            raise ConfigError(
                f"the KV cache of the {self.name} model holds {usable:,} tokens ({usable * self.model.token / GIB:.1f} "
                f"GiB), fewer than one sequence of {context:,}",
                hint=f"set the engine option {self.name}.context to at most {usable:,}, or free memory",
            )
        # A batch of full sequences never needs more, so a small model does not take the whole device.
        held = held if options.kv_bytes else min(held, options.sequences * context + block)
        kv_bytes = options.kv_bytes or held * self.model.token
        used = self.model.weights + self.overhead + kv_bytes
        return Share(
            weights=self.model.weights, overhead=self.overhead, kv_bytes=kv_bytes, tokens=held, context=context,
            utilization=options.utilization or min(1.0, round(used / device.total + 0.005, 3)),
        )  # fmt: skip

    def _limit(self, device: Device) -> int:
        """Most bytes of KV cache that the option ``utilization`` allows."""
        if self.options.utilization is None:
            return device.total
        return max(0, int(self.options.utilization * device.total) - self.model.weights - self.overhead)


def plan_memory(
    base: Footprint,
    draft: Footprint | None,
    device: Device,
    base_options: VLLMOptions | None = None,
    draft_options: VLLMOptions | None = None,
) -> MemoryPlan:
    """Divide the memory of a device between both engines; ``draft`` is None when one engine plays both roles.

    Raises `ConfigError`, with the figures, when the weights do not fit or a KV cache holds less than one sequence.
    """
    claims = [_claim("base", base, base_options, device)]
    claims += [_claim("draft", draft, draft_options, device)] if draft else []
    gpu = device.kind == "cuda"
    usable = device.free - int(GPU_MARGIN * device.total) if gpu else int(CPU_MOST * device.free)
    fixed = sum(claim.fixed for claim in claims)
    left = usable - fixed
    if left < 0:
        raise ConfigError(_too_big(claims, usable), hint="use smaller or quantised models, or more devices")
    # Both caches get the same number of tokens, so a token costs the sum of what it takes in each of them.
    sharing = sum(claim.model.token for claim in claims if not claim.options.kv_bytes)
    if not gpu:  # other programs need memory, too: beyond the half of it there is room for one sequence each
        longest = max(claim.options.context or SHORTEST for claim in claims)
        left = min(left, max(int(CPU_SHARE * device.free) - fixed, sharing * (longest + 2 * BLOCK)))
    shares = [claim.share(left // sharing if sharing else 0, device) for claim in claims]
    return MemoryPlan(base=shares[0], draft=shares[-1], total=device.total, free=device.free)


def _claim(name: str, model: Footprint, options: VLLMOptions | None, device: Device) -> Claim:
    overhead = GPU_PROCESS + model.activations if device.kind == "cuda" else CPU_PROCESS
    return Claim(name, model, options or VLLMOptions(), overhead)


def _too_big(claims: list[Claim], usable: int) -> str:
    parts = [f"{claim.name} {claim.model.weights / GIB:.1f} + {claim.overhead / GIB:.1f}" for claim in claims]
    return (
        f"the pair does not fit: {', '.join(parts)} (weights + working memory) and the KV caches asked for make "
        f"{sum(claim.fixed for claim in claims) / GIB:.1f} GiB a device, and {usable / GIB:.1f} GiB may be used"
    )


def weight_bytes(path: str, config: Any, dtype: str, revision: str | None = None) -> int:
    """Return the bytes of a model's weights in memory: from its files, else estimated from the configuration."""
    from specreason_graph.engines.checkpoint import file_bytes

    stored = str(getattr(config, "dtype", None) or "bfloat16").removeprefix("torch.")
    # Files of quantised weights are as large as what is loaded; others are converted to the number format.
    scale = 1.0 if getattr(config, "quantization_config", None) else BYTES.get(dtype, 2) / BYTES.get(stored, 2)
    files = file_bytes(path, revision)
    return int(files * scale) if files else _parameters(config) * BYTES.get(dtype, 2)


def _parameters(config: Any) -> int:
    """Estimate the parameters of a transformer with a gated MLP, grouped-query attention and perhaps experts."""
    hidden, layers = config.hidden_size, config.num_hidden_layers
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None) or 1
    inner = (getattr(config, "moe_intermediate_size", None) if experts > 1 else None) or getattr(
        config, "intermediate_size", 4 * hidden
    )
    size = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    attention = 2 * hidden * size * (config.num_attention_heads + heads)
    embeddings = config.vocab_size * hidden * (1 if getattr(config, "tie_word_embeddings", False) else 2)
    return int(layers * (attention + experts * 3 * hidden * inner) + embeddings)


def model_footprint(path: str, options: VLLMOptions, dtype: str) -> Footprint:
    """Compute the footprint of a model, by folder or hub name."""
    from specreason_graph.engines.checkpoint import load_config

    config = load_config(path, options.revision)
    return footprint(config, weight_bytes(path, config, dtype, options.revision), options, dtype)
