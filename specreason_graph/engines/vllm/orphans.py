"""A vLLM plugin that ends engine processes together with the process that started them.

vLLM loads the plugin in each of its processes. The environment names the parent process. A child of that process asks
the kernel to kill it when the parent's thread that started it ends, for whatever reason, and names itself as the parent
of its own children. Where the environment names no process the plugin does nothing.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path

PARENT = "SPECREASON_ENGINE_PARENT"
"""Environment variable with the process id of the parent that engine processes must not outlive."""
PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Make this process end with its parent, if it is a child of the process in the environment (Linux only)."""
    parent = os.environ.get(PARENT)
    if parent is None or int(parent) == os.getpid() or not sys.platform.startswith("linux"):
        return
    if os.getppid() == int(parent):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.environ[PARENT] = str(os.getpid())  # processes that this one starts must not outlive it either
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    if not Path("/proc", parent).exists():  # the parent died before prctl was called
        os.kill(os.getpid(), signal.SIGKILL)
