"""What Ctrl-C does for a while; imports nothing that takes time, because it is wanted before all that."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def handling_interrupt(handle: Callable[..., None]) -> Iterator[None]:
    """Have ``handle`` called at Ctrl-C while the context is open; nowhere but in the main thread, where it comes."""
    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
