"""A terminal with a program in it: what is on its screen, and keys that are pressed."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pyte

ROOT = Path(__file__).parents[2]
SLOW = [sys.executable, "-m", "tests.support.slow_pair"]
"""The command on a scripted pair."""
PATIENCE = 60.0


class Terminal:
    """A program on a pseudo-terminal of a size, and its screen as people see it."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int, width: int, height: int) -> None:
        self.process, self._descriptor = process, descriptor
        self.screen = pyte.Screen(width, height)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        """All that was written."""

    @classmethod
    @contextmanager
    def running(
        cls, arguments: list[str], *, width: int = 80, height: int = 50, env: Mapping[str, str] = {}
    ) -> Iterator[Terminal]:  # fmt: skip
        """A program on a terminal; it is killed when the context closes."""
        ours, theirs = pty.openpty()
        size = {"COLUMNS": str(width), "LINES": str(height), "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
        inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
        process = subprocess.Popen(
            arguments, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, close_fds=True,
            env={**inherited, **size, **env}, preexec_fn=_take_terminal, cwd=ROOT,
        )  # fmt: skip
        os.close(theirs)
        try:
            yield cls(process, ours, width, height)
        finally:
            process.kill()
            process.wait()
            os.close(ours)

    @property
    def lines(self) -> list[str]:
        """The screen, line by line, without what is empty at its end."""
        shown = [line.rstrip() for line in self.screen.display]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    @property
    def text(self) -> str:
        """The screen as one text."""
        return "\n".join(self.lines)

    def wait_for(self, seen: Callable[[str], object], seconds: float = PATIENCE) -> None:
        """Read until something is on the screen; fail where it does not come."""
        ends = time.monotonic() + seconds
        while not seen(self.text):
            assert time.monotonic() < ends, f"it did not come:\n{self.text}"
            if not self._read(0.05) and self.process.poll() is not None:
                assert seen(self.text), f"it ended with {self.process.returncode}:\n{self.text}"

    def wait(self, seconds: float = PATIENCE) -> int:
        """Read to the end of the program; its exit code."""
        ends = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < ends, f"it does not end:\n{self.text}"
            self._read(0.05)
        while self._read(0.05):
            pass
        return self.process.returncode

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self._descriptor, b"\x03")

    def kill(self) -> None:
        """End the program as a power cut would."""
        self.process.send_signal(signal.SIGKILL)

    def is_struck(self, text: str) -> bool:
        """Whether a text on the screen is struck through, on each line that it is on."""
        for number, line in enumerate(self.screen.display):
            if (at := line.find(text)) >= 0:
                return all(self.screen.buffer[number][at + each].strikethrough for each in range(len(text)))
        raise AssertionError(f"{text!r} is not on the screen:\n{self.text}")

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        if not ready:
            return False
        came = b""
        with suppress(OSError):  # the program has closed its end
            came = os.read(self._descriptor, 65536)
        self.raw += came
        self._stream.feed(came)
        return bool(came)


def _take_terminal() -> None:
    """Make standard input the terminal that Ctrl-C comes from."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
