"""Messages in the pipes between an embedded engine and the process of its model."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

SIZE = 4
"""Bytes in front of each message that hold its length."""
BEGIN = b"\0specreason\0"
"""Marks the beginning of the answers: start-up files of the interpreter may print to the pipe before it."""


def packed(message: Any) -> bytes:
    """Serialise a message, with its length in front."""
    content = pickle.dumps(message)
    return len(content).to_bytes(SIZE) + content


@dataclass(frozen=True)
class Load:
    """The model to load, and how; the first message to the process."""

    path: str
    """Folder or hub name."""
    name: str
    """Name of the model in messages and records."""
    device: str | None
    """Torch device; None for the GPU where there is one."""
    dtype: str | None
    """Torch dtype; None for the checkpoint's own, or float32 on a CPU that lacks it."""
    context: int | None
    """Longest prompt plus output, in tokens; None for the model's own."""
    threads: int | None
    """CPU threads; None for all cores."""
