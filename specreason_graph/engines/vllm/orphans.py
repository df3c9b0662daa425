"""Ends engine processes when the program that started them has ended, however it ended (Linux only).

A watcher, itself a process, waits for the end of its parent and then kills the processes that carry the parent's mark
in their environment. It asks nothing of them: one that was started a moment ago and still imports is killed as well.
The sockets over which they spoke go with them.
This file is also the watcher's program, so it imports the standard library only.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

PARENT = "SPECREASON_ENGINE_PARENT"
"""Environment variable that marks the processes of an engine."""
POLL_SECONDS = 0.2
"""Seconds between two looks at whether the parent still lives."""
SETTLE_SECONDS = 1.0
"""How long the watcher goes on looking for processes that were being started when the parent ended."""
LONGEST_SECONDS = 30.0
"""When it gives up on a process that the kernel cannot end."""
UNINTERRUPTIBLE = "uninterruptible"
LONGEST_FOLDER = 70
"""Characters of the longest folder for sockets: the name of one has 37, and a socket's address at most 107."""


def environment_of(mark: str) -> dict[str, str]:
    """Return the environment variables of processes that carry a mark, and meet in this process's own folder.

    A program that is killed leaves its sockets where they are, and vLLM puts them beside everybody's temporary files.
    Only its user may enter this folder; it is removed when this process ends, by a watcher when it is killed.
    """
    folder = _sockets(os.getpid())  # a fork has its own
    # while another engine starts, the variable is there; one that the user has set stands
    fits = os.environ.get("VLLM_RPC_BASE_PATH", folder) == folder and len(folder) <= LONGEST_FOLDER
    return {PARENT: mark, **({"VLLM_RPC_BASE_PATH": folder} if fits else {})}


@cache
def _sockets(pid: int) -> str:
    folder = tempfile.mkdtemp(prefix="specreason-")
    atexit.register(_remove, folder, pid)
    return folder


def _remove(folder: str, pid: int) -> None:
    if os.getpid() == pid:  # a fork takes over what is registered
        shutil.rmtree(folder, ignore_errors=True)


class Watcher:
    """Kills the processes marked ``mark`` when this process has ended.

    ``uninterruptible``: only those that block SIGINT, see `interrupts_blocked`.
    """

    def __init__(self, mark: str, *, uninterruptible: bool = False) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if not sys.platform.startswith("linux"):
            return
        rule = [UNINTERRUPTIBLE] if uninterruptible else []
        # In a session of its own it gets no signal from a terminal. It holds none of the caller's files open, and does
        # not import the package: it has to be ready before the first engine process is.
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), _sockets(os.getpid()), mark, *rule], cwd="/",
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if name != PARENT},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def stop(self) -> None:
        """End the watcher; the marked processes stay."""
        if self._process:
            self._process.kill()
            self._process.wait()


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Block SIGINT in this thread, and so, for ever, in the processes that it starts.

    Ctrl-C reaches all processes of a terminal, and this one decides what it ends. It also tells these processes from
    others: a mark in this process's environment is inherited by whatever its other threads start at that moment.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_marked(mark: str, *, uninterruptible: bool = False, settle: float = 0.0) -> None:
    """Kill the marked processes, until none has been found for ``settle`` seconds."""
    begun = last = time.monotonic()
    while True:
        for pid in _marked(mark, uninterruptible=uninterruptible):
            last = time.monotonic()
            with suppress(OSError):  # it has ended meanwhile
                os.kill(pid, signal.SIGKILL)
        now = time.monotonic()
        if now - last > settle or now - begun > LONGEST_SECONDS:
            return
        time.sleep(POLL_SECONDS / 4)


def _marked(mark: str, *, uninterruptible: bool) -> Iterator[int]:
    wanted = f"{PARENT}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile, or belongs to somebody else
            marked = wanted in (folder / "environ").read_bytes().split(b"\0")
            # A resource tracker ends by itself, when all who use it have; before, it removes what they left.
            is_tracker = b"multiprocessing.resource_tracker" in (folder / "cmdline").read_bytes()
            if marked and not is_tracker and (not uninterruptible or _blocks_interrupts(folder)):
                yield int(folder.name)


def _blocks_interrupts(folder: Path) -> bool:
    lines = (folder / "status").read_text().splitlines()
    blocked = next(line.partition(":")[2] for line in lines if line.startswith("SigBlk:"))
    return bool(int(blocked, 16) & 1 << signal.SIGINT - 1)


def main(parent: int, folder: str, mark: str, *rules: str) -> None:
    """Wait for the end of the parent, and end what it has left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # whoever stops all processes at once must not stop this one first
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    end_marked(mark, uninterruptible=UNINTERRUPTIBLE in rules, settle=SETTLE_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
