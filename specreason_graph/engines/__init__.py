"""Engines: the protocol, its implementations, and the pair that a run uses."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from specreason_graph.engines.base import Engine
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import ConfigError
from specreason_graph.models.abacus import FOLDER

KINDS = ("transformers",)
BUILT_IN = {"abacus-base": FOLDER / "base", "abacus-draft": FOLDER / "draft"}
"""Models that come with the package, by name."""


def open_engine(
    model: str, *, kind: str = "transformers", device: str | None = None, dtype: str | None = None
) -> Engine:
    """Load one engine; ``model`` is a built-in name, a folder, or a name on the model hub."""
    if kind not in KINDS:
        raise ConfigError(f"unknown engine {kind!r}; known engines: {', '.join(KINDS)}")
    from specreason_graph.engines.transformers import TransformersEngine

    _require("torch", "transformers")
    return TransformersEngine(str(BUILT_IN.get(model, Path(model).expanduser() if "~" in model else model)),
                              name=model, device=device, dtype=dtype)  # fmt: skip


def _require(*libraries: str) -> None:
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        hint = 'install it with pip install "specreason-graph[local]"'
        raise ConfigError(f"the transformers engine needs {' and '.join(missing)}", hint=hint)


def open_pair(
    base: str = "abacus-base", draft: str = "abacus-draft", *, kind: str = "transformers", device: str | None = None,
    dtype: str | None = None,
) -> EnginePair:  # fmt: skip
    """Load a pair, base first; a model named for both roles is loaded once."""
    first = open_engine(base, kind=kind, device=device, dtype=dtype)
    second = first if draft == base else open_engine(draft, kind=kind, device=device, dtype=dtype)
    return EnginePair(draft=second, base=first)


__all__ = ["BUILT_IN", "KINDS", "EnginePair", "open_engine", "open_pair"]
