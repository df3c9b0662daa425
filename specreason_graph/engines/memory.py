"""How two engines share the memory of their devices.

The weights are given; what is left goes to the KV caches so that both hold the same number of tokens, because both read
the same trace. Estimates are for planning: vLLM measures for itself and refuses when it does not fit after all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specreason_graph.engines.checkpoint import load_config
from specreason_graph.engines.options import VLLMOptions
from specreason_graph.errors import ConfigError
from specreason_graph.records import Engine, Record

GIB = 1 << 30
GPU_MARGIN, CPU_SHARE = 0.04, 0.5
"""Part of a GPU's memory that is left alone; part of a machine's free memory that engines may take."""
GPU_PROCESS, CPU_PROCESS = int(1.25 * GIB), int(0.75 * GIB)
"""Memory of an engine that is neither weights nor cache nor activations: libraries, CUDA context and graphs."""
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


def plan_memory(
    base: Footprint,
    draft: Footprint | None,
    device: Device,
    base_options: VLLMOptions | None = None,
    draft_options: VLLMOptions | None = None,
) -> MemoryPlan:
    """Divide a device; None for the draft when one engine plays both roles.

    Raises `ConfigError` with the figures when the weights do not fit, or when no sequence of the context wanted does.
    """
    options = (base_options or VLLMOptions(), draft_options or VLLMOptions())
    prints = [base] if draft is None else [base, draft]
    process = GPU_PROCESS if device.kind == "cuda" else CPU_PROCESS
    overheads = [process + (each.activations if device.kind == "cuda" else 0) for each in prints]
    usable = device.free - int(GPU_MARGIN * device.total) if device.kind == "cuda" else int(CPU_SHARE * device.free)
    given = [option.kv_bytes for option, _ in zip(options, prints, strict=False)]
    left = usable - sum(each.weights for each in prints) - sum(overheads) - sum(bytes_ or 0 for bytes_ in given)
    open_ = [each.token for each, bytes_ in zip(prints, given, strict=True) if not bytes_]
    tokens = left // sum(open_) if open_ else 0
    shares = [
        _share(name, each, overhead, option, tokens, device, left)
        for name, each, overhead, option in zip(("base", "draft"), prints, overheads, options, strict=False)
    ]
    if left < 0:
        raise ConfigError(_too_big(prints, overheads, usable), hint="use smaller or quantised models, or more devices")
    return MemoryPlan(base=shares[0], draft=shares[-1], total=device.total, free=device.free)


def _share(
    name: str, each: Footprint, overhead: int, options: VLLMOptions, tokens: int, device: Device, left: int
) -> Share:
    held = options.kv_bytes // each.token if options.kv_bytes else tokens
    wanted = options.context or each.context
    context = wanted if options.context else min(wanted, max(SHORTEST, held // 256 * 256))
    if left >= 0 and held < min(context, each.context):
        raise ConfigError(
            f"the KV cache of the {name} model holds {max(0, held):,} tokens ({held * each.token / GIB:.1f} GiB), "
            f"fewer than one sequence of {context:,}",
            hint=f"set the engine option {name}.context to at most {max(1, held):,}, or free memory",
        )
    held = min(held, options.sequences * context) if not options.kv_bytes else held
    kv_bytes = options.kv_bytes or held * each.token
    used = each.weights + overhead + kv_bytes
    return Share(
        weights=each.weights, overhead=overhead, kv_bytes=kv_bytes, tokens=held, context=context,
        utilization=options.utilization or min(1.0, round(used / device.total + 0.005, 3)),
    )  # fmt: skip


def _too_big(prints: list[Footprint], overheads: list[int], usable: int) -> str:
    parts = [
        f"{name} {each.weights / GIB:.1f} + {overhead / GIB:.1f}"
        for name, each, overhead in zip(("base", "draft"), prints, overheads, strict=False)
    ]
    needed = sum(each.weights for each in prints) + sum(overheads)
    return (
        f"the pair does not fit: {', '.join(parts)} (weights + working memory) make {needed / GIB:.1f} GiB a device, "
        f"and {usable / GIB:.1f} GiB may be used"
    )


def weight_bytes(path: str, config: Any, dtype: str) -> int:
    """Bytes of a model's weights in ``dtype``; for a name on the hub estimated from the configuration."""
    files = list(Path(path).glob("*.safetensors"))
    stored = str(getattr(config, "dtype", None) or "bfloat16").removeprefix("torch.")
    if files:
        return sum(file.stat().st_size for file in files) * BYTES.get(dtype, 2) // BYTES.get(stored, 2)
    return _parameters(config) * BYTES.get(dtype, 2)


def _parameters(config: Any) -> int:
    """Parameters of a dense transformer with gated MLP and grouped attention."""
    hidden, layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    size = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    attention = 2 * hidden * size * (config.num_attention_heads + heads)
    embeddings = config.vocab_size * hidden * (1 if getattr(config, "tie_word_embeddings", False) else 2)
    return int(layers * (attention + 3 * hidden * inner) + embeddings)


def model_footprint(path: str, options: VLLMOptions, dtype: str) -> Footprint:
    """The footprint of a model by folder or name."""
    config = load_config(path, options.revision)
    return footprint(config, weight_bytes(path, config, dtype), options, dtype)
