"""LangChain's names for what a call may be told, as settings of the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from langchain_core.caches import BaseCache
from langchain_core.callbacks import Callbacks
from langchain_core.language_models import ModelProfile
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.utils.function_calling import convert_to_json_schema

from specreason_graph.config import SpecReasonConfig
from specreason_graph.errors import ConfigError
from specreason_graph.settings import RunSettings

ALIASES = {"max_tokens": "answer_tokens", "timeout": "deadline_seconds", "stop_sequences": "stop"}
"""LangChain's standard names for settings that are called otherwise here."""
NOTES = {"strict", "ls_structured_output_format", "model", "stream", "stream_usage"}
"""Keyword arguments that LangChain and its users pass to every model and that change nothing here."""


class ChatSettings(RunSettings, total=False):
    """Keyword arguments of a chat model: settings of a run, LangChain's names for some, and those of every model."""

    max_tokens: int | None
    """Most tokens of the answer."""
    timeout: float | None
    """Seconds in which there is to be an answer."""
    stop_sequences: list[str]
    """Strings that end the answer."""
    response_format: Mapping[str, Any] | type
    """Form of the answer, as OpenAI's clients write it, or a class."""
    model: str
    """Name of the base, for who insists: a pair has no other."""
    settings: SpecReasonConfig | Mapping[str, Any]
    """Settings of every call, which the others go over."""
    config_file: Path | None
    """File of settings that those given go over; None for none."""
    streaming: bool
    """Accepted as in LangChain's other models; callbacks get the tokens in any case."""
    name: str | None
    """Name of its runs."""
    profile: ModelProfile | None
    """What to tell of the pair in place of what is found."""
    cache: BaseCache | bool | None
    """Where answers are kept."""
    callbacks: Callbacks
    """Called in every run."""
    tags: list[str] | None
    """Of every run."""
    metadata: dict[str, Any] | None
    """Of every run."""
    verbose: bool
    """Whether runs are printed."""
    custom_get_token_ids: Callable[[str], list[int]] | None
    """Counts tokens in place of the base's vocabulary."""
    rate_limiter: BaseRateLimiter | None
    """Holds calls back."""
    disable_streaming: bool | Literal["tool_calling"]
    """Whether streams come in one piece."""
    output_version: str | None
    """Form of the content, ``v0`` or ``v1``."""


def as_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments as settings of the loop; None stands for what was not said."""
    said = {ALIASES.get(name, name): value for name, value in given.items() if name not in NOTES and value is not None}
    if "response_format" in said:
        said["answer_schema"] = _answer_schema(said.pop("response_format"))
    return said


def check_model(named: object, base: str) -> None:
    """`ConfigError` for a model that is named beside a pair and is not its base."""
    if named not in (None, base):
        raise ConfigError(
            f"model {named!r} cannot be chosen: the base of the pair is {base!r}", hint="open another pair"
        )


def _answer_schema(wanted: object) -> dict[str, Any] | None:
    """The JSON schema that a ``response_format`` stands for; None where any text will do."""
    if isinstance(wanted, type):
        return dict(convert_to_json_schema(wanted))
    match wanted:
        case {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {"type": "object"}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema
    raise ConfigError(
        f"response_format = {wanted!r} is not understood",
        hint='write {"type": "json_schema", "json_schema": {"name": ..., "schema": {...}}}, {"type": "json_object"}, '
        '{"type": "text"} or a class',
    )
