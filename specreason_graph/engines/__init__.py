"""Engines: the protocol, its implementations, and the pair that a run uses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from specreason_graph.engines.base import Engine
from specreason_graph.engines.checkpoint import check_found
from specreason_graph.engines.options import ServerOptions, VLLMOptions, make_options
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import ConfigError
from specreason_graph.models.abacus import FOLDER
from specreason_graph.settings import EngineOptions

if TYPE_CHECKING:
    from specreason_graph.engines.vllm.memory import MemoryPlan

Kind = Literal["transformers", "vllm", "server"]
KINDS: tuple[Kind, ...] = ("transformers", "vllm", "server")
BUILT_IN = {"abacus-base": FOLDER / "base", "abacus-draft": FOLDER / "draft"}
"""Models that come with the package, by name."""
Options = Mapping[str, Any]


def open_pair(
    base: str | None = None,
    draft: str | None = None,
    *,
    kind: Kind = "transformers",
    device: str | None = None,
    dtype: str | None = None,
    base_options: EngineOptions | None = None,
    draft_options: EngineOptions | None = None,
    base_url: str | None = None,
    draft_url: str | None = None,
) -> EnginePair:
    """Make a pair of engines, which open at the first use; a model that is named for both roles is loaded once.

    ``base`` and ``draft``: each a folder, a name on the model hub, or one of the built-in models ``abacus-base`` and
    ``abacus-draft``, which only solve arithmetic word problems. ``kind``: ``transformers`` (embedded, on a torch
    ``device``), ``vllm`` (in this process) or ``server`` (vLLM servers at ``base_url`` and ``draft_url``). Without
    ``draft_url`` the base model drafts for itself, and ``draft`` need not be named. ``base_options`` and
    ``draft_options``: fields of `VLLMOptions`, or of `ServerOptions` for servers.

    Raises `ConfigError` for arguments that are wrong or do not fit together, and for embedded models that do not fit in
    memory together; and `ModelError` for a model that cannot be found. One that cannot be loaded raises `ModelError`
    when the pair opens.
    """
    if kind not in KINDS:
        raise ConfigError(f"unknown engine {kind!r}; known engines: {', '.join(KINDS)}")
    drafts_itself = kind == "server" and not draft_url
    models = _named(base, draft or (base if drafts_itself else None))
    options: tuple[Options, Options] = (base_options or {}, draft_options or {})
    if device and kind != "transformers":
        raise ConfigError(f"device {device!r} is for transformers", hint="choose GPUs with CUDA_VISIBLE_DEVICES")
    if kind == "server":
        return _served(models, (base_url, draft_url), options)
    if kind == "vllm":
        return _in_vllm(models, vllm_options(options, dtype))
    if any(options):
        got = ", ".join(sorted({name for each in options for name in each}))  # not the values: one may be a secret
        raise ConfigError(f"the transformers engine takes no options, and got {got}", hint="use --engine vllm")
    require("transformers", "local", "torch", "transformers")
    for model in models:
        check_found(locate(model))
    if device == "cpu" or (device is None and not Path("/dev/nvidiactl").exists()):
        from specreason_graph.engines.transformers.memory import check_memory

        check_memory({name: locate(name) for name in models}, dtype)
    threads = threads_each(models)
    first = open_engine(models[0], device=device, dtype=dtype, threads=threads)
    same = models[0] == models[1]
    second = first if same else open_engine(models[1], device=device, dtype=dtype, threads=threads)
    return EnginePair(draft=second, base=first)


def _named(base: str | None, draft: str | None) -> tuple[str, str]:
    """Return the names of both models; raise `ConfigError` unless both are given."""
    for role, model in (("base", base), ("draft", draft)):
        if not isinstance(model, str | None):
            raise ConfigError(
                f"the {role} model is a {type(model).__name__}", hint="name a folder or a model on the hub"
            )
    if base and draft:
        return base, draft
    raise ConfigError(
        f"no {'draft' if base else 'base'} model is named",
        hint="open_pair(base=..., draft=...), each a folder or a Hugging Face name; the built-in pair, for arithmetic "
        'only, is open_pair("abacus-base", "abacus-draft")',
    )  # fmt: skip


def vllm_options(options: tuple[Options, Options], dtype: str | None = None) -> tuple[VLLMOptions, VLLMOptions]:
    """Validate the options of base and draft; ``dtype`` applies to each engine whose options name none."""
    common = {"dtype": dtype} if dtype else {}
    base, draft = [make_options(VLLMOptions, {**common, **each}) for each in options]
    return base, draft


def open_engine(
    model: str, *, device: str | None = None, dtype: str | None = None, threads: int | None = None
) -> Engine:
    """Make one embedded engine: Hugging Face transformers in a process of its own."""
    require("transformers", "local", "torch", "transformers")
    from specreason_graph.engines.transformers import TransformersEngine

    return TransformersEngine(locate(model), name=model, device=device, dtype=dtype, threads=threads)


def plan_pair(models: tuple[str, str], options: tuple[VLLMOptions, VLLMOptions]) -> MemoryPlan:
    """Plan how base and draft share the memory of the devices that vLLM sees."""
    require("vllm", "vllm", "vllm")
    from specreason_graph.engines.vllm.devices import check_parallel, device
    from specreason_graph.engines.vllm.launch import chosen_dtype
    from specreason_graph.engines.vllm.memory import model_footprint, plan_memory

    for role, model, option in zip(("base", "draft"), models, options, strict=True):
        check_found(locate(model), option.revision)
        check_parallel(role, option)
    base, draft = [
        model_footprint(locate(model), option, chosen_dtype(locate(model), option))
        for model, option in zip(models, options, strict=True)
    ]
    return plan_memory(
        base, draft if models[0] != models[1] else None, device(max(o.devices for o in options)), *options
    )


def _in_vllm(models: tuple[str, str], options: tuple[VLLMOptions, VLLMOptions]) -> EnginePair:
    plan = plan_pair(models, options)
    from specreason_graph.engines.vllm import VLLMEngine
    from specreason_graph.engines.vllm.launch import on_cpu

    options = share_cores(models, options)
    base = VLLMEngine(locate(models[0]), options[0], name=models[0], share=plan.base)
    if models[0] == models[1]:
        return EnginePair(draft=base, base=base)
    # On a GPU each engine measures the free memory while it starts, so the draft waits for the base.
    before = None if on_cpu() else base
    draft = VLLMEngine(locate(models[1]), options[1], name=models[1], share=plan.draft, after=before)
    return EnginePair(draft=draft, base=base)


def share_cores(models: tuple[str, str], options: tuple[VLLMOptions, VLLMOptions]) -> tuple[VLLMOptions, VLLMOptions]:
    """Return the options with the CPU cores divided among the engines."""
    base, draft = [each.model_copy(update={"threads": each.threads or threads_each(models)}) for each in options]
    return base, draft


def threads_each(models: tuple[str, str]) -> int:
    """CPU threads for the engine of each model."""
    return max(1, cores() // len(set(models)))  # more threads than cores would slow both engines down


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _served(
    models: tuple[str, str], urls: tuple[str | None, str | None], options: tuple[Options, Options]
) -> EnginePair:
    require("server", "served", "httpx", "transformers")
    from specreason_graph.engines.server import ServerEngine

    calls = [make_options(ServerOptions, each) for each in options]
    if not urls[0]:
        raise ConfigError("the server engine needs the URL of the base model", hint="give --base-url http://HOST:PORT")
    for model in models:  # its tokenizer and configuration are needed here
        check_found(locate(model))
    base = ServerEngine(urls[0], locate(models[0]), calls[0], name=models[0])
    if not urls[1]:
        return EnginePair(draft=base, base=base)
    return EnginePair(draft=ServerEngine(urls[1], locate(models[1]), calls[1], name=models[1]), base=base)


def locate(model: str) -> str:
    """Return the folder of a built-in model, and any other name as it is."""
    return str(BUILT_IN.get(model, Path(model).expanduser() if "~" in model else model))


def require(kind: str, extra: str, *libraries: str) -> None:
    """Raise `ConfigError` unless the libraries that a kind of engine needs are installed."""
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        hint = f'install it with pip install "specreason-graph[{extra}]"'
        raise ConfigError(f"the {kind} engine needs {' and '.join(missing)}", hint=hint)


__all__ = [
    "BUILT_IN",
    "KINDS",
    "EnginePair",
    "Kind",
    "Options",
    "open_engine",
    "open_pair",
    "plan_pair",
    "vllm_options",
]
