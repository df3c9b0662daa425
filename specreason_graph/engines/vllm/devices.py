"""The devices that vLLM would run on, and their free memory."""

from __future__ import annotations

import os

from specreason_graph.engines.machine import available_memory
from specreason_graph.engines.options import VLLMOptions
from specreason_graph.engines.vllm.launch import on_cpu
from specreason_graph.engines.vllm.memory import Device
from specreason_graph.errors import ConfigError


def device(count: int = 1) -> Device:
    """Return the one with the least free memory among the first ``count`` devices that vLLM sees."""
    return machine_memory() if on_cpu() else min(_gpus()[:count], key=lambda gpu: gpu.free)


def check_parallel(role: str, options: VLLMOptions) -> None:
    """Raise `ConfigError` when an engine needs more devices than there are."""
    present = 1 if on_cpu() else len(_gpus())
    if options.devices > present:
        raise ConfigError(
            f"{role}.tensor_parallel x pipeline_parallel = {options.tensor_parallel} x {options.pipeline_parallel} "
            f"needs {options.devices} devices, and vLLM sees {present}",
            hint="lower them, or show more devices in CUDA_VISIBLE_DEVICES",
        )


def machine_memory() -> Device:
    """Return the memory of the machine, or of the container where that is less."""
    total, free = available_memory()
    return Device(kind="cpu", total=total, free=free)


def _gpus() -> list[Device]:
    from vllm.third_party import pynvml

    try:  # NVML, because asking torch would open a CUDA context, which takes memory on the device
        pynvml.nvmlInit()
        infos = [pynvml.nvmlDeviceGetMemoryInfo(handle) for handle in map(_handle, _visible(pynvml))]
    except pynvml.NVMLError as error:
        raise ConfigError(f"no GPU can be used: {error}", hint="check the driver and CUDA_VISIBLE_DEVICES") from None
    if not infos:
        raise ConfigError("no GPU can be seen", hint="check CUDA_VISIBLE_DEVICES")
    return [Device(kind="cuda", total=info.total, free=info.free) for info in infos]


def _visible(pynvml: object) -> list[str]:
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return [str(index) for index in range(pynvml.nvmlDeviceGetCount())]  # type: ignore[attr-defined]
    return [name.strip() for name in shown.split(",") if name.strip() not in ("", "-1")]


def _handle(name: str) -> object:
    from vllm.third_party import pynvml

    if name.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(name))
    return pynvml.nvmlDeviceGetHandleByUUID(name)
