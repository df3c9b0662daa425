"""A request for a chat completion: what OpenAI's clients send, as a conversation and settings of the loop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from specreason_graph.config import SpecReasonConfig, overridden
from specreason_graph.errors import ConfigError
from specreason_graph.langchain.call_settings import as_settings
from specreason_graph.langchain.tools import choice_of
from specreason_graph.serving.api_errors import ApiError
from specreason_graph.serving.request_parts import Given, GivenMessage, StreamOptions, Tool

OWN = (
    "answer_by", "answer_tokens", "deadline_seconds", "first_steps_by_base", "lookahead", "max_step_tokens",
    "max_steps", "min_step_tokens", "proposals", "repetition_limit", "reproducible", "sampling", "speculation_control",
    "step_seconds", "template", "thinking", "thinking_tokens", "threshold", "threshold_floor",
)  # fmt: skip
"""Settings that a client may choose under ``specreason``: numbers and flags. A judge is the server's choice: it may be
an address, to which the conversation and a key would be sent."""
NEUTRAL: Mapping[str, Any] = {
    "n": 1, "logprobs": False, "top_logprobs": 0, "frequency_penalty": 0, "presence_penalty": 0, "logit_bias": {},
    "modalities": ["text"],
}  # fmt: skip
"""Parameters of OpenAI's that are taken with this value only."""
REFUSED: Mapping[str, str] = {
    "audio": "replies are text", "function_call": "write tool_choice", "functions": "write tools",
    "moderation": "leave it out", "prediction": "leave it out", "verbosity": "leave it out",
    "reasoning_effort": 'write {"specreason": {"thinking_tokens": NUMBER}}', "web_search_options": "leave it out",
}  # fmt: skip
"""Parameters of OpenAI's that cannot be honoured, and what to do instead."""
IGNORED = {
    "metadata", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier",
    "service_tier", "store", "user",
}  # fmt: skip
"""Parameters of OpenAI's that no reply depends on."""


Limit = Annotated[int | None, Field(ge=1)]


class ChatRequest(Given):
    """A request for a chat completion; `check` refuses what cannot be honoured, and unknown names."""

    model_config = ConfigDict(extra="allow")

    model: str
    """Name of the pair."""
    messages: Annotated[list[GivenMessage], Field(min_length=1)]
    """The conversation."""
    stream: bool | None = None
    """Whether the reply is sent as it is written."""
    stream_options: StreamOptions | None = None
    """How."""
    max_completion_tokens: Limit = None
    """Most tokens of thinking and answer together."""
    max_tokens: Limit = None
    """The same, under its older name."""
    temperature: float | None = None
    """Sampling temperature of both models."""
    top_p: float | None = None
    """Nucleus of the sampling."""
    seed: int | None = None
    """Seed of the run; the same request with the same seed gives the same reply."""
    stop: str | list[str] | None = None
    """Texts that end the answer."""
    tools: list[Tool] | None = None
    """Tools that the answer may call."""
    tool_choice: str | dict[str, Any] | None = None
    """Which of them."""
    parallel_tool_calls: bool | None = None
    """Whether the answer may hold several calls."""
    response_format: dict[str, Any] | None = None
    """What the answer must be."""
    specreason: dict[str, Any] | None = None
    """Settings of the loop for this request, of those in `OWN`."""

    def check(self) -> None:
        """Raise `ApiError` for what cannot be honoured."""
        for name, value in (self.model_extra or {}).items():
            if value is None or name in IGNORED or (name in NEUTRAL and value == NEUTRAL[name]):
                continue
            if name in NEUTRAL:
                raise _refused(name, f"it can only be {json.dumps(NEUTRAL[name])}")
            if name in REFUSED:
                raise _refused(name, REFUSED[name])
            raise ApiError(400, f"unknown parameter {name}", param=name, code="unknown_parameter")
        if not self.tools and self.tool_choice not in (None, "none", "auto"):
            raise _refused("tool_choice", "there are no tools")

    @property
    def most_tokens(self) -> int | None:
        """Most tokens of thinking and answer together."""
        return self.max_completion_tokens or self.max_tokens

    def conversation(self) -> list[dict[str, Any]]:
        """The messages as the graph takes them."""
        return [message.plain() for message in self.messages]

    def over(self, config: SpecReasonConfig) -> SpecReasonConfig:
        """The server's settings with those of this request over them; `ConfigError` for a bad one."""
        own = self.specreason or {}
        if unknown := sorted(own.keys() - set(OWN)):
            raise ConfigError(
                f"specreason.{unknown[0]} cannot be chosen by a client", hint=f"known settings: {', '.join(OWN)}"
            )
        names = ("temperature", "top_p", "seed", "parallel_tool_calls", "response_format")
        named = as_settings({name: getattr(self, name) for name in names})
        named |= {"stop": [self.stop] if isinstance(self.stop, str) else self.stop}
        if self.tools:
            named |= {"tools": [tool.plain() for tool in self.tools], "tool_choice": choice_of(self.tool_choice)}
        return overridden(config, own, {name: value for name, value in named.items() if value is not None})


def _refused(name: str, fix: str) -> ApiError:
    return ApiError(400, f"{name} cannot be honoured; {fix}", code="unsupported_parameter", param=name)
