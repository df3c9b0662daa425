"""The parts of a request, with the types that JSON gives them; fields that are not listed are passed over."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Given(BaseModel):
    """A part of a request: values have the types that JSON gives them."""

    model_config = ConfigDict(strict=True, extra="ignore", use_attribute_docstrings=True)


class GivenMessage(Given):
    """One message of a conversation, as far as its form is OpenAI's; the graph reads what it holds."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    """Who speaks."""
    content: str | list[dict[str, Any]] | None = None
    """What is said."""
    name: str | None = None
    """Who of several users or tools."""
    tool_calls: list[dict[str, Any]] | None = None
    """Calls of the assistant."""
    tool_call_id: str | None = None
    """Which call a tool answers."""
    reasoning_content: str | None = None
    """What the assistant thought, in one of the two names in use."""
    reasoning: str | None = None
    """The same in the other."""

    def plain(self) -> dict[str, Any]:
        """The message as LangChain reads it."""
        found = self.model_dump(exclude_none=True)
        found["content"] = found.get("content", "")
        for call in found.get("tool_calls", ()):
            function = call.get("function")
            if isinstance(function, dict) and function.get("arguments") == "":  # of a call without arguments
                function["arguments"] = "{}"
        return found


class Function(Given):
    """What a tool is called with."""

    name: str
    """Its name."""
    description: str | None = None
    """What it does."""
    parameters: dict[str, Any] | None = None
    """JSON schema of its arguments."""


class Tool(Given):
    """A tool that the reply may call."""

    type: Literal["function"]
    """Only functions can be called."""
    function: Function
    """The function; ``strict`` is passed over, as calls are not constrained."""

    def plain(self) -> dict[str, Any]:
        """The tool as the models' templates take it."""
        return self.model_dump(exclude_none=True)


class StreamOptions(Given):
    """How a reply is streamed."""

    include_usage: bool | None = None
    """Whether a last event tells the usage."""
