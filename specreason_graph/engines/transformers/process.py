"""The process of a model, seen from the one that started it: calls go in at one pipe, answers come out at the other."""

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
"""Time the process gets to end before it is killed."""
HOST = "from specreason_graph.engines.transformers.host import main; main()"
"""What the process runs: no module by name, which would be there twice."""


class Process(asyncio.SubprocessProtocol):
    """A process, used on one event loop. It ends when the pipe to it is closed, so also when we are killed."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self.ready: asyncio.Future[EngineDescription] = asyncio.get_running_loop().create_future()
        """What the model is, once it is loaded; `ModelError` where it cannot be."""
        self.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())  # nobody may wait any more
        self._ended = asyncio.Event()
        self._numbers = count(1)
        self._asked: dict[int, tuple[asyncio.Future[Any], TokenCallback | None]] = {}
        self._came, self._begun = bytearray(), False

    @classmethod
    async def start(cls, load: Load) -> Self:
        """Start one, which begins to load the model."""
        folders = [folder or os.getcwd() for folder in sys.path if isinstance(folder, str)]  # noqa: PTH109 - "" is that
        _, process = await asyncio.get_running_loop().subprocess_exec(
            lambda: cls(load), sys.executable, "-P", "-c", HOST, stderr=None, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        )  # fmt: skip
        return process

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self._transport.get_pid())

    @property
    def is_dead(self) -> bool:
        """Whether it has ended."""
        return self._ended.is_set()

    async def ask(self, kind: str, *given: Any, on_token: TokenCallback | None = None) -> Any:
        """Have the model work on something; who is cancelled, or fails at a token, cancels the work."""
        number, answer = next(self._numbers), asyncio.get_running_loop().create_future()
        self._asked[number] = answer, on_token
        try:
            self._send((number, kind, given, on_token is not None))
            return await answer
        except BaseException:  # where the process told of it, there is nothing left to cancel
            self._send((number, "cancel", (), False))
            raise
        finally:
            del self._asked[number]

    async def end(self) -> None:
        """End the process, and wait until it has ended, also when cancelled."""
        self._calls.close()
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), END_SECONDS)
        finally:
            if not self.is_dead:
                self._transport.kill()
                await self._ended.wait()

    def _send(self, message: Any) -> None:
        if not self._calls.is_closing():  # else it has died: who waits is told when its answers end
            self._calls.write(packed(message))

    def connection_made(self, transport: Any) -> None:
        """It runs."""
        self._transport, self._calls = transport, transport.get_pipe_transport(0)
        self._send(self._load)

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002
        """Some of its answers came."""
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
        """It has ended, and all its answers have come: tell those who wait for others."""
        self._ended.set()
        self._transport.close()
        code = self._transport.get_returncode()
        how = f"was killed by signal {-code}" if code < 0 else f"has ended with code {code}"
        name = self._load.name
        for answer, _ in [(self.ready, None), *self._asked.values()]:
            if not answer.done():
                lost = f"{name}: the process of the model {how}"
                answer.set_exception(EngineDeadError(lost, engine=name, retryable=True))

    def _take(self, number: int | None, kind: str, what: Any) -> None:
        answer, on_token = (self.ready, None) if number is None else self._asked.get(number, (None, None))
        if answer is None or answer.done():
            return
        if kind == "token":
            try:
                if on_token:
                    on_token(what)
            except Exception as error:  # the caller's own: its call fails, and no other
                answer.set_exception(error)
        elif kind == "done":
            answer.set_result(what)
        elif number is None:
            answer.set_exception(ModelError(what[0], hint=what[1]))
        else:
            answer.set_exception(EngineError(f"{self._load.name}: {what}", engine=self._load.name))
