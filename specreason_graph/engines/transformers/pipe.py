"""What goes through the pipes between an engine and the process of its model."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

SIZE = 4
"""Bytes before each message that tell how long it is."""
BEGIN = b"\0specreason\0"
"""Comes before the first answer: the interpreter's own start-up files may print whatever they like."""


def packed(message: Any) -> bytes:
    """A message as it goes through the pipe."""
    content = pickle.dumps(message)
    return len(content).to_bytes(SIZE) + content


@dataclass(frozen=True)
class Load:
    """What is to be loaded."""

    path: str
    """Folder or hub name."""
    name: str
    """What people call it."""
    device: str | None
    """Torch device; None for the GPU where there is one."""
    dtype: str | None
    """Torch dtype; None for float32 on CPU and the checkpoint's own on GPU."""
    context: int | None
    """Longest prompt plus output, in tokens; None for the model's own."""
    threads: int | None
    """CPU threads; None for all cores."""
