"""Sends the reply down LangGraph's streams of messages, piece by piece while it is written.

LangGraph streams what chat models write, of which it hears through callbacks, and messages that nodes return. Here
several nodes write one message between them. So each tells the handlers of the streams what it adds, as a chat model
would, under the id of the message that `Finalize` returns: that one is then known, and not streamed a second time.

A handler belongs to one stream. It gets the whole message, also when the stream begins in the middle of a run, and it
gets each piece once, also when a stage works on something again. Which graphs it shows is LangGraph's affair.

The handlers are LangGraph's own (1.2) and have private names: its version is bounded, and ``tests/test_chat_graph.py``
fails where they move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import NAMESPACE_OID, uuid5
from weakref import WeakKeyDictionary

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langgraph.config import get_config
from langgraph.pregel._messages import StreamMessagesHandler, StreamMessagesHandlerV2

from specreason_graph.prompting.message_chunks import closing_chunks, step_chunk, text_chunk, tool_calls
from specreason_graph.prompting.messages import reasoning_block
from specreason_graph.record.manifest import is_plain
from specreason_graph.record.records import Step
from specreason_graph.record.state import State

Trace = Sequence[Mapping[str, Any]]


class MessageStream:
    """The reply of a run as the message streams get it; made in a stage, and used there."""

    def __init__(self, state: State) -> None:
        manifest, config = state["manifest"], get_config()
        self._is_plain, run = is_plain(manifest), manifest.get("run")
        handlers = getattr(config.get("callbacks"), "handlers", None) or []
        heard = [each for each in handlers if isinstance(each, StreamMessagesHandler)] if run else []
        self._listeners = [_listener(each, manifest) for each in heard]
        for each in self._listeners:
            each.begin(config)

    def steps(self, trace: Trace) -> None:
        """Send the steps that are new, as reasoning; where the reply itself is the trace, they are its text."""
        for each in self._listeners if not self._is_plain else ():
            each.steps(trace)

    def text(self, whole: str, trace: Trace) -> None:
        """Send what is new of the answer so far, behind the steps."""
        self.steps(trace)
        for each in self._listeners:
            each.text(whole, self._place(trace))

    def finish(self, reply: AIMessage, trace: Trace) -> None:
        """Send the rest, and note the message as sent."""
        self.text(reply.text, trace)
        for each in self._listeners:
            each.finish(reply, self._place(trace))

    def _place(self, trace: Trace) -> int:
        """The place of the answer's block."""
        return 0 if self._is_plain else len(trace)


@dataclass
class Told:
    """What one stream has got of one reply."""

    steps: int = 0
    """Steps of the trace, those without a text included."""
    text: str = ""
    """The answer so far."""
    blocks: int = 0
    """Blocks that are whole."""
    has_begun: bool = False
    """Whether the start of the message was sent, in streams where it has one."""


class Listener:
    """One stream of messages, to which one reply is told."""

    def __init__(self, handler: StreamMessagesHandler, manifest: Mapping[str, Any], told: Told) -> None:
        self.handler, self.told, self._manifest = handler, told, manifest
        self.name = str(manifest["run"])
        self.run_id = uuid5(NAMESPACE_OID, self.name)

    def begin(self, config: Mapping[str, Any]) -> None:
        """Tell the handler which node is writing now."""
        manager = config["callbacks"]
        metadata = {**manager.metadata, **(config.get("metadata") or {})}
        self.handler.on_chat_model_start(
            {}, [[]], run_id=self.run_id, parent_run_id=manager.parent_run_id, tags=list(manager.tags),
            metadata=metadata,
        )  # fmt: skip

    def steps(self, trace: Trace) -> None:
        """Send the steps that the stream has not got."""
        for step in map(Step.load, trace[self.told.steps :]):
            if step.text:
                self.send_step(step)
        self.told.steps = max(self.told.steps, len(trace))

    def text(self, whole: str, place: int) -> None:
        """Send what the stream has not got of the answer so far."""
        if piece := whole[len(self.told.text) :]:
            self.send_text(piece, place)
            self.told.text += piece

    def finish(self, reply: AIMessage, place: int) -> None:
        """End the message."""
        self.send_end(reply, place + 1)
        # LangGraph takes the message for sent, and does not stream it again where nodes and graphs return it
        self.handler.on_llm_end(LLMResult(generations=[[ChatGeneration(message=reply)]]), run_id=self.run_id)

    def send_step(self, step: Step) -> None:
        """Send a step as a block of reasoning."""
        self._send(step_chunk(step, self.name))

    def send_text(self, piece: str, place: int) -> None:
        """Send a piece of the answer, whose block is the one at ``place``."""
        self._send(text_chunk(piece, place, self.name))

    def send_end(self, reply: AIMessage, place: int) -> None:
        """Send calls of tools, whose blocks begin at ``place``, and what the reply took."""
        for chunk in closing_chunks(reply, place, self.name):
            self._send(chunk)

    def _send(self, chunk: AIMessageChunk) -> None:
        self.handler.on_llm_new_token(chunk.text, chunk=ChatGenerationChunk(message=chunk), run_id=self.run_id)


