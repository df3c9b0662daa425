"""Kills a program while its engines start and run, and looks for what it has left: ``python -m tests.fuzz.kills``."""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from tests.support.ports import free_port

EVERY_SECONDS = 0.5
LEFT_SECONDS = 5.0
"""Seconds after which nothing may be left."""
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
OPENING = """
import time
from specreason_graph import open_pair
if __name__ == "__main__":
    with open_pair("abacus-base", "abacus-draft", kind="{kind}"):
        print("ready", flush=True)
        time.sleep(600)
"""
KINDS = ("vllm", "serve", "transformers")


@dataclass
class Kill:
    """What one kill found."""

    after: float
    """Seconds after the launch at which the signal was sent."""
    number: signal.Signals
    ready: bool
    """Whether the engines were ready by then."""
    processes: int
    """Processes below the program when it was killed."""
    left: list[str]
    """Those that lived on for `LEFT_SECONDS`, and sockets that were still there then."""
    seconds: float
    """Seconds until the last one had ended."""
    printed: str
    """What was printed after the signal."""

    def __str__(self) -> str:
        stage = "ready" if self.ready else "starting" if self.processes else "importing"
        return (
            f"{self.number.name:8} {self.after:5.1f} s  {stage:9} {self.processes:3} processes"
            f"  {len(self.left)} left after {LEFT_SECONDS:g} s  all gone after {self.seconds:.1f} s"
        )


class Program:
    """A program that opens engines of a kind; whatever it has started is killed when the context is left."""

    def __init__(self, kind: str) -> None:
        self._kind, self._before = kind, _living()

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="specreason-kills-")
        self._output, self._temporary = Path(self._folder.name, "output"), Path(self._folder.name, "tmp")
        with self._output.open("w") as output:
            command = _command(self._kind, Path(self._folder.name))
            self._temporary.mkdir()
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "TMPDIR": str(self._temporary)}
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)
        self._folder.cleanup()

    def printed(self) -> str:
        """What it has printed so far."""
        return self._output.read_text()

    def left(self) -> set[int]:
        """What runs below it, and what it has left."""
        return _living() - self._before - {self._process.pid}

    def wait(self, reached: Callable[[], object]) -> float:
        """Wait until it has got somewhere; the seconds that took."""
        begun = time.monotonic()
        while not reached():
            if self._process.poll() is not None or time.monotonic() - begun > 1200:
                raise RuntimeError(f"the {self._kind} program ended or hangs: {self.printed()}")
            time.sleep(0.05)
        return time.monotonic() - begun

    def kill(self, after: float, number: signal.Signals) -> Kill:
        """Send it a signal, and see what is left."""
        told, processes = self.printed(), len(self.left())
        self._process.send_signal(number)
        self._process.wait(60)
        left, took = self._wait_until_gone()
        return Kill(after, number, "ready" in told, processes, left, took, self.printed().removeprefix(told))

    def _wait_until_gone(self) -> tuple[list[str], float]:
        begun, left = time.monotonic(), list[str]()
        while alive := self.left():
            took = time.monotonic() - begun
            if took > LEFT_SECONDS and not left:
                left = [_name(pid) for pid in alive]
            if took > 4 * LEFT_SECONDS:
                break
            time.sleep(0.05)
        took = time.monotonic() - begun
        while (kept := self.sockets()) and time.monotonic() - begun < LEFT_SECONDS:
            time.sleep(0.05)
        return left + kept, took

    def sockets(self) -> list[str]:
        """The sockets, and the folders for them, among its temporary files."""
        return [str(each) for each in self._temporary.rglob("*") if each.is_socket() or "specreason-" in each.name]


@contextmanager
def adopting() -> Iterator[None]:
    """Be the parent of all orphans below this process, so that none can hide."""
    prctl, set_subreaper = ctypes.CDLL(None).prctl, 36
    prctl(set_subreaper, 1)
    try:
        yield
    finally:
        prctl(set_subreaper, 0)


def kills(kind: str, count: int | None = None) -> Iterator[Kill]:
    """Kill a program at `count` instants, or every `EVERY_SECONDS`, from its launch until its engines have run."""
    with adopting():
        with Program(kind) as whole:
            seconds = 1.2 * whole.wait(lambda: "ready" in whole.printed())
        instants = count or int(seconds / EVERY_SECONDS)
        for index in range(instants):
            after = seconds * (index + 1) / (instants + 1)
            with Program(kind) as program:
                time.sleep(after)
                yield program.kill(after, SIGNALS[index % 2])


def _command(kind: str, folder: Path) -> list[str]:
    if kind == "serve":
        ports = ["--base-port", str(free_port()), "--draft-port", str(free_port())]
        return [sys.executable, "-m", "specreason_graph", "serve-engines", *ports]
    script = folder / "program.py"  # children import the main module, so it has to be a file
    script.write_text(OPENING.format(kind=kind))
    return [sys.executable, str(script)]


def _living() -> set[int]:
    """All processes below this one that have not ended; those that have are forgotten, as init does it."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE:
                found.add(child.pid)
    return found


def _name(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())[:100]
    except psutil.NoSuchProcess:
        return str(pid)


def main() -> None:
    """Kill programs while they open engines; exit with 1 if any left a process or a socket for more than 5 seconds."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kind", choices=KINDS, default="vllm")
    parser.add_argument("--count", type=int, help="how many, instead of one every half second")
    given = parser.parse_args()
    bad = done = 0
    for kill in kills(given.kind, given.count):
        print(f"{given.kind:12} {kill}", *kill.left, sep="\n    ", flush=True)
        bad, done = bad + bool(kill.left), done + 1
    print(f"{bad} of {done} kills left something")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
