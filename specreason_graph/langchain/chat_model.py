"""The loop as a LangChain chat model: messages in; reasoning blocks, an answer and tool calls out."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    BaseCallbackManager,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel, ConfigDict, Field, model_validator

from specreason_graph.config import (
    ENGINE_TABLES,
    MODELS,
    WORKING_FILE,
    SpecReasonConfig,
    make_config,
    overridden,
    read_config_file,
)
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import ConfigError
from specreason_graph.graph import CompiledSpecReason, create_specreason
from specreason_graph.langchain.callbacks import abegun, begun, callbacks_below, streamed
from specreason_graph.langchain.chunks import Chunks

log = logging.getLogger(__name__)
ALIASES = {"max_tokens": "answer_tokens", "timeout": "deadline_seconds", "stop_sequences": "stop"}
"""LangChain's standard names for settings that are called otherwise here."""
NOTES = {"parallel_tool_calls", "strict", "ls_structured_output_format", "model", "stream", "stream_usage"}
"""Keyword arguments that LangChain and its users pass to every model and that have no effect here."""
Schema = dict[str, Any] | type
Method = Literal["json_schema", "json_mode", "function_calling"]


class ChatSpecReason(BaseChatModel):
    """Speculative reasoning behind LangChain's chat model interface.

    ``pair`` holds the engines; the caller closes it. All fields of `SpecReasonConfig` are keyword arguments here and of
    every call, and so are LangChain's ``max_tokens`` (of the answer), ``timeout`` (seconds of thinking) and ``stop``.
    Bad ones raise `ConfigError`, and so does ``review``: a human is asked by a graph, see `create_specreason`.

    A file ``specreason.toml`` in the working folder, as ``specreason tune`` writes it, is picked up where it names the
    models of ``pair``, and a log message of level INFO says so. Keyword arguments go over it; ``config_file=None``
    reads no file.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", use_attribute_docstrings=True)

    pair: EnginePair = Field(exclude=True)
    """The engines."""
    settings: SpecReasonConfig = Field(default_factory=SpecReasonConfig)
    """Settings of every call."""
    config_file: Path | None = WORKING_FILE
    """File of settings that those given go over, where it is there and is for the models of the pair; None for none."""
    streaming: bool = False
    """Accepted as in LangChain's other models; callbacks get the tokens in any case."""

    def __init__(self, pair: EnginePair, **settings: Any) -> None:
        super().__init__(pair=pair, **settings)

    @model_validator(mode="before")
    @classmethod
    def _sort(cls, given: Any) -> Any:
        """Move keyword arguments that are settings of the loop into ``settings``."""
        own = {name: value for name, value in given.items() if name in cls.model_fields or _is_alias(cls, name)}
        named = _settings({name: value for name, value in given.items() if name not in own})
        if own.get("settings"):
            base = SpecReasonConfig.model_validate(own["settings"])
        else:
            base = make_config(**_read_for(own.get("pair"), own.get("config_file", WORKING_FILE)))
        return {**own, "settings": _unreviewed(overridden(base, named))}

    @property
    def _llm_type(self) -> str:
        return "specreason"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        """All that an answer depends on, for LangChain's cache: settings, and what the engines are."""
        # a pair that is not open yet does not know its weights: a random text keeps the cache from a false hit
        engines = (
            {role: found.dump() for role, found in self.pair.describe().items()} if self.pair.is_open else uuid4().hex
        )
        return {"model": self.pair.base.name, **self.settings.model_dump(mode="json"), "engines": engines}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        named = {name: value for name, value in kwargs.items() if name != "model"}
        config = overridden(self.settings, _settings(named))
        return LangSmithParams(
            ls_provider="specreason", ls_model_name=kwargs.get("model") or self.pair.base.name, ls_model_type="chat",
            ls_temperature=config.temperature, ls_max_tokens=config.answer_tokens, ls_stop=stop or config.stop,
        )  # fmt: skip

    @cached_property
    def graph(self) -> CompiledSpecReason:
        """The loop behind it; a call begins anew when the graph around it is resumed, as with any chat model."""
        return create_specreason(self.pair, config=self.settings).compile()

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """As in LangChain; the graph's run is below this one in the tree of callbacks."""
        config, below = streamed(config, CallbackManager)
        yield from begun(super().stream(input, config, stop=stop, **kwargs), below)

    async def astream(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """As in LangChain; the graph's run is below this one in the tree of callbacks."""
        config, below = streamed(config, AsyncCallbackManager)
        async with aclosing(abegun(super().astream(input, config, stop=stop, **kwargs), below)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        below, context = callbacks_below(run_manager, CallbackManager), self._context(stop, kwargs)
        parts = self.graph.stream(
            {"messages": messages}, _own_thread(below), context=context, stream_mode=["custom", "values"]
        )
        chunks = Chunks()
        for mode, part in begun(parts, below):
            for chunk in chunks.take(mode, part):
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        below, context = callbacks_below(run_manager, AsyncCallbackManager), self._context(stop, kwargs)
        parts = self.graph.astream(
            {"messages": messages}, _own_thread(below), context=context, stream_mode=["custom", "values"]
        )
        chunks = Chunks()
        async for mode, part in abegun(parts, below):
            for chunk in chunks.take(mode, part):
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await agenerate_from_stream(self._astream(messages, stop, run_manager, **kwargs))

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let the answers call tools; ``tool_choice``: auto, none, any (or True), or a tool's name."""
        described = [convert_to_openai_tool(tool) for tool in tools]
        return self.bind(tools=described, tool_choice=_choice(tool_choice), **kwargs)

    def with_structured_output(
        self, schema: Schema, *, include_raw: bool = False, method: Method | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Make the answer an object of ``schema``.

        ``json_schema`` constrains the answer and needs an engine that can (vLLM, in process or served), where it is the
        default; ``json_mode`` makes it any JSON object there, and elsewhere only reads it: the prompt must say what to
        write. ``function_calling`` makes the model call a tool of that form, and is the default elsewhere.
        """
        supports_json_schema = self.pair.engine(self.settings.answer_by).supports_json_schema
        chosen = method or ("json_schema" if supports_json_schema else "function_calling")
        if chosen == "function_calling":
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)
        if chosen not in ("json_schema", "json_mode"):
            raise ConfigError(f"method {chosen!r} is unknown", hint="write json_schema, json_mode or function_calling")
        form = (
            convert_to_json_schema(schema)
            if chosen == "json_schema"
            else {"type": "object"}
            if supports_json_schema
            else None
        )
        note = {"kwargs": {"method": chosen}, "schema": schema}
        model = self.bind(answer_schema=form, ls_structured_output_format=note)
        is_model = isinstance(schema, type) and issubclass(schema, BaseModel)
        parser: Any = PydanticOutputParser(pydantic_object=schema) if is_model else JsonOutputParser()
        return _with_raw(model, parser) if include_raw else model | parser

    def _context(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> SpecReasonConfig:
        """The settings of one call; those not named are the model's own."""
        if kwargs.get("model") not in (None, self.pair.base.name):
            raise ConfigError(
                f"model {kwargs['model']!r} cannot be chosen in a call: the base is {self.pair.base.name!r}",
                hint="open another pair",
            )
        return _unreviewed(overridden(self.settings, _settings({**kwargs, **({"stop": stop} if stop else {})})))


def _read_for(pair: Any, file: Path | None) -> dict[str, Any]:
    """Settings of a config file that is there and is for the models of a pair."""
    if file is None or not file.is_file() or not isinstance(pair, EnginePair):
        return {}
    found = read_config_file(file)
    for role, name in (("base", pair.base.name), ("draft", pair.draft.name)):
        if role in found and not _is_same(str(found[role]), name):
            log.info("%s is not picked up: its %s is %s, and here it is %s", file, role, found[role], name)
            return {}
    settings = {name: value for name, value in found.items() if name not in {*MODELS, *ENGINE_TABLES.values()}}
    log.info("picked up %s: %s", file, ", ".join(settings) or "it has no settings")
    return settings


def _is_same(one: str, other: str) -> bool:
    """Whether two names are of one model: folders have many."""
    return one == other or Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments as settings of the loop; None stands for what was not said."""
    named = {ALIASES.get(name, name): value for name, value in given.items() if name not in NOTES}
    return {name: value for name, value in named.items() if value is not None}


def _unreviewed(config: SpecReasonConfig) -> SpecReasonConfig:
    if config.review:
        raise ConfigError("a chat model cannot ask a human", hint="use create_specreason(pair, review=...) in a graph")
    return config


def _is_alias(kind: type[BaseModel], name: str) -> bool:
    return any(field.alias == name for field in kind.model_fields.values())


def _choice(choice: str | bool | dict[str, Any] | None) -> str | None:  # noqa: FBT001
    if isinstance(choice, dict):
        return str(choice.get("function", choice).get("name") or choice.get("type"))
    if isinstance(choice, bool):
        return "any" if choice else None
    return {"required": "any"}.get(choice, choice) if choice else None


def _own_thread(below: BaseCallbackManager | None) -> RunnableConfig:
    """The config of the graph's run, on a thread of its own: else LangGraph would take it for the caller's subgraph."""
    config: RunnableConfig = {"configurable": {"thread_id": uuid4().hex}}
    return {**config, "callbacks": below} if below else config


def _with_raw(model: Runnable[Any, Any], parser: Runnable[Any, Any]) -> Runnable[Any, Any]:
    """The message, what was read from it, and what went wrong with that."""
    read = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=model) | read.with_fallbacks([failed], exception_key="parsing_error")
