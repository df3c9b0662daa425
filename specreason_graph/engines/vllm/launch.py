"""How an engine in vLLM is started: its arguments, environment variables and number format."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

from specreason_graph.engines.checkpoint import load_config
from specreason_graph.engines.options import VLLMOptions
from specreason_graph.engines.vllm.memory import Share
from specreason_graph.engines.vllm.orphans import environment_of, interrupts_blocked
from specreason_graph.errors import ModelError

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

CPU_BLOCK = 32
COUNTING = "specreason_graph.engines.vllm.scheduler.counting"
SERVING = "specreason_graph.engines.vllm.scheduler.serving"
"""The schedulers of an engine that speculates, and of one behind a server; see scheduler.py."""
GRACE = 1.0
"""Seconds that an engine's core gets to end by itself before it is killed."""
QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_LOGGING_STREAM": "ext://sys.stderr", "PYTHONWARNINGS": "ignore",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}  # fmt: skip
"""Defaults of environment variables that keep engine processes quiet; standard output belongs to the caller."""
VLLM_SETS = ("VLLM_", "TORCH", "NUMEXPR_", "LD_PRELOAD", "OMP_", "KMP_", "GOMP_", "PYTHONWARNINGS")
"""Prefixes of the environment variables that vLLM and this module set."""
log = logging.getLogger(__name__)


def load() -> None:
    """Import vLLM."""
    # Not in `start`: a library keeps the stack frames of its import, and with them whatever their variables refer to.
    with environment({}):
        import vllm.v1.engine.async_llm  # noqa: F401


def start(name: str, path: str, context: int, options: VLLMOptions, share: Share | None) -> AsyncLLM:
    """Start an engine, whose processes carry this process's id as their mark (see orphans.py)."""
    begun = time.monotonic()
    log.info("starting %s in vLLM", name)
    # A new tracker would unblock the interrupts of the thread that starts it.
    resource_tracker.ensure_running()
    with environment({**settings(options), **environment_of(str(os.getpid()))}), interrupts_blocked():
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        try:
            given = AsyncEngineArgs(**arguments(path, context, options, share), disable_log_stats=True)
            client = AsyncLLM.from_engine_args(given)
        except Exception as error:  # vLLM raises exceptions of any kind
            raise _unstartable(name, error) from error
    log.info("%s is ready after %.1f s", name, time.monotonic() - begun)
    return client


def settings(options: VLLMOptions) -> dict[str, str]:
    """Return the environment variables of an engine's processes."""
    always = {
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a forked process shows its parent's environment, without the mark
        "SPT_NOENV": "1",  # else a process that vLLM gives a title shows no environment at all
    }
    if not on_cpu():
        return always
    single_worker = options.tensor_parallel * options.pipeline_parallel == 1
    return always | {
        "OMP_NUM_THREADS": str(options.threads or 1),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if single_worker else "1",  # a single worker runs inside the core
        "TORCH_COMPILE_DISABLE": "1",  # else the first call for log-probabilities compiles for seconds
    }


def arguments(path: str, context: int, options: VLLMOptions, share: Share | None) -> dict[str, Any]:
    """Return the engine arguments of vLLM."""
    cpu = on_cpu()
    if cpu and options.speculative:
        log.warning("%s: on CPU vLLM draws wrong tokens while it speculates: ask it at temperature 0 only", path)
    optional = {  # None leaves the choice to vLLM
        "block_size": options.block_size or (CPU_BLOCK if cpu else None),
        "kv_cache_memory_bytes": options.kv_bytes or (share.kv_bytes if share else None),
        "gpu_memory_utilization": options.utilization or (share.utilization if share and not cpu else None),
        "quantization": options.quantization,
        "speculative_config": options.speculative,
        "per_request_spec_decode_metrics": "summary" if options.speculative else None,
        "scheduler_cls": COUNTING if options.speculative else None,
        "revision": options.revision,
        "enable_lora": True if options.lora else None,
        # vLLM 0.32 on CPU dies of a seeded prompt whose prefill is split over two batches.
        "enable_chunked_prefill": False if cpu else None,
    }
    return {
        "model": path, "dtype": chosen_dtype(path, options), "max_model_len": context,
        "tensor_parallel_size": options.tensor_parallel, "pipeline_parallel_size": options.pipeline_parallel,
        "enable_expert_parallel": options.expert_parallel, "max_num_seqs": options.sequences,
        "max_num_queued_reqs": options.queue, "enforce_eager": cpu if options.eager is None else options.eager,
        "enable_prefix_caching": True, "use_tqdm_on_load": False, "seed": 0, "trust_remote_code": False,
        **{name: value for name, value in optional.items() if value is not None}, **options.arguments,
    }  # fmt: skip


def chosen_dtype(path: str, options: VLLMOptions) -> str:
    """Return the number format that an engine is started with."""
    if options.dtype:
        return options.dtype
    stored = getattr(load_config(path, options.revision), "dtype", None)
    return "float32" if on_cpu() else str(stored or "bfloat16").removeprefix("torch.")


@cache
def on_cpu() -> bool:
    """Return whether the installed vLLM is the build for CPUs."""
    with environment({}):
        from vllm.platforms import current_platform

        return bool(current_platform.is_cpu())


class Environment:
    """Sets environment variables of this process for a while; callers with the same settings overlap, others wait."""

    # vLLM reads its settings from the environment, which all threads share, and two engines may start at the same time.

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._settings: dict[str, str] = {}
        self._before: dict[str, str] = {}
        self._users = 0

    @contextmanager
    def __call__(self, settings: dict[str, str]) -> Iterator[None]:
        """Set the variables while the context is open; changes that vLLM makes in that time are undone, too."""
        with self._changed:
            self._changed.wait_for(lambda: self._users == 0 or self._settings == settings)
            self._users += 1
            if self._users == 1:
                self._set(settings)
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                if self._users == 0:
                    self._restore()
                self._changed.notify_all()

    def _set(self, settings: dict[str, str]) -> None:
        self._settings, self._before = settings, dict(os.environ)
        quiet = {name: value for name, value in QUIET.items() if name not in self._before}
        os.environ.update(quiet | settings)

    def _restore(self) -> None:
        for name in [name for name in os.environ if name in self._settings or name.startswith(VLLM_SETS)]:
            del os.environ[name]
        os.environ.update({name: value for name, value in self._before.items() if name not in os.environ})


environment = Environment()


def _unstartable(name: str, error: Exception) -> ModelError:
    if "freeze_support" in str(error):  # what multiprocessing says where a script starts itself over and over
        return ModelError(
            f"vLLM cannot start {name!r}: its processes read this script anew, and would open engines themselves",
            hint='put what the script does under `if __name__ == "__main__":`',
        )
    cause = " ".join(str(error).split()) or type(error).__name__
    return ModelError(
        f"vLLM cannot start {name!r}: {cause}", hint="see vLLM's log above; VLLM_LOGGING_LEVEL=INFO says more"
    )
