"""The process of a model, seen from the one that started it: calls go in at one pipe, answers come out at the other."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import threading
from contextlib import suppress
from itertools import count
from typing import Any

from specreason_graph.engines.base import EngineDescription, TokenCallback
from specreason_graph.engines.transformers.host import Load
from specreason_graph.errors import EngineDeadError, EngineError, ModelError

END_SECONDS = 5.0
"""Time the process gets to end before it is killed."""
HOST = "from specreason_graph.engines.transformers.host import main; main()"
"""What the process runs: no module by name, which would be there twice."""


class Process:
    """Starts the process; used on one event loop. It ends when the pipe to it is closed, so also when we are killed."""

    def __init__(self, load: Load) -> None:
        self._name = load.name
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[EngineDescription] = self._loop.create_future()
        """What the model is, once it is loaded; `ModelError` where it cannot be."""
        self.is_dead = False
        self._numbers = count(1)
        self._asked: dict[int, tuple[asyncio.Future[Any], TokenCallback | None]] = {}
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)  # noqa: PTH109 - what "" stands for
        self._popen = subprocess.Popen(  # noqa: S603 - our own code
            [sys.executable, "-P", "-c", HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path}, start_new_session=True,
        )  # fmt: skip
        self._send(load)
        threading.Thread(target=self._read, name=f"engine-{load.name}", daemon=True).start()

    async def ask(self, kind: str, *given: Any, on_token: TokenCallback | None = None) -> Any:
        """Have the model work on something; who is cancelled cancels the work."""
        number, answer = next(self._numbers), self._loop.create_future()
        self._asked[number] = answer, on_token
        try:
            self._send((number, kind, given, on_token is not None))
            return await answer
        except asyncio.CancelledError:
            self._send((number, "cancel", (), False))
            raise
        finally:
            del self._asked[number]

    def end(self) -> None:
        """End the process, and wait until it has ended."""
        assert self._popen.stdin  # noqa: S101 - a pipe
        with suppress(OSError):
            self._popen.stdin.close()
        try:
            self._popen.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def _send(self, message: Any) -> None:
        assert self._popen.stdin  # noqa: S101
        with suppress(OSError, ValueError):  # it has died or ended: the reader tells those who wait
            pickle.dump(message, self._popen.stdin)
            self._popen.stdin.flush()

    def _read(self) -> None:
        """Take what comes from the process until it ends; on a thread of its own."""
        assert self._popen.stdout  # noqa: S101
        with self._popen.stdout as answers, suppress(RuntimeError):  # the loop is closed: nobody waits any more
            try:
                while True:
                    number, kind, what = pickle.load(answers)  # noqa: S301 - from our own process
                    if kind == "token":
                        self._tell(number, what)
                    else:
                        self._loop.call_soon_threadsafe(self._settle, number, kind, what)
            except (EOFError, OSError, pickle.UnpicklingError):
                self._loop.call_soon_threadsafe(self._die)

    def _tell(self, number: int, token: int) -> None:
        _, on_token = self._asked.get(number, (None, None))
        if on_token:
            on_token(token)

    def _settle(self, number: int | None, kind: str, what: Any) -> None:
        answer = self.ready if number is None else self._asked.get(number, (None, None))[0]
        if answer is None or answer.done():
            return
        if kind == "done":
            answer.set_result(what)
        elif number is None:
            answer.set_exception(ModelError(what[0], hint=what[1]))
        else:
            answer.set_exception(EngineError(f"{self._name}: {what}", engine=self._name))

    def _die(self) -> None:
        """Tell all that wait that nothing will come any more."""
        self.is_dead = True
        for answer, _ in [(self.ready, None), *self._asked.values()]:
            if not answer.done():
                lost = f"{self._name}: the process of the model has ended"
                answer.set_exception(EngineDeadError(lost, engine=self._name, retryable=True))
