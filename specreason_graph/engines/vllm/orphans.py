"""No engine process outlives the process that started it.

vLLM loads this as a plugin in each of its processes. In a child of the process named in the environment, the kernel is
told to kill the child when the parent's thread that started it ends, however it ends; and so on down to the children's
children. Where no process is named nothing happens.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path

PARENT = "SPECREASON_ENGINE_PARENT"
"""Environment variable: process id of the parent that engine processes must not outlive."""
PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Tie this process to its parent, when it is a child of the one named in the environment (Linux only)."""
    parent = os.environ.get(PARENT)
    if parent is None or int(parent) == os.getpid() or not sys.platform.startswith("linux"):
        return
    if os.getppid() == int(parent):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.environ[PARENT] = str(os.getpid())  # and what this process starts must not outlive it
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to answer
    if not Path("/proc", parent).exists():  # it died before the kernel was told
        os.kill(os.getpid(), signal.SIGKILL)
