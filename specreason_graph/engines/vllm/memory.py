"""How two engines share the memory of their devices.

The weights are given; what is left goes to the KV caches so that both hold the same number of tokens, because both read
the same trace. Working memory is estimated; an engine that is given its bytes of cache does not measure for itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from specreason_graph.engines.options import VLLMOptions
from specreason_graph.errors import ConfigError
from specreason_graph.record.records import Engine, Record

GIB = 1 << 30
GPU_MARGIN, CPU_SHARE = 0.04, 0.5
"""Part of a GPU's memory that is left alone; part of a machine's free memory that engines may take."""
GPU_PROCESS, CPU_PROCESS = int(1.25 * GIB), int(0.75 * GIB)
"""Memory of an engine that is neither weights nor cache nor activations: libraries, CUDA context and graphs."""
BLOCK = 32
"""Tokens of a KV block, where the option ``block_size`` does not say."""
BATCHED_TOKENS = 8192
"""Tokens vLLM works on at once; activations grow with it."""
SHORTEST = 4096
"""A context below this is not chosen without being asked for."""
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float": 4, "half": 2}


@dataclass(frozen=True)
class Footprint:
    """What a model takes on each of its devices, in bytes."""

    weights: int
    """Weights."""
    activations: int
    """Working memory of the largest batch."""
    token: int
    """KV cache of one token."""
    context: int
    """Longest context the model allows, in tokens."""


@dataclass(frozen=True)
class Device:
    """One GPU, or the memory of the machine."""

    kind: str
    """``cuda`` or ``cpu``."""
    total: int
    """Bytes it has."""
    free: int
    """Bytes nobody uses."""


class Share(Record):
    """What one engine gets on each device."""

    weights: int
    """Bytes of weights."""
    overhead: int
    """Bytes of activations, libraries and graphs (estimated)."""
    kv_bytes: int
    """Bytes of KV cache."""
    tokens: int
    """Tokens that cache holds."""
    context: int
    """Longest prompt plus output."""
    utilization: float
    """All of it as a share of the device, 0 to 1."""


class MemoryPlan(Record):
    """The shares of both engines."""

    base: Share
    """The base model's, taken first."""
    draft: Share
    """The draft model's."""
    total: int
    """Bytes of a device."""
    free: int
    """Bytes that were free before."""

    def share(self, role: Engine) -> Share:
        """The share of a role."""
        return self.base if role == "base" else self.draft


def footprint(config: Any, weights: int, options: VLLMOptions, dtype: str) -> Footprint:
    """From a model's configuration and the bytes of its weights to what each device holds."""
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
    """What one engine asks of each of its devices."""

    name: str
    """Its role, for messages."""
    model: Footprint
    """What its model takes."""
    options: VLLMOptions
    """What was asked for."""
    overhead: int
    """Bytes besides weights and cache."""

    @property
    def fixed(self) -> int:
        """Bytes that are settled before the rest is divided."""
        return self.model.weights + self.overhead + (self.options.kv_bytes or 0)

    def share(self, tokens: int, device: Device) -> Share:
        """The share of an engine whose cache may hold ``tokens``; `ConfigError` when one sequence does not fit.

        vLLM keeps one block for itself, and gives no sequence more than the others.
        """
        options, block = self.options, self.options.block_size or BLOCK
        limit = options.kv_bytes or self._limit(device)
        held = limit // self.model.token if options.kv_bytes else min(tokens, limit // self.model.token)
        room = max(0, held - block)
        context = options.context or min(self.model.context, max(SHORTEST, room // 256 * 256))
        if room < context:
            raise ConfigError(
                f"the KV cache of the {self.name} model holds {room:,} tokens ({room * self.model.token / GIB:.1f} "
                f"GiB), fewer than one sequence of {context:,}",
                hint=f"set the engine option {self.name}.context to at most {room:,}, or free memory",
            )
        held = held if options.kv_bytes else min(held, options.sequences * context + block)
        kv_bytes = options.kv_bytes or held * self.model.token
        used = self.model.weights + self.overhead + kv_bytes
        return Share(
            weights=self.model.weights, overhead=self.overhead, kv_bytes=kv_bytes, tokens=held, context=context,
            utilization=options.utilization or min(1.0, round(used / device.total + 0.005, 3)),
        )  # fmt: skip

    def _limit(self, device: Device) -> int:
        """Most bytes of cache that the option ``utilization`` leaves."""
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
    """Divide a device that both engines run on; None for the draft when one engine plays both roles.

    Raises `ConfigError` with the figures when the weights do not fit, or when no sequence of the context wanted does.
    """
    claims = [_claim("base", base, base_options, device)]
    claims += [_claim("draft", draft, draft_options, device)] if draft else []
    gpu = device.kind == "cuda"
    usable = device.free - int(GPU_MARGIN * device.total) if gpu else int(CPU_SHARE * device.free)
    left = usable - sum(claim.fixed for claim in claims)
    if left < 0:
        raise ConfigError(_too_big(claims, usable), hint="use smaller or quantised models, or more devices")
    sharing = sum(claim.model.token for claim in claims if not claim.options.kv_bytes)
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
    """Bytes of a model's weights as they are loaded: from its files, else estimated from the configuration."""
    from specreason_graph.engines.checkpoint import file_bytes

    stored = str(getattr(config, "dtype", None) or "bfloat16").removeprefix("torch.")
    scale = 1.0 if getattr(config, "quantization_config", None) else BYTES.get(dtype, 2) / BYTES.get(stored, 2)
    files = file_bytes(path, revision)
    return int(files * scale) if files else _parameters(config) * BYTES.get(dtype, 2)


def _parameters(config: Any) -> int:
    """Parameters of a transformer with gated MLP, grouped attention and perhaps experts."""
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
    """The footprint of a model by folder or name."""
    from specreason_graph.engines.checkpoint import load_config

    config = load_config(path, options.revision)
    return footprint(config, weight_bytes(path, config, dtype, options.revision), options, dtype)
