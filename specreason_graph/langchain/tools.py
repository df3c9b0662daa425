"""Tools and the choice of one, in all the forms in which LangChain takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from specreason_graph.engines.redaction import shown
from specreason_graph.errors import ConfigError

Tool = dict[str, Any] | type | Callable[..., Any] | BaseTool


def describe(tool: Tool) -> dict[str, Any]:
    """A tool as OpenAI describes it."""
    try:
        return convert_to_openai_tool(tool)
    except (ValueError, TypeError, AttributeError) as error:
        cause = shown(" ".join(str(error).split()))
        raise ConfigError(f"{shown(tool)} is no tool: {cause}", hint="give a function, class or definition") from None


def choice_of(choice: str | bool | dict[str, Any] | None) -> str | None:  # noqa: FBT001
    """The setting ``tool_choice`` for what OpenAI and LangChain call so."""
    if isinstance(choice, dict):
        return str(choice.get("function", choice).get("name") or choice.get("type"))
    if isinstance(choice, bool):
        return "any" if choice else None
    return {"required": "any"}.get(choice, choice) if choice else None
