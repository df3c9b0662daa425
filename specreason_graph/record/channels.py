"""Channels for what users and models say: the conversation of a thread, and texts, which must not lie bare.

``PostgresSaver`` puts bare strings into the row of the checkpoint, past the serializer and so past any encryption.
Stored inside a list, a text goes the way of all other values; readers of the state still see a string.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self
from uuid import NAMESPACE_OID, uuid5

from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages
from langgraph.channels import DeltaChannel, EphemeralValue, LastValue
from langgraph.graph.message import add_messages


class Conversation(DeltaChannel[list[BaseMessage]]):
    """The messages of a thread, each stored once; a message that comes again under its id takes the old one's place."""

    def from_checkpoint(self, checkpoint: Any) -> Self:
        """The channel as it was stored.

        Releases before kept no conversation: the input was there for one superstep, and the reply behind the end.
        """
        new = super().from_checkpoint(checkpoint)
        if checkpoint is None:  # nothing is stored; LangGraph before 1.2.24 would take it for the value
            new.value = []
        if isinstance(checkpoint, list | str | BaseMessage):
            asked = converse([], [checkpoint])
            new.value = [] if len(asked) == 1 and isinstance(asked[0], AIMessage) else asked
        return new


def converse(messages: Sequence[BaseMessage], writes: Sequence[Any]) -> list[BaseMessage]:
    """Add what was written, as ``add_messages`` does; pure, and the same however the writes are batched."""
    found = list(messages)
    for write in writes:
        new = convert_to_messages(write if isinstance(write, list) else [write])
        found = add_messages(found, [_named(each, len(found) + index) for index, each in enumerate(new)])  # type: ignore[assignment, arg-type]
    return found


def _named(message: BaseMessage, place: int) -> BaseMessage:
    """The message with an id, which is made of what it says: LangGraph would make another one at every reading."""
    if message.id:
        return message
    return message.model_copy(update={"id": str(uuid5(NAMESPACE_OID, f"{place} {message.type} {message.content}"))})


class LastText(LastValue[str]):
    """The last text written."""

    def checkpoint(self) -> Any:
        """The text as it is stored."""
        return [self.value] if self.is_available() else super().checkpoint()

    def from_checkpoint(self, checkpoint: Any) -> Self:
        """The channel as it was stored, by this package or by one that stored bare strings."""
        return super().from_checkpoint(bare(checkpoint))


class EphemeralText(EphemeralValue[str]):
    """A text that is there for one superstep."""

    def checkpoint(self) -> Any:
        """The text as it is stored."""
        return [self.value] if self.is_available() else super().checkpoint()

    def from_checkpoint(self, checkpoint: Any) -> Self:
        """The channel as it was stored."""
        return super().from_checkpoint(bare(checkpoint))


def bare(stored: Any) -> Any:
    """The text without the list it is stored in."""
    return stored[0] if isinstance(stored, list) and len(stored) == 1 else stored
