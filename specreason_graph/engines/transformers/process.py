"""The process of a model, seen from the one that started it: calls go in at one pipe, answers come out at the other."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
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
        self.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())  # nobody may wait any more
        self.is_dead = False
        self._numbers = count(1)
        self._asked: dict[int, tuple[asyncio.Future[Any], TokenCallback | None]] = {}
        folders = [folder or os.getcwd() for folder in sys.path if isinstance(folder, str)]  # noqa: PTH109 - "" is that
        self._popen = subprocess.Popen(  # noqa: S603 - our own code
            [sys.executable, "-P", "-c", HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)}, start_new_session=True,
        )  # fmt: skip
        self._send(load)
        self._reader = threading.Thread(target=self._read, name=f"engine-{load.name}", daemon=True)
        self._reader.start()

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
        self._reader.join()

    def _send(self, message: Any) -> None:
        assert self._popen.stdin  # noqa: S101
        with suppress(OSError, ValueError):  # it has died or ended: the reader tells those who wait
            self._popen.stdin.write(pickle.dumps(message))
            self._popen.stdin.flush()

    def _read(self) -> None:
        """Take what comes from the process until it ends; on a thread of its own."""
        assert self._popen.stdout  # noqa: S101
        with self._popen.stdout as answers, suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                number, kind, what = pickle.load(answers)  # noqa: S301 - from our own process
                if kind == "token":
                    self._tell(number, what)
                else:
                    self._later(self._settle, number, kind, what)
        self._later(self._die, self._popen.wait())

    def _later(self, work: Callable[..., None], *given: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(work, *given)

    def _tell(self, number: int, token: int) -> None:
        answer, on_token = self._asked.get(number, (None, None))
        try:
            if on_token:
                on_token(token)
        except Exception as error:  # the caller's own: its call fails, and no other
            self._later(_fail, answer, error)

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

    def _die(self, code: int) -> None:
        """Tell all that wait that nothing will come any more."""
        self.is_dead = True
        how = f"was killed by signal {-code}" if code < 0 else f"has ended with code {code}"
        for answer, _ in [(self.ready, None), *self._asked.values()]:
            lost = f"{self._name}: the process of the model {how}"
            _fail(answer, EngineDeadError(lost, engine=self._name, retryable=True))


def _fail(answer: asyncio.Future[Any], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
