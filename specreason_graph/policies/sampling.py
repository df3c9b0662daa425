"""How the models are sampled: by the settings of the run, or as their makers recommend."""

from __future__ import annotations

from typing import Any

from specreason_graph.config import SpecReasonConfig
from specreason_graph.engines.base import Engine


def sampling_of(engine: Engine, config: SpecReasonConfig) -> dict[str, Any]:
    """Fields of `Sampling` for an engine; what its makers do not recommend is as the settings have it."""
    settings = {"temperature": config.temperature, "top_p": config.top_p}
    return settings | dict(engine.recommended_sampling) if config.sampling == "model" else settings
