"""What a request becomes: a run of the graph on a thread of its own, told as it goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast
from uuid import uuid4

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.types import StreamMode

from specreason_graph.config import SpecReasonConfig
from specreason_graph.errors import ContextLimitError, UsageError
from specreason_graph.graph import CompiledSpecReason
from specreason_graph.record.events import Accepted, AnswerToken, Regenerated, Started, read_event
from specreason_graph.record.summary import Summary
from specreason_graph.serving.admission import Admission
from specreason_graph.serving.api_errors import ApiError
from specreason_graph.serving.metrics import Metrics
from specreason_graph.serving.options import ServeOptions


@dataclass(frozen=True)
class Said:
    """A piece of a reply; an empty one says that the run has begun."""

    reasoning: str = ""
    """A step of the thinking."""
    text: str = ""
    """A piece of the answer."""


@dataclass(frozen=True)
class Reply:
    """A whole reply."""

    message: AIMessage
    """The reply as LangChain's message."""
    reasoning: str
    """The thinking."""
    text: str
    """The answer."""
    stop_reason: str
    """Why the thinking ended."""
    summary: Summary
    """What the run took."""


Parts = AsyncGenerator[Said | Reply]


class Run:
    """One run, worked on in a task of its own.

    A server cancels a request again and again until it has ended. The run is cancelled once, and can finish its record.
    """

    def __init__(self, thread: str, parts: Parts) -> None:
        self.thread = thread
        self._told: asyncio.Queue[Said | Reply | None] = asyncio.Queue()
        self._following: Said | Reply | None = None
        self.task = asyncio.create_task(self._work(parts))
        """The work."""
        self.task.add_done_callback(lambda _: self._told.put_nowait(None))

    async def next(self) -> Said | Reply:
        """What is told next, in the end the reply; raises what ended the run without one.

        What has been written of the answer is one piece.
        """
        part, self._following = self._following or await self._told.get(), None
        if isinstance(part, Said) and part.text:
            return self._joined(part.text)
        if part is not None:
            return part
        if self.task.cancelled():
            raise ApiError(503, "the server is shutting down")
        raise self.task.exception() or RuntimeError("the run ended without a reply")

    def _joined(self, text: str) -> Said:
        while not self._told.empty():
            following = self._told.get_nowait()
            if not isinstance(following, Said) or not following.text:
                if following is None:
                    self._told.put_nowait(None)  # the run has failed, which `next` finds behind this piece
                self._following = following
                break
            text += following.text
        return Said(text=text)

    async def reply(self) -> Reply:
        """Wait for the whole reply."""
        while not isinstance(part := await self.next(), Reply):
            pass
        return part

    def leave(self) -> None:
        """End the work, where nobody waits for it any more; nothing happens to a run that has ended."""
        self.task.cancel()

    async def _work(self, parts: Parts) -> None:
        async with aclosing(parts):
            async for part in parts:
                self._told.put_nowait(part)


class Runs:
    """All runs of a server."""

    def __init__(self, graph: CompiledSpecReason, options: ServeOptions, metrics: Metrics) -> None:
        self._graph, self._options, self._metrics = graph, options, metrics
        self._admission = Admission(options.concurrency, options.queue)
        self._tasks = set[asyncio.Task[None]]()
        metrics.watch(self._admission)

    def begin(self, messages: list[dict[str, Any]], config: SpecReasonConfig, *, streamed: bool) -> Run:
        """Begin a run, or let it wait for its turn; one that is not ``streamed`` tells nothing but its reply."""
        thread = uuid4().hex[:16]
        run = Run(thread, self._counted(self._parts(thread, messages, config, streamed=streamed)))
        self._tasks.add(run.task)
        run.task.add_done_callback(self._ended)
        return run

    async def end(self) -> None:
        """End all runs that are left, and wait for their records."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # else Python complains of an error that nobody saw, where the client has left

    async def _parts(
        self, thread: str, messages: list[dict[str, Any]], config: SpecReasonConfig, *, streamed: bool
    ) -> Parts:
        place: RunnableConfig = {"configurable": {"thread_id": thread}}
        modes: list[StreamMode] = ["custom", "updates"] if streamed else ["updates"]
        async with self._admission.slot():
            parts = self._graph.astream(
                {"messages": messages}, place, context=config, stream_mode=modes,
                durability=self._options.durability if self._graph.checkpointer else None,
            )  # fmt: skip
            async with aclosing(cast("AsyncGenerator[Any]", parts)) as parts:
                async for part in _told(parts):
                    yield part

    async def _counted(self, parts: Parts) -> Parts:
        begun, first = time.perf_counter(), True
        outcome = "left"
        try:
            async with aclosing(parts):
                async for part in parts:
                    if isinstance(part, Reply):
                        outcome = "answered"
                        self._metrics.answered(part.summary, time.perf_counter() - begun)
                    elif first and (part.text or part.reasoning):
                        first = False
                        self._metrics.first(time.perf_counter() - begun)
                    yield part
        except Exception as error:
            outcome = "refused" if isinstance(error, ApiError | UsageError | ContextLimitError) else "failed"
            raise
        finally:
            self._metrics.ended(outcome)


async def _told(parts: AsyncIterator[Any]) -> Parts:
    """The pieces of a reply, from what the graph streams: each step when it is committed, the answer as it is written.

    A call that cannot be read is a part of the text: clients would try to run it.
    """
    is_plain, text = False, ""
    reply: Reply | None = None
    async for mode, part in parts:
        event = read_event(part) if mode == "custom" else None
        if isinstance(event, Started):
            is_plain = event.is_plain
            yield Said()
        elif isinstance(event, Accepted | Regenerated) and event.step.text and not is_plain:
            yield Said(reasoning=event.step.text)
        elif isinstance(event, AnswerToken):
            text += event.text
            yield Said(text=event.text)
        elif mode == "updates" and (done := part.get("finalize")):
            message: AIMessage = done["messages"][-1]
            unread = [str(call["args"]) for call in message.invalid_tool_calls]
            whole = "\n".join(filter(None, [str(message.text), *unread]))
            if rest := whole[len(text) :]:
                yield Said(text=rest)
            reply = Reply(message, _thinking(message), whole, done["stop_reason"], Summary.load(done["trace_summary"]))
    if reply:  # behind the last write of the record: who has the reply can audit it
        yield reply


def _thinking(message: AIMessage) -> str:
    blocks: list[Any] = [block for block in message.content if isinstance(block, dict)]
    return "".join(block["reasoning"] for block in blocks if block["type"] == "reasoning")
