"""The hardware and software that figures were measured on; they are printed with each table."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from specreason_graph.engines import cores
from specreason_graph.engines.pair import EnginePair
from specreason_graph.record.records import Record

OURS = ("transformers", "vllm")
"""Engines that work on this machine."""


class Hardware(Record):
    """A machine, and the engines and models that ran on it."""

    kind: Literal["hardware"] = "hardware"
    """Kind of this JSON line."""
    processor: str
    """Model of the CPU."""
    cores: int
    """CPU cores that this process may use."""
    accelerators: list[str]
    """Models of the GPUs that this process sees; empty for a server, whose machine is not known."""
    python: str
    """Version of Python."""
    engine: str
    """Kind and version of the engine."""
    base: str
    """Base model, its number format and its device."""
    draft: str
    """Draft model, its number format and its device."""

    def line(self) -> str:
        """Format the hardware as one line for people."""
        machine = ", ".join([self.processor, f"{self.cores} cores", *self.accelerators])
        return f"{machine}; {self.engine}, Python {self.python}; base {self.base}; draft {self.draft}"


def describe_hardware(pair: EnginePair, draft_name: str) -> Hardware:
    """Describe this machine and the engines of the pair, which must be open."""
    base, draft = pair.describe()["base"], pair.describe()["draft"]
    return Hardware(
        processor=processor(), cores=cores(), accelerators=_accelerators() if base.engine in OURS else [],
        python=platform.python_version(), engine=f"{base.engine} {base.engine_version}",
        base=f"{base.model} {base.dtype} on {base.device}", draft=f"{draft_name} {draft.dtype} on {draft.device}",
    )  # fmt: skip


def processor() -> str:
    """Return the model of the CPU."""
    # On Linux, platform.processor() is empty or names the architecture only.
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _accelerators() -> list[str]:
    if not find_spec("torch"):
        return []
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
