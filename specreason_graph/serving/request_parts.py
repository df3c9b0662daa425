"""The parts of a request, with the types that JSON gives them; fields that are not listed are passed over."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Given(BaseModel):
    """A part of a request: values have the types that JSON gives them."""

    model_config = ConfigDict(strict=True, extra="ignore", use_attribute_docstrings=True)


class Part(Given):
    """A part of a message's content."""

    model_config = ConfigDict(extra="allow")

    type: str
    """What it is; only text can be read."""
    text: str | None = None
    """The text, of a part that is one."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.type == "text" and self.text is None:
            raise ValueError("a text part has no text")
        return self


class CalledFunction(Given):
    """The function of a call."""

    name: str
    """Its name."""
    arguments: str
    """JSON text of its arguments."""


class Called(Given):
    """A call in an earlier message of the assistant."""

    id: str
    """By it the tool's message refers to the call."""
    type: Literal["function"] = "function"
    """What was called."""
    function: CalledFunction
    """Name and arguments."""


class GivenMessage(Given):
    """One message of a conversation; fields that are not listed are passed over."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    """Who speaks."""
    content: str | list[Part] | None = None
    """What is said."""
    name: str | None = None
    """Who of several users or tools."""
    tool_calls: list[Called] | None = None
    """Calls of the assistant."""
    tool_call_id: str | None = None
    """Which call a tool answers."""
    reasoning_content: str | None = None
    """What the assistant thought, in one of the two names in use."""
    reasoning: str | None = None
    """The same in the other."""

    @model_validator(mode="after")
    def _answers(self) -> Self:
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a tool's message needs tool_call_id")
        return self

    def plain(self) -> dict[str, Any]:
        """The message as LangChain reads it."""
        found = self.model_dump(exclude_none=True, exclude={"reasoning", "reasoning_content"})
        found["content"] = found.get("content", "")
        for call in found.get("tool_calls", ()):
            call["function"]["arguments"] = call["function"]["arguments"] or "{}"
        if thought := self.reasoning_content or self.reasoning:
            found["reasoning_content"] = thought
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


class Named(Given):
    """A function by its name."""

    name: str
    """The name."""


class ForcedTool(Given):
    """A tool that must be called."""

    type: Literal["function"]
    """Only functions can be called."""
    function: Named
    """Which."""


class JsonSchema(Given):
    """The form of a reply."""

    form: dict[str, Any] = Field(alias="schema")
    """The JSON schema."""


class ResponseFormat(Given):
    """What a reply must be."""

    type: Literal["text", "json_object", "json_schema"]
    """Text, any JSON object, or one that follows a schema."""
    json_schema: JsonSchema | None = None
    """The schema, where there is one."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("json_schema is missing")
        return self

    @property
    def form(self) -> dict[str, Any] | None:
        """The schema in force."""
        if self.type == "json_schema" and self.json_schema:
            return self.json_schema.form
        return {"type": "object"} if self.type == "json_object" else None


class StreamOptions(Given):
    """How a reply is streamed."""

    include_usage: bool | None = None
    """Whether a last event tells the usage."""
