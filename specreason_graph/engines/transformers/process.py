"""The parent's side of a model's process: calls go in through one pipe, answers come out of the other."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from contextlib import suppress
from itertools import count
from typing import Any, Self

from specreason_graph.engines.base import TokenCallback
from specreason_graph.engines.transformers.pipe import BEGIN, SIZE, Load, packed
from specreason_graph.errors import EngineDeadError, EngineError, ModelError
from specreason_graph.record.manifest import EngineDescription

END_SECONDS = 5.0
"""Seconds that the process gets to end by itself before it is killed."""
HOST = "from specreason_graph.engines.transformers.host import main; main({parent})"
"""The program of the process; ``python -m`` would load the module twice, once as ``__main__``."""


class Process(asyncio.SubprocessProtocol):
    """A model's process, used on one event loop; it ends when its pipe closes, so also when this process is killed."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self.ready: asyncio.Future[EngineDescription] = asyncio.get_running_loop().create_future()
        """The model's description, once it is loaded; `ModelError` where it cannot be loaded."""
        # Mark an exception as seen: asyncio logs those that nobody awaits, and all callers may have left.
        self.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())
        self._ended = asyncio.Event()
        self._numbers = count(1)
        self._asked: dict[int, tuple[asyncio.Future[Any], TokenCallback | None]] = {}
        self._came, self._begun = bytearray(), False

    @classmethod
    async def start(cls, load: Load) -> Self:
        """Start a process, which begins to load the model."""
        # The child must find this package where the parent found it, also under `python -I` or a changed sys.path; an
        # empty entry there stands for the current folder.
        folders = [folder or os.getcwd() for folder in sys.path if isinstance(folder, str)]  # noqa: PTH109
        _, process = await asyncio.get_running_loop().subprocess_exec(
            lambda: cls(load), sys.executable, "-P", "-c", HOST.format(parent=os.getpid()),
            stderr=None, start_new_session=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        )  # fmt: skip
        return process

    @property
    def pid(self) -> int:
        """The process id."""
        return int(self._transport.get_pid())

    @property
    def is_dead(self) -> bool:
        """Whether the process has ended."""
        return self._ended.is_set()

    async def ask(self, kind: str, *given: Any, on_token: TokenCallback | None = None) -> Any:
        """Send a call and wait for its answer; cancelling the caller, or an error in ``on_token``, cancels the work."""
        number, answer = next(self._numbers), asyncio.get_running_loop().create_future()
        self._asked[number] = answer, on_token
        try:
            self._send((number, kind, given, on_token is not None))
            return await answer
        except BaseException:
            self._send((number, "cancel", (), False))  # the process ignores it where the call itself has failed
            raise
        finally:
            del self._asked[number]

    async def end(self) -> None:
        """Close the pipe and wait for the end; kill the process when that takes too long or the wait is cancelled."""
        self._calls.close()
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), END_SECONDS)
        finally:
            if not self.is_dead:
                self._transport.kill()
                await self._ended.wait()

    def _send(self, message: Any) -> None:
        if not self._calls.is_closing():  # else the process has died, and connection_lost fails all waiting calls
            self._calls.write(packed(message))

    def connection_made(self, transport: Any) -> None:
        """Send the model to load, now that the process runs."""
        self._transport, self._calls = transport, transport.get_pipe_transport(0)
        self._send(self._load)

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002
        """Take in answers, of which the last may be incomplete."""
        self._came += data
        if not self._begun and BEGIN in self._came:
            self._came, self._begun = self._came.partition(BEGIN)[2], True
        if self._begun:
            self._take_all()

    def _take_all(self) -> None:
        while len(self._came) >= SIZE and len(self._came) >= (end := SIZE + int.from_bytes(self._came[:SIZE])):
            number, kind, what = pickle.loads(self._came[SIZE:end])  # noqa: S301 - from our own process
            del self._came[:end]
            self._take(number, kind, what)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Fail all calls that still wait: the process has ended, and all its answers have come."""
        self._ended.set()
        self._transport.close()
        code = self._transport.get_returncode()
        how = f"was killed by signal {-code}" if code < 0 else f"has ended with code {code}"
        name = self._load.name
        for answer, _ in [(self.ready, None), *self._asked.values()]:
            if not answer.done():
                ended = f"{name}: the process of the model {how}"
                answer.set_exception(EngineDeadError(ended, engine=name, retryable=True))

    def _take(self, number: int | None, kind: str, what: Any) -> None:
        answer, on_token = (self.ready, None) if number is None else self._asked.get(number, (None, None))
        if answer is None or answer.done():
            return
        if kind == "token":
            try:
                if on_token:
                    on_token(what)
            except Exception as error:  # an error of the caller's own callback fails its own call only
                answer.set_exception(error)
        elif kind == "done":
            answer.set_result(what)
        elif number is None:
            answer.set_exception(ModelError(what[0], hint=what[1]))
        else:
            answer.set_exception(EngineError(f"{self._load.name}: {what}", engine=self._load.name))
