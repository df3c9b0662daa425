"""Settings and engine options as keyword arguments, so that a type checker finds a misspelt one and editors list them.

Written by ``docs/make_settings.py`` from the models that check the values; change those and run it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from typing_extensions import TypedDict

from specreason_graph.config import Band
from specreason_graph.strategy import Judge, Rollback, Stopping, Writer


class RunSettings(TypedDict, total=False):
    """Settings of a run, as `SpecReasonConfig` takes them; what is not named has its default."""

    strategy: str
    """Settings under one name, which others go over."""
    judge: Judge | str | Mapping[str, Any]
    """What a proposal is worth: a kind, or a mapping with ``kind`` and the judge's own settings."""
    threshold: float | None
    """Number from which a proposal is accepted, on the judge's scale; None for the judge's own threshold."""
    writer: Writer | str | Mapping[str, Any]
    """Who writes the next step: a kind, or a mapping with ``kind`` and the writer's own settings."""
    rollback: Rollback | str | Mapping[str, Any]
    """When committed steps are taken back: a kind, or a mapping with ``kind`` and the rule's own settings."""
    proposals: int
    """Versions of a step that the draft writes, of which the best is taken; several need a temperature above 0."""
    lookahead: int | None
    """Steps worked on ahead of the commit point; None goes by acceptance and load. No token depends on it."""
    speculation_control: bool | None
    """Whether the base model writes alone while drafting does not pay; it goes by the clock, which nothing repeats.
    None does so only while eight or more runs share the engines."""
    reproducible: bool
    """Whether nothing in the run may go by the clock: what does is refused, and so is speculation control."""
    first_steps_by_base: int
    """How many steps at the start the base model writes itself."""
    stopping: Stopping | str | Mapping[str, Any]
    """When the thinking ends besides the models' own word and the limits: a kind, or a mapping with ``kind``."""
    max_steps: int
    """Committed steps after which the thinking ends."""
    max_step_tokens: int
    """Tokens after which a step ends even in mid-sentence."""
    min_step_tokens: int
    """A blank line before this many tokens does not end a step, so that a bare "Wait." is not scored alone."""
    thinking_tokens: int
    """Committed thinking tokens after which the thinking ends."""
    answer_tokens: int | None
    """Most tokens of the answer, and of a reply that is itself the trace; None for 1024 behind a thinking, and for
    ``thinking_tokens`` where the reply is the trace."""
    deadline_seconds: float | None
    """Seconds in which a run is to have its answer, waiting for engines included; the thinking is cut short for it."""
    step_seconds: float | None
    """Seconds that a step is to take; a run that is slower goes before others, and eases its own demands."""
    threshold_floor: float | None
    """How far a run that is late may lower the threshold; None never does."""
    repetition_limit: int
    """The thinking ends when one step text has been committed this often."""
    temperature: float
    """Sampling temperature of both models; 0 is greedy. Scores do not depend on it."""
    top_p: float
    """Nucleus of the sampling."""
    sampling: Literal["settings", "model"]
    """How both models are sampled: ``settings``, or ``model`` for what the makers of each recommend in its generation
    config, top-k, min-p and repetition penalty included."""
    seed: int
    """Seed that every call's own seed is derived from."""
    continue_without_draft: bool
    """Whether the base model goes on alone when the draft engine has failed for good; False stops the run instead."""
    review: Band | Mapping[str, float] | None
    """Scores for which a human is asked instead of the threshold; None asks nobody."""
    answer_by: Literal["base", "draft"]
    """Which model writes the answer."""
    tools: list[dict[str, Any]]
    """Tools the answer may call, as OpenAI function definitions; rendered by the models' chat templates."""
    tool_choice: str | None
    """``auto`` or None leaves it to the model, ``none`` forbids calls, ``any`` forces one, a name forces that tool."""
    parallel_tool_calls: bool
    """Whether an answer may call several tools at once; False takes the first of its calls."""
    stop: list[str]
    """Strings that end the answer; they are left out of it."""
    answer_schema: dict[str, Any] | None
    """JSON schema the answer must follow, on engines with constrained decoding."""
    thinking: Literal["auto", "none", "tags"]
    """How the models think: ``auto`` goes by their chat templates, ``tags`` makes them think between tags, ``none``
    makes the reply itself the trace."""
    template: dict[Literal["base", "draft"], dict[str, Any]]
    """Arguments of the chat templates by role, as in ``{"base": {"enable_thinking": true}}``."""
    think_open: str | None
    """Tag that opens the thinking, given with ``think_close``; None finds both in the chat template or vocabulary,
    else ``<think>``."""
    think_close: str | None
    """Tag that closes the thinking, given with ``think_open``."""


class EngineOptions(TypedDict, total=False):
    """Options of an engine in vLLM; a served one takes those of calls, and ``lora`` as a name that its server knows."""

    timeout_seconds: float
    """Longest wait for an answer, in seconds, and for the next token in a call that is streamed or for more than 512
    tokens; a hung engine is only noticed by this limit."""
    retry_seconds: float
    """How long a failed call is retried, in seconds, while the engine is busy, dead or starting; 0 never retries."""
    session_header: str
    """HTTP header that carries a run's name to a served engine, so that a router keeps the run on one replica; none
    that HTTP itself, a key or a cookie needs."""
    revision: str | None
    """Branch, tag or commit on the model hub."""
    dtype: str | None
    """Number format of the weights, as in ``bfloat16``; None for float32 on CPU and the checkpoint's own on GPU."""
    quantization: str | None
    """Quantisation method, as in ``awq`` or ``fp8``."""
    context: int | None
    """Longest prompt plus output, in tokens; None for the model's own, or less where the KV cache holds less."""
    tensor_parallel: int
    """Devices over which each layer is split."""
    pipeline_parallel: int
    """Devices among which the layers are divided."""
    expert_parallel: bool
    """Whether whole experts of a mixture-of-experts model go to different devices, instead of a part of each."""
    lora: str | None
    """Folder of a LoRA adapter that is used for every call."""
    kv_bytes: int | None
    """Bytes of KV cache on each device; None follows the memory plan."""
    utilization: float | None
    """Fraction of a GPU's memory that the engine may take, 0 to 1; None follows the memory plan."""
    speculative: dict[str, Any] | None
    """vLLM's ``speculative_config``: token-level speculative decoding inside this engine."""
    threads: int | None
    """CPU threads; None divides the cores among the engines of the pair."""
    block_size: int | None
    """Tokens of a KV block; None for 32 on CPU and vLLM's own choice on GPU."""
    eager: bool | None
    """Whether to run without compilation and CUDA graphs; None for True on CPU and False on GPU."""
    sequences: int
    """Most sequences in a batch; further calls wait for a slot."""
    queue: int
    """Most unfinished requests; vLLM refuses more, and a refused call is retried."""
    restarts: int
    """How often a dead engine is started again."""
    arguments: dict[str, Any]
    """Other engine arguments of vLLM, by their own names."""
