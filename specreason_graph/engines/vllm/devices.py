"""The devices vLLM would run on."""

from __future__ import annotations

import os

from specreason_graph.engines.memory import Device
from specreason_graph.engines.options import VLLMOptions
from specreason_graph.engines.vllm.launch import on_cpu
from specreason_graph.errors import ConfigError


def device() -> Device:
    """The fullest of the devices an engine may use; asking does not take memory on it."""
    if on_cpu():
        import psutil

        memory = psutil.virtual_memory()
        return Device(kind="cpu", total=memory.total, free=memory.available)
    return min(_gpus(), key=lambda gpu: gpu.free)


def check_parallel(role: str, options: VLLMOptions) -> None:
    """Raise `ConfigError` when an engine wants more devices than there are."""
    wanted = options.tensor_parallel * options.pipeline_parallel
    present = 1 if on_cpu() else len(_gpus())
    if wanted > present:
        raise ConfigError(
            f"{role}.tensor_parallel x pipeline_parallel = {options.tensor_parallel} x {options.pipeline_parallel} "
            f"needs {wanted} devices, and vLLM sees {present}",
            hint="lower them, or show more devices in CUDA_VISIBLE_DEVICES",
        )


def _gpus() -> list[Device]:
    from vllm.third_party import pynvml

    pynvml.nvmlInit()
    try:
        infos = [pynvml.nvmlDeviceGetMemoryInfo(handle) for handle in map(_handle, _visible(pynvml))]
    finally:
        pynvml.nvmlShutdown()
    return [Device(kind="cuda", total=info.total, free=info.free) for info in infos]


def _visible(pynvml: object) -> list[str]:
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return [str(index) for index in range(pynvml.nvmlDeviceGetCount())]  # type: ignore[attr-defined]
    return [name.strip() for name in shown.split(",") if name.strip()]


def _handle(name: str) -> object:
    from vllm.third_party import pynvml

    if name.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(name))
    return pynvml.nvmlDeviceGetHandleByUUID(name)
