"""Options of engines: how vLLM is started, and how long calls may take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError, field_validator

from specreason_graph.engines.redaction import HIDDEN, holds_secret, shown
from specreason_graph.errors import ConfigError
from specreason_graph.record.records import Record

Count = Annotated[int, Field(ge=1)]
LONG = 512
"""Tokens above which a generation is always streamed, so that one that is only long is told from a hung engine."""
OURS = {
    "model": "the model's name", "dtype": "the option dtype", "max_model_len": "the option context",
    "tensor_parallel_size": "the option tensor_parallel", "pipeline_parallel_size": "the option pipeline_parallel",
    "enable_expert_parallel": "the option expert_parallel", "max_num_seqs": "the option sequences",
    "max_num_queued_reqs": "the option queue", "enforce_eager": "the option eager", "revision": "the option revision",
    "block_size": "the option block_size", "kv_cache_memory_bytes": "the option kv_bytes",
    "gpu_memory_utilization": "the option utilization", "quantization": "the option quantization",
    "speculative_config": "the option speculative", "enable_lora": "the option lora",
    "enable_prefix_caching": "this package", "disable_log_stats": "this package",
    "hf_token": "the environment variable HF_TOKEN, because options are recorded",
}  # fmt: skip
"""Engine arguments of vLLM that may not be passed in ``arguments``, and what sets them instead."""

HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
"""A header's name (RFC 9110)."""
RESERVED = re.compile(
    r"authorization|(proxy|sec|content|accept|if|access-control)(-.*)?|.*(api|auth|access|secret)[-_]?(key|token).*|"
    r"(set-)?cookie2?|host|connection|keep-alive|te|trailer|transfer-encoding|upgrade|expect|range|date|via|forwarded|"
    r"x-forwarded-.*|x-real-ip|user-agent|from|origin|referer|max-forwards|age|cache-control|pragma|warning|vary",
    re.IGNORECASE,
)
"""Headers that mean something to servers and to what stands in front of them."""


class CallOptions(Record):
    """Limits and retries of calls to an engine in vLLM, in this process or on a server."""

    timeout_seconds: Annotated[float, Field(gt=0)] = 300.0
    """Longest wait for an answer, in seconds, and for the next token in a call that is streamed or for more than 512
    tokens; a hung engine is only noticed by this limit."""
    retry_seconds: Annotated[float, Field(ge=0)] = 120.0
    """How long a failed call is retried, in seconds, while the engine is busy, dead or starting; 0 never retries."""
    session_header: str = "x-session-id"
    """HTTP header that carries a run's name to a served engine, so that a router keeps the run on one replica; none
    that HTTP itself, a key or a cookie needs."""

    @field_validator("session_header")
    @classmethod
    def _free(cls, name: str) -> str:
        if not HEADER.fullmatch(name) or RESERVED.fullmatch(name):
            raise ValueError("name a header of your own, as in x-session-id")
        return name


class ServerOptions(CallOptions):
    """What a served engine may be told; the rest its server was started with."""

    lora: str | None = None
    """Name of a LoRA adapter that the server was started with (``--lora-modules NAME=FOLDER``), used for every call."""


class VLLMOptions(CallOptions):
    """Engine arguments of vLLM, with the meaning they have there; None lets this package or vLLM choose."""

    revision: str | None = None
    """Branch, tag or commit on the model hub."""
    dtype: str | None = None
    """Number format of the weights, as in ``bfloat16``; None for float32 on CPU and the checkpoint's own on GPU."""
    quantization: str | None = None
    """Quantisation method, as in ``awq`` or ``fp8``."""
    context: Count | None = None
    """Longest prompt plus output, in tokens; None for the model's own, or less where the KV cache holds less."""
    tensor_parallel: Count = 1
    """Devices over which each layer is split."""
    pipeline_parallel: Count = 1
    """Devices among which the layers are divided."""
    expert_parallel: bool = False
    """Whether whole experts of a mixture-of-experts model go to different devices, instead of a part of each."""
    lora: str | None = None
    """Folder of a LoRA adapter that is used for every call."""
    kv_bytes: Count | None = None
    """Bytes of KV cache on each device; None follows the memory plan."""
    utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    """Fraction of a GPU's memory that the engine may take, 0 to 1; None follows the memory plan."""
    speculative: dict[str, Any] | None = None
    """vLLM's ``speculative_config``: token-level speculative decoding inside this engine."""
    threads: Count | None = None
    """CPU threads; None divides the cores among the engines of the pair."""
    block_size: Count | None = None
    """Tokens of a KV block; None for 32 on CPU and vLLM's own choice on GPU."""
    eager: bool | None = None
    """Whether to run without compilation and CUDA graphs; None for True on CPU and False on GPU."""
    sequences: Count = 64
    """Most sequences in a batch; further calls wait for a slot."""
    queue: Count = 1024
    """Most unfinished requests; vLLM refuses more, and a refused call is retried."""
    restarts: Annotated[int, Field(ge=0)] = 1
    """How often a dead engine is started again."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Other engine arguments of vLLM, by their own names."""

    @property
    def devices(self) -> int:
        """How many devices the engine runs on."""
        return self.tensor_parallel * self.pipeline_parallel

    @field_validator("arguments")
    @classmethod
    def _not_ours(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for name in arguments:
            if (option := name.lower().lstrip("-").replace("-", "_")) in OURS:
                raise ValueError(f"{name} is set by {OURS[option]}")
            if holds_secret(name, arguments[name]):
                raise ValueError(f"{name} holds a secret, and options are recorded; use vLLM's environment variables")
        return arguments


Chosen = TypeVar("Chosen", bound=CallOptions)


def make_options(kind: type[Chosen], settings: Mapping[str, Any]) -> Chosen:
    """Validate options; a wrong one raises `ConfigError` with its name, its value and what is allowed."""
    try:
        return kind(**settings)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(detail, kind) for detail in error.errors())) from None


def _explain(detail: Any, kind: type[CallOptions]) -> str:
    name = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        return f"unknown engine option {name!r}; known options: {', '.join(kind.model_fields)}"
    given = HIDDEN if holds_secret(name, detail["input"]) else shown(repr(detail["input"]))
    return f"engine option {name} = {given} is not allowed: {detail['msg']}"
