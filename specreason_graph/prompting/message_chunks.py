"""A reply as LangChain streams it: pieces of one message, which added up are the message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk

from specreason_graph.prompting.messages import reasoning_block
from specreason_graph.record.records import Step


def step_chunk(step: Step, name: str | None = None) -> AIMessageChunk:
    """The chunk of a step; ``name`` is the id of the message, for all chunks of it."""
    return _chunk([reasoning_block(step)], name)


def text_chunk(text: str, index: int, name: str | None = None) -> AIMessageChunk:
    """The chunk of a piece of the answer, whose block is the one at ``index``."""
    return _chunk([{"type": "text", "text": text, "index": index}], name)


def closing_chunks(reply: AIMessage, index: int, name: str | None = None) -> Iterator[AIMessageChunk]:
    """What is known when the reply is whole: calls of tools, whose blocks begin at ``index``, and what it took."""
    if calls := tool_calls(reply):
        pieces = [
            tool_call_chunk(name=call["name"], args=call["args"], id=call["id"], index=index + place)
            for place, call in enumerate(calls)
        ]
        yield AIMessageChunk(content=[], tool_call_chunks=pieces, id=name)
    yield AIMessageChunk(
        content=[], usage_metadata=reply.usage_metadata, response_metadata=reply.response_metadata,
        chunk_position="last", id=name,
    )  # fmt: skip


def tool_calls(reply: AIMessage) -> list[dict[str, Any]]:
    """All calls of a reply, with their arguments as JSON.

    Those of an invalid call are a text, and as a JSON text they cannot be taken for arguments.
    """
    calls: list[Any] = [*reply.tool_calls, *reply.invalid_tool_calls]
    return [
        {"name": call["name"], "args": json.dumps(call["args"], ensure_ascii=False), "id": call["id"]}
        for call in calls
    ]  # fmt: skip


def _chunk(blocks: list[dict[str, Any]], name: str | None) -> AIMessageChunk:
    return AIMessageChunk(content=blocks, id=name)
