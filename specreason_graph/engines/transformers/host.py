"""The process of a model: it reads calls from a pipe and works pass by pass, so that a score need not wait."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO

from specreason_graph.engines.transformers.pipe import BEGIN, SIZE, packed
from specreason_graph.errors import ModelError

if TYPE_CHECKING:
    from specreason_graph.engines.transformers.model import Model, Passes

Send = Callable[[Any, str, Any], None]
POLL_SECONDS = 0.5
"""Seconds between two looks at whether the parent still lives."""


def _next(pipe: BinaryIO) -> Any:
    """Read the next message; raise `EOFError` when the pipe is closed, be it within a message."""
    size = int.from_bytes(pipe.read(SIZE))
    message = pipe.read(size)
    if not size or len(message) < size:
        raise EOFError
    return pickle.loads(message)  # noqa: S301 - it comes from the process that started this one


class CallQueue:
    """The calls in progress: scores and likelihoods, of one pass each, go first; generations go one after the other."""

    def __init__(self, model: Model, send: Send) -> None:
        self._model, self._send = model, send
        self._under_way: dict[int, tuple[str, Passes[Any]]] = {}

    @property
    def is_idle(self) -> bool:
        """Whether no call is in progress."""
        return not self._under_way

    def take(self, number: int, kind: str, given: tuple[Any, ...], stream: bool) -> None:  # noqa: FBT001 - as it came
        """Begin a call, or cancel one."""
        if kind == "cancel":
            _, passes = self._under_way.pop(number, (None, None))  # the call may have ended meanwhile
            if passes:
                passes.close()
        elif kind == "reset_prefix_cache":
            self._model.reset_prefix_cache()
            self._send(number, "done", None)
        elif kind == "score":
            self._under_way[number] = kind, self._model.score(*given)
        elif kind == "likelihood":
            self._under_way[number] = kind, self._model.likelihood(*given)
        else:
            on_token = (lambda token: self._send(number, "token", token)) if stream else None
            prompt, sampling = given
            self._under_way[number] = kind, self._model.write(prompt, sampling, on_token)

    def work(self) -> None:
        """Do one forward pass of the call that comes first."""
        short = (number for number, (kind, _) in self._under_way.items() if kind in ("score", "likelihood"))
        number = next(short, next(iter(self._under_way)))
        try:
            next(self._under_way[number][1])
            return
        except StopIteration as end:
            self._send(number, "done", end.value)
        except Exception as error:  # the libraries raise exceptions of any kind; other calls go on
            self._send(number, "failed", f"{type(error).__name__}: {error}")
            if self._model.is_broken_by(error):
                raise
        del self._under_way[number]


def main(parent: int) -> None:
    """Answer calls until the pipe is closed, the process ``parent`` has ended, or the model is broken."""
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    try:
        _work()
    except (BrokenPipeError, EOFError):
        os._exit(0)  # the parent is gone, and nobody reads answers or traces of failures
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # a normal exit crashes while the reader thread waits on standard input


def _work() -> None:
    """Load the model that the first message names, send its description, and answer calls."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles an interrupt, and then closes the pipe
    # Standard output carries the answers: what libraries print goes to standard error instead.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    answers.write(BEGIN)

    def send(number: int | None, kind: str, what: Any) -> None:
        answers.write(packed((number, kind, what)))
        answers.flush()

    calls: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
    load = _next(sys.stdin.buffer)
    # The reader starts before the model is loaded, so that the process also ends when its parent dies during that.
    threading.Thread(target=_read, args=(sys.stdin.buffer, calls), daemon=True).start()
    from specreason_graph.engines.transformers.model import Model

    try:
        model = Model(load)
        send(None, "done", model.describe())
    except ModelError as error:
        send(None, "failed", (error.args[0], error.hint))
        os._exit(1)
    queue = CallQueue(model, send)
    while True:
        while queue.is_idle or not calls.empty():  # new calls, cancellations among them, come before the next pass
            queue.take(*calls.get())
        queue.work()


def _watch(parent: int) -> None:
    """End with the parent, although a process that it has forked may hold the other end of the pipe."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(0)


def _read(pipe: BinaryIO, calls: SimpleQueue[tuple[Any, ...]]) -> None:
    """Read calls into the queue; when the pipe is closed the parent is gone, and the process ends without delay."""
    try:
        with suppress(EOFError, OSError):
            while True:
                calls.put(_next(pipe))
    finally:
        os._exit(0)
