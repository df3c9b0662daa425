"""What the models of embedded engines take of the machine's memory, known before one of them is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from specreason_graph.engines.checkpoint import file_bytes
from specreason_graph.engines.machine import available_memory, computes_in
from specreason_graph.errors import ConfigError

GIB = 1 << 30
PROCESS = int(0.6 * GIB)
"""Memory of a model's process besides the weights: libraries, activations and the caches of a few prompts."""
WIDTHS = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
SMALL = 100_000_000
"""Bytes of 16-bit weights below which a model is as fast in float32, and its tokens are the same on all processors."""


def stored_dtype(path: str) -> str:
    """The number format of a checkpoint's weights, as its config names it; float32 where it names none."""
    try:
        config = json.loads(Path(path, "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "float32"
    named = config.get("dtype") or config.get("torch_dtype") or (config.get("text_config") or {}).get("dtype")
    return str(named or "float32")


def cpu_dtype(path: str) -> str:
    """The number format in which a model is loaded on a CPU: its own where the processor has it, else float32.

    Small models are always loaded as float32.
    """
    stored = stored_dtype(path)
    return stored if computes_in(stored) and file_bytes(path) >= SMALL else "float32"


def check_memory(models: Mapping[str, str], dtype: str | None) -> None:
    """Raise `ConfigError` when models do not fit in the machine's memory together, with what each would take.

    ``models``: folders by name; a name on the hub is not counted.
    """
    needs = {name: _needed(path, dtype) for name, path in models.items() if Path(path).is_dir()}
    _, free = available_memory()
    if sum(needs.values()) <= free:
        return
    each = ", ".join(f"{name} {size / GIB:.1f}" for name, size in needs.items())
    raise ConfigError(
        f"the models take about {sum(needs.values()) / GIB:.1f} GiB of memory ({each}), and {free / GIB:.1f} are free",
        hint="use smaller models, --dtype bfloat16, or servers on another machine",
    )


def _needed(path: str, dtype: str | None) -> int:
    width = WIDTHS.get(dtype or cpu_dtype(path), 2)
    return int(file_bytes(path) * width / WIDTHS.get(stored_dtype(path), 2)) + PROCESS