class EventListener(Listener):
    """The same for an event stream (version 3), in which a message has a start, blocks of content, and an end."""

    handler: StreamMessagesHandlerV2

    def send_step(self, step: Step) -> None:
        """Send a step as a block of reasoning."""
        block = {name: value for name, value in reasoning_block(step).items() if name != "index"}
        delta = {"type": "reasoning-delta", "reasoning": block["reasoning"]}
        self._block({**block, "reasoning": ""}, delta, block)

    def send_text(self, piece: str, place: int) -> None:  # noqa: ARG002 - blocks are counted by the stream
        """Send a piece of the answer, whose block stays open."""
        if not self.told.text:
            self._event("content-block-start", index=self.told.blocks, content={"type": "text", "text": ""})
        self._event("content-block-delta", index=self.told.blocks, delta={"type": "text-delta", "text": piece})

    def send_end(self, reply: AIMessage, place: int) -> None:  # noqa: ARG002
        """Close the answer's block, and send calls of tools and what the reply took."""
        if self.told.text:
            whole = {"type": "text", "text": self.told.text}
            self._event("content-block-finish", index=self.told.blocks, content=whole)
            self.told.blocks += 1
        for call, whole in zip(tool_calls(reply), _whole_calls(reply), strict=True):
            delta = {"type": "tool-call-delta", "args": call["args"]}
            self._block({**call, "type": "tool_call_chunk", "args": ""}, delta, whole)
        self._event("message-finish", usage=reply.usage_metadata, metadata=reply.response_metadata)

    def _block(self, start: dict[str, Any], delta: dict[str, Any], whole: dict[str, Any]) -> None:
        self._event("content-block-start", index=self.told.blocks, content=start)
        self._event("content-block-delta", index=self.told.blocks, delta=delta)
        self._event("content-block-finish", index=self.told.blocks, content=whole)
        self.told.blocks += 1

    def _event(self, event: str, **fields: Any) -> None:
        if not self.told.has_begun:
            self.told.has_begun = True
            model = {"provider": "specreason", "model": self._manifest["engines"]["base"]["model"]}
            self._event("message-start", role="ai", id=self.name, metadata=model)
        self.handler.on_stream_event({"event": event, **fields}, run_id=self.run_id)


def without_listeners(callbacks: Any) -> Any:
    """Callbacks without the handlers of message streams: for a run whose reply is told by somebody else."""
    if not isinstance(callbacks, BaseCallbackManager):
        return callbacks
    quiet = callbacks.copy()
    for handler in (each for each in callbacks.handlers if isinstance(each, StreamMessagesHandler)):
        quiet.remove_handler(handler)
    return quiet


_TOLD: WeakKeyDictionary[StreamMessagesHandler, dict[str, Told]] = WeakKeyDictionary()
"""What open streams have got of which runs, by their handlers: those end with the streams."""


def _listener(handler: StreamMessagesHandler, manifest: Mapping[str, Any]) -> Listener:
    kind = EventListener if isinstance(handler, StreamMessagesHandlerV2) else Listener
    return kind(handler, manifest, _TOLD.setdefault(handler, {}).setdefault(manifest["run"], Told()))


def _whole_calls(reply: AIMessage) -> list[dict[str, Any]]:
    """The calls of a reply as blocks of content."""
    calls: list[Any] = [{**call, "type": "tool_call"} for call in reply.tool_calls]
    return [*calls, *({**call, "type": "invalid_tool_call"} for call in reply.invalid_tool_calls)]
