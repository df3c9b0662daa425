"""Replies as OpenAI's clients read them: one body, or the events of a stream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import time
from typing import Any

from specreason_graph.serving.runs import Reply, Said

DONE = "data: [DONE]\n\n"
"""The last event of a stream."""
PING = ": still thinking\n\n"
"""A comment, which keeps proxies from closing a stream in which nothing is said for long."""
THREAD = "x-specreason-thread"
"""Header with the thread id of the run."""


@dataclass(frozen=True)
class ReplyForm:
    """What all bodies and events of one reply have in common."""

    thread: str
    """Thread id of the run; the audit finds it by this."""
    model: str
    """Name of the pair."""
    created: int = field(default_factory=lambda: int(time()))
    """When the request came, in seconds since 1970."""

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response; the second is the name by which OpenAI's clients show an id."""
        return {THREAD: self.thread, "x-request-id": self.thread}

    def whole(self, reply: Reply) -> dict[str, Any]:
        """The body of a reply that is not streamed."""
        message = {"role": "assistant", "content": reply.text or None, "refusal": None, **_thought(reply.reasoning)}
        if calls := _calls(reply):
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(reply)}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage(reply), **_told(reply)}

    def opening(self) -> str:
        """The first event of a stream."""
        return self._event({"role": "assistant", "content": ""})

    def piece(self, said: Said) -> str:
        """The event of a piece; nothing for an empty one."""
        delta = {**({"content": said.text} if said.text else {}), **_thought(said.reasoning)}
        return self._event(delta) if delta else ""

    def closing(self, reply: Reply, *, with_usage: bool) -> str:
        """The events behind the last piece."""
        calls = [{"index": index, **call} for index, call in enumerate(_calls(reply))]
        called = self._event({"tool_calls": calls}) if calls else ""
        ended = self._event({}, finish=_finish(reply), **_told(reply))
        counted = event({**self._head("chat.completion.chunk"), "choices": [], "usage": usage(reply)})
        return called + ended + counted * with_usage + DONE

    def _event(self, delta: Mapping[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event({**self._head("chat.completion.chunk"), "choices": [choice], **more})

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.thread}", "object": kind, "created": self.created, "model": self.model,
            "thread_id": self.thread,
        }  # fmt: skip


def event(body: Mapping[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


def usage(reply: Reply) -> dict[str, Any]:
    """Tokens of the conversation and the reply, and under ``by_model`` the work of each model, rejected work included.

    Thinking counts as part of the reply.
    """
    counted: Any = reply.message.usage_metadata
    return {
        "prompt_tokens": counted["input_tokens"], "completion_tokens": counted["output_tokens"],
        "total_tokens": counted["total_tokens"],
        "completion_tokens_details": {"reasoning_tokens": counted["output_token_details"]["reasoning"]},
        "by_model": reply.message.response_metadata["usage_by_model"],
    }  # fmt: skip


def _told(reply: Reply) -> dict[str, Any]:
    """What OpenAI's form has no place for."""
    summary = reply.summary
    return {
        "specreason": {
            "stop_reason": reply.stop_reason, "steps": summary.steps, "acceptance": summary.acceptance,
        }
    }  # fmt: skip


def _thought(text: str) -> dict[str, Any]:
    """The thinking under both names in use: clients of DeepSeek and older vLLM read the one, newer ones the other."""
    return {"reasoning_content": text, "reasoning": text} if text else {}


def _calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "id": call["id"], "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["args"], ensure_ascii=False)},
        }
        for call in reply.message.tool_calls
    ]  # fmt: skip


def _finish(reply: Reply) -> str:
    return str(reply.message.response_metadata["finish_reason"])
