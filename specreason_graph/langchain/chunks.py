"""Turns what the graph streams into the chunks of one message."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGenerationChunk

from specreason_graph.prompting.message_chunks import closing_chunks, step_chunk, text_chunk
from specreason_graph.record.events import AnswerToken, Started, read_event
from specreason_graph.record.records import Step


class Chunks:
    """Turns what the graph streams into chunks of one message; a step or a word once emitted is never taken back."""

    def __init__(self) -> None:
        self._steps, self._emitted, self._is_plain = 0, "", False

    def take(self, mode: str, part: Any) -> Iterator[ChatGenerationChunk]:
        """The chunks of a part: steps as they are committed, the answer as it is written, the rest at the end."""
        if mode == "custom":
            event = read_event(part)
            if isinstance(event, Started):
                self._is_plain = event.is_plain
            if isinstance(event, AnswerToken):
                yield self._text(event.text)
            return
        trace = () if self._is_plain else part.get("trace", ())  # a plain reply has no reasoning blocks
        for step in map(Step.load, trace[self._steps :]):
            if step.text:
                yield ChatGenerationChunk(message=step_chunk(step))
        self._steps = len(trace)
        if part.get("answer") is not None and part.get("messages") and part.get("stop_reason"):
            yield from self._close(part["messages"][-1])

    def _close(self, reply: AIMessage) -> Iterator[ChatGenerationChunk]:
        rest = reply.text[len(self._emitted) :]
        if rest:
            yield self._text(rest)
        for chunk in closing_chunks(reply, self._steps + 1):
            yield ChatGenerationChunk(message=chunk)

    def _text(self, text: str) -> ChatGenerationChunk:
        self._emitted += text
        return ChatGenerationChunk(message=text_chunk(text, self._steps))
