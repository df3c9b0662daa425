"""The two engines of a run, on an event loop of their own.

An engine must be used from one event loop, while its callers are sync code, any event loop, Jupyter or the threads of
a server. The pair therefore owns a loop in a daemon thread, and passes calls and cancellations on to it.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from contextvars import ContextVar
from copy import copy
from functools import cached_property
from typing import Any, Self, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from specreason_graph.engines.base import Engine
from specreason_graph.engines.slots import CallSlots, Priority
from specreason_graph.errors import ConfigError, UsageError
from specreason_graph.record.manifest import EngineDescription
from specreason_graph.record.records import Engine as Role

T = TypeVar("T")
CANCELLING = 1.0
"""Longest that a caller waits for cancelled work to end, in seconds."""


class Work(Future[T]):
    """The result of submitted work; ``ended`` is set when the work has really ended, also after a cancellation."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()


class StreamCalls:
    """The engines' work in progress for one stream over a graph: who leaves the stream cancels all of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: set[Any] = set()
        self._was_left = False

    def add(self, call: Any) -> None:
        """Note a call, which has a ``cancel``; it is cancelled at once where the stream has been left by now."""
        # The stream is left in one thread while a call begins in another: a call that is only noted would go on.
        with self._lock:
            if not self._was_left:
                self._begun.add(call)
                return
        call.cancel()

    def discard(self, call: Any) -> None:
        """Forget a call that has ended."""
        with self._lock:
            self._begun.discard(call)

    def cancel(self) -> None:
        """Cancel all calls; the stream has been left."""
        with self._lock:
            self._was_left, begun, self._begun = True, self._begun, set()
        for call in begun:
            call.cancel()


CALLS: ContextVar[StreamCalls | None] = ContextVar("specreason_calls", default=None)
"""The work in progress of the current stream."""


class LoopThread:
    """An event loop in a thread of its own, which starts at the first use; ``last`` is run when it is stopped."""

    def __init__(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._last = last
        self._lock = threading.Lock()
        self.closing = threading.Lock()
        """Held by who closes what runs in the thread."""
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.was_left = False
        """Whether it runs in another process, of which this one is a fork; then nothing here can reach it."""
        _THREADS.add(self)

    @property
    def is_running(self) -> bool:
        """Whether the thread has been started."""
        return self._loop is not None

    def submit(self, work: Coroutine[Any, Any, T]) -> Work[T]:
        """Start ``work`` on the loop; cancelling the returned future cancels the work."""
        # The other thread has context variables of its own: without a copy, SESSION and CALLS would be lost.
        context = contextvars.copy_context()
        outcome: Work[T] = Work()
        with self._lock:  # two threads may make the first call at the same time, or another one may stop the loop
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_run, args=(loop, self._last), name="specreason-engines", daemon=True)
                thread.start()  # fails while the interpreter ends; then there is no loop to wait for
                self._loop, self._thread = loop, thread
            self._loop.call_soon_threadsafe(lambda: self._start(work, outcome, context))
        return outcome

    def _start(self, work: Coroutine[Any, Any, T], outcome: Work[T], context: contextvars.Context) -> None:
        if outcome.cancelled():  # a task would still do its first step
            work.close()
            outcome.ended.set()
            return
        loop = asyncio.get_running_loop()
        task = loop.create_task(work, context=context)
        task.add_done_callback(lambda done: _hand_over(done, outcome))
        task.add_done_callback(lambda _: outcome.ended.set())

        def pass_on(future: Future[T]) -> None:
            # Runs in the thread that cancels the future; a task may only be cancelled on its own loop.
            if future.cancelled() and not task.done():
                loop.call_soon_threadsafe(task.cancel)

        outcome.add_done_callback(pass_on)

    def stop(self) -> None:
        """End the thread; work that still runs is cancelled."""
        with self._lock:
            if self._loop and self._thread:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
            self._loop = self._thread = None

    def forked(self) -> None:
        """Take note, in a process that was just forked, that the thread stayed in the other one."""
        self._lock, self.closing = threading.Lock(), threading.Lock()  # threads that are not here may have held them
        self.was_left = self._loop is not None


_THREADS: WeakSet[LoopThread] = WeakSet()


def _forked() -> None:
    for thread in _THREADS:
        thread.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _run(loop: asyncio.AbstractEventLoop, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
    loop.run_forever()
    try:
        # Work that was submitted while the pair was closing: its callers would wait for ever, and it may have opened
        # the engines again.
        loop.run_until_complete(last())
    finally:
        loop.close()


async def _cancel_others() -> None:
    await _cancel([task for task in asyncio.all_tasks() if task is not asyncio.current_task()])


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _hand_over(task: asyncio.Task[T], outcome: Future[T]) -> None:
    if task.cancelled():
        outcome.cancel()
    # The caller may cancel at any moment: once a future is marked as running, cancel() fails and the result can be set.
    elif not outcome.cancelled() and outcome.set_running_or_notify_cancel():
        error = task.exception()
        outcome.set_exception(error) if error else outcome.set_result(task.result())


class EnginePair:
    """A draft and a base engine that are opened and closed together.

    Use it as a context manager, sync or async, or call `close`. The same engine may play both roles. A call to an
    engine that works on as many as it can waits for a slot, and the run with the least time left gets the next one.
    """

    def __init__(self, draft: Engine, base: Engine) -> None:
        for role, engine in (("draft", draft), ("base", base)):
            if not hasattr(engine, "next_token"):
                raise ConfigError(
                    f"the {role} engine is a {type(engine).__name__}",
                    hint="give an engine, or open_pair(base, draft) with the names of models",
                )
        self.draft, self.base = draft, base
        self._slots: WeakKeyDictionary[Engine, CallSlots] = WeakKeyDictionary()
        self._companions: dict[type[Any], Any] = {}
        self._thread = LoopThread(self._close)
        self._gate = asyncio.Lock()
        self._open = False
        self._ready: list[Engine] = []

    @cached_property
    def shares_vocabulary(self) -> bool:
        """Whether both engines have the same token ids, so that steps pass from one to the other unchanged."""
        return self.draft.vocabulary.fingerprint == self.base.vocabulary.fingerprint

    def engine(self, role: Role) -> Engine:
        """The engine that plays ``role``."""
        return self.base if role == "base" else self.draft

    def view(self, *, base: Role = "base", draft: Role = "draft") -> EnginePair:
        """The same open engines in the roles that are named, on the same loop, with companions of its own.

        It is open as long as this pair is, and needs no closing.
        """
        view = copy(self)
        view.base, view.draft = self.engine(base), self.engine(draft)
        view._slots, view._companions = WeakKeyDictionary(), {}  # noqa: SLF001 - of its own class
        view.__dict__.pop("shares_vocabulary", None)
        return view

    def slot(self, role: Role, priority: Priority) -> AbstractAsyncContextManager[None]:
        """Wait for a slot on the engine that plays ``role``; a context manager around one call."""
        return self._slots_of(role).slot(priority)

    def lent(self, role: Role, priority: Priority) -> AbstractAsyncContextManager[None]:
        """Give back a slot that is held while the context is open, to wait for another call; then wait for it again."""
        return self._slots_of(role).lent(priority)

    def _slots_of(self, role: Role) -> CallSlots:
        engine = self.engine(role)
        if engine not in self._slots:
            self._slots[engine] = CallSlots(engine.max_concurrency)
        return self._slots[engine]

    def companion(self, kind: type[T]) -> T:
        """Return the pair's one object of class ``kind``, which is made at the first call and shared by all runs.

        So the pair need not know the classes that use it, and their objects live as long as the pair.
        """
        found: T | None = self._companions.get(kind)
        return found or self._companions.setdefault(kind, kind())  # two threads may build graphs at once

    @property
    def is_open(self) -> bool:
        """Whether the engines are ready."""
        return self._open and not self._thread.was_left

    @property
    def loading(self) -> list[Role]:
        """The roles whose engines are not ready yet, base first; one engine in both roles counts as the base."""
        roles: dict[Engine, Role] = {self.draft: "draft", self.base: "base"}
        return [roles[engine] for engine in self._engines() if engine not in self._ready]

    def describe(self) -> dict[Role, EngineDescription]:
        """Describe both engines, which must be open."""
        return {"base": self.base.describe(), "draft": self.draft.describe()}

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run ``work`` on the engines' loop and wait for it, from sync code; Ctrl-C cancels the work."""
        self._check_process()
        outcome, calls = self._thread.submit(self._opened(work)), CALLS.get()
        if calls is not None:
            calls.add(outcome)
            outcome.add_done_callback(calls.discard)
        try:
            return outcome.result()
        except BaseException:
            # A cancelled future is done before its task has ended: wait, so that the engine is free when this raises.
            outcome.cancel()
            outcome.ended.wait(CANCELLING)
            raise

    async def arun(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run ``work`` on the engines' loop, from any other loop; cancelling the caller cancels the work."""
        self._check_process()
        return await asyncio.wrap_future(self._thread.submit(self._opened(work)))

    def close(self) -> None:
        """Cancel all work, close both engines and end their thread; the pair opens again at the next use.

        In a process that was forked while the pair was open there is nothing to close: the engines are the parent's.
        """
        if self._thread.was_left:
            return
        with self._thread.closing:  # of two that close at once, the second finds nothing to do
            try:
                if self._thread.is_running:
                    self._thread.submit(self._close()).result()
            finally:
                self._thread.stop()
                self._gate = asyncio.Lock()  # a lock belongs to one loop, and the next use starts another

    def __enter__(self) -> Self:
        self.run(_nothing)
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self.arun(_nothing)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self.close)

    def _check_process(self) -> None:
        if self._thread.was_left:
            raise UsageError(
                "the pair was opened before this process was forked, and its engines belong to the parent",
                hint='open a pair in each process, or start processes with multiprocessing.get_context("spawn")',
            )

    async def _opened(self, work: Callable[[], Awaitable[T]]) -> T:
        async with self._gate:
            if not self._open:
                await self._enter()
                self._open = True
        return await work()

    async def _enter(self) -> None:
        """Open both engines side by side; when one cannot be opened, the other is closed again."""
        self._ready.clear()
        async with AsyncExitStack() as opened:
            tasks = [asyncio.create_task(self._enter_one(opened, engine)) for engine in self._engines()]
            try:
                await asyncio.gather(*tasks)
            except BaseException:
                # An engine that is still opening must end first: the stack only closes engines that have opened.
                await _cancel(tasks)
                raise
            opened.pop_all()

    async def _enter_one(self, opened: AsyncExitStack, engine: Engine) -> None:
        await opened.enter_async_context(engine)
        self._ready.append(engine)

    async def _close(self) -> None:
        await _cancel_others()
        self._ready.clear()
        if self._open:
            self._open = False
            await asyncio.gather(*(engine.__aexit__(None, None, None) for engine in self._engines()))

    def _engines(self) -> list[Engine]:
        """Each engine once, base first."""
        return [self.base] if self.base is self.draft else [self.base, self.draft]


async def _nothing() -> None:
    return None
