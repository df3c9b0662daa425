"""A draft with random weights: the architecture and vocabulary of a model, but none of its knowledge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from specreason_graph.engines import locate
from specreason_graph.engines.checkpoint import load_tokenizer, unloadable

SEED = 20250410


def write_random_draft(model: str, folder: Path, seed: int = SEED) -> None:
    """Write a model with random weights into a folder; ``model`` is named as for `open_pair`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    path = locate(model)
    load_tokenizer(path).save_pretrained(folder)
    # The same weights each time, and the caller's random state stays as it is.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            models: Any = AutoModelForCausalLM
            network = models.from_config(AutoConfig.from_pretrained(path, trust_remote_code=False))
            network.generation_config = GenerationConfig.from_pretrained(path)
        except OSError as error:
            raise unloadable(path, error) from None
    network.save_pretrained(folder)
