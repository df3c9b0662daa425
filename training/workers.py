"""Several processes that train one model, one thread each: two of them beat one process with two threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn


def run(work: Callable[..., None], *arguments: Any, count: int = 2) -> None:
    """Call ``work(rank, *arguments)`` in ``count`` processes that can average their gradients."""
    with TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        spawn(_join, (meeting, count, work, arguments), nprocs=count)


def _join(rank: int, meeting: str, count: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)
    work(rank, *arguments)
    distributed.destroy_process_group()


def workers() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def average_gradients(*modules: nn.Module) -> None:
    """Replace each gradient by its mean over the workers, in one message."""
    if workers() == 1:
        return
    gradients = [p.grad for module in modules for p in module.parameters() if p.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(together)
    together /= workers()
    for gradient, mean in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
