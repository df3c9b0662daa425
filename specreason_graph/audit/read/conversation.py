"""The conversation that a thread keeps, read from stored values; the next run of the thread reads the same one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    ChatMessageChunk,
    FunctionMessage,
    FunctionMessageChunk,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    SystemMessageChunk,
    ToolMessage,
    ToolMessageChunk,
)
from langgraph.checkpoint.serde.jsonplus import EXT_PYDANTIC_V2
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.types import Overwrite

from specreason_graph.audit.read.serializer import Damaged, Extension, unpack
from specreason_graph.record.channels import Conversation, converse
from specreason_graph.record.seal import canonical, plain_json

CLASSES: dict[str, type[BaseMessage]] = {
    each.__name__: each
    for each in (
        AIMessage, AIMessageChunk, ChatMessage, ChatMessageChunk, FunctionMessage, FunctionMessageChunk, HumanMessage,
        HumanMessageChunk, RemoveMessage, SystemMessage, SystemMessageChunk, ToolMessage, ToolMessageChunk,
    )
}  # fmt: skip
"""LangChain's messages, which are plain data. No other class is looked up by a name that a database holds."""


@dataclass(frozen=True)
class Said:
    """A conversation as it is stored: a snapshot, and what was written since."""

    snapshot: Any = None
    """The stored value of the channel; None where none was stored."""
    writes: tuple[Any, ...] = ()
    """Writes to the channel."""

    def messages(self) -> list[BaseMessage]:
        """Return the messages; raise whatever is wrong with what is stored."""
        channel = Conversation(converse, list[BaseMessage]).from_checkpoint(_value(self.snapshot))
        channel.replay_writes([("", "", _value(each)) for each in self.writes])
        return list(channel.get())

    def and_then(self, write: Any) -> Said:
        """Return the conversation with another write."""
        return Said(self.snapshot, (*self.writes, write))


def _value(stored: Any) -> Any:
    """A stored value with its messages as such, as LangGraph gives it to the channel."""
    match stored:
        case Damaged():
            raise ValueError(stored.problem)
        case Extension() if stored.is_snapshot:
            return _DeltaSnapshot(_value(stored.value))
        case Extension() if stored.is_overwrite:
            return Overwrite(_value(stored.value))
        case Extension(code=code, data=data) if code == EXT_PYDANTIC_V2:
            return _message(*unpack(data))
        case list():
            return [_value(each) for each in stored]
    return stored


def _message(module: str, name: str, fields: dict[str, Any], method: str) -> BaseMessage:
    kind = CLASSES.get(name)
    if kind is None or (module, method) != (kind.__module__, "model_validate_json"):
        raise ValueError(f"a message is stored as a {module}.{name}")  # the graph keeps LangChain's own classes only
    known = plain_json(fields)
    message = kind(**known)
    read = plain_json(message.model_dump())
    if any(canonical({"": read.get(name)}) != canonical({"": value}) for name, value in known.items()):
        raise ValueError("a message has a field of another type")
    return message
