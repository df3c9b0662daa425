"""The machine that engines run on: its memory, and the number formats of its processor."""

from __future__ import annotations

from functools import cache
from pathlib import Path

CGROUP = "/sys/fs/cgroup"
FORMATS = {"bfloat16": ("avx512_bf16", "amx_bf16", "bf16"), "float16": ("avx512_fp16", "amx_fp16", "asimdhp")}
"""Flags by which Linux tells that the processor multiplies in a format, on x86 and ARM."""


def available_memory() -> tuple[int, int]:
    """Return the bytes of the machine's memory, or of the container's where that is less, and those not in use."""
    import psutil

    memory = psutil.virtual_memory()
    limit, used = (_number(Path(CGROUP, name)) for name in ("memory.max", "memory.current"))
    # A container counts the page cache as used memory; models that were read from disk would leave none free.
    used = (used or 0) - _cached(Path(CGROUP, "memory.stat"))
    total = min(memory.total, limit or memory.total)
    free = min(memory.available, limit - used) if limit else memory.available
    return total, max(0, free)


def computes_in(dtype: str) -> bool:
    """Whether the processor multiplies in a number format by itself; float32 always, others as Linux tells."""
    return dtype == "float32" or bool(_flags() & set(FORMATS.get(dtype, ())))


@cache
def _flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _cached(file: Path) -> int:
    """Bytes of page cache, which the kernel frees when memory is needed."""
    try:
        found = dict(line.split() for line in file.read_text().splitlines())
        return int(found.get("inactive_file", 0)) + int(found.get("active_file", 0))
    except (OSError, ValueError):
        return 0
