"""The loop as a LangChain chat model: messages in; reasoning blocks, an answer and tool calls out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    BaseCallbackManager,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput, ModelProfile
from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, MessageLikeRepresentation
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSerializable
from langchain_core.runnables.utils import AnyConfigurableField
from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Unpack

from specreason_graph.config import WORKING_FILE, SpecReasonConfig, make_config, overridden, unknown_setting
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import ConfigError
from specreason_graph.graph import CompiledSpecReason, create_specreason
from specreason_graph.langchain.call_settings import ChatSettings, as_settings, check_model
from specreason_graph.langchain.callbacks import abegun, begun, callbacks_below, streamed
from specreason_graph.langchain.chunks import Chunks
from specreason_graph.langchain.configurable import ConfigurableChat, field_of
from specreason_graph.langchain.profile import profile_of
from specreason_graph.langchain.structured_output import Method, Schema, read_objects, schema_arguments
from specreason_graph.langchain.token_counter import TokenCounter
from specreason_graph.langchain.tools import Tool, choice_of, describe
from specreason_graph.langchain.working_file import settings_for
from specreason_graph.prompting.conversation import as_messages
from specreason_graph.prompting.engine_prompts import EnginePrompts
from specreason_graph.prompting.tool_calls import check_choice


class ChatSpecReason(BaseChatModel):
    """Speculative reasoning behind LangChain's chat model interface.

    ``pair`` holds the engines; the caller closes it. All fields of `SpecReasonConfig` are keyword arguments here and of
    every call, and so are LangChain's ``max_tokens`` (of the answer), ``timeout`` (seconds of thinking) and ``stop``.
    ``response_format`` is taken as OpenAI's clients write it. Bad settings raise `ConfigError`, and so does ``review``:
    a human is asked by a graph, see `create_specreason`.

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

    def __init__(self, pair: EnginePair, **settings: Unpack[ChatSettings]) -> None:
        given: dict[str, Any] = {"pair": pair, **settings}
        super().__init__(**given)

    @model_validator(mode="before")
    @classmethod
    def _sort(cls, given: Any) -> Any:
        """Move keyword arguments that are settings of the loop into ``settings``."""
        own = {name: value for name, value in given.items() if name in cls.model_fields or _is_alias(cls, name)}
        if not isinstance(own.get("pair"), EnginePair):
            raise ConfigError(
                f"pair = {own.get('pair')!r} is not a pair of engines", hint="give open_pair(base, draft)"
            )
        more = {name: value for name, value in given.items() if name not in own}
        check_model(more.get("model"), own["pair"].base.name)
        named = as_settings(more)
        if own.get("settings"):
            base = SpecReasonConfig.model_validate(own["settings"])
        else:
            base = make_config(**settings_for(own["pair"], own.get("config_file", WORKING_FILE)))
        return {**own, "settings": _unreviewed(overridden(base, named))}

    @model_validator(mode="after")
    def _no_profile_yet(self) -> Self:
        """Find the profile when it is asked for: it takes the tokenizers, which load while the models do."""
        if self.profile is None:
            del self.__dict__["profile"]
        return self

    if not TYPE_CHECKING:  # else any misspelt attribute would be one

        def __getattr__(self, name: str) -> Any:
            """The profile of the pair, until somebody sets another one."""
            return self._found_profile() if name == "profile" else super().__getattr__(name)

    def _found_profile(self) -> ModelProfile:
        found = profile_of(self.pair, self.settings)
        if self.pair.is_open:  # before, a server has not told how long its prompts may be
            self.profile = found
        return found

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
        config = overridden(self.settings, as_settings(kwargs))
        return LangSmithParams(
            ls_provider="specreason", ls_model_name=kwargs.get("model") or self.pair.base.name, ls_model_type="chat",
            ls_temperature=config.temperature, ls_max_tokens=config.answer_tokens, ls_stop=stop or config.stop,
        )  # fmt: skip

    @cached_property
    def graph(self) -> CompiledSpecReason:
        """The loop behind it; a call begins anew when the graph around it is resumed, as with any chat model."""
        return create_specreason(self.pair, config=self.settings).compile()

    def get_token_ids(self, text: str) -> list[int]:
        """The tokens of a text in the base model's vocabulary, in which nothing is a control token."""
        return self.custom_get_token_ids(text) if self.custom_get_token_ids else self._counter.ids(text)

    def get_num_tokens_from_messages(
        self, messages: Sequence[MessageLikeRepresentation], tools: Sequence[Tool] | None = None
    ) -> int:
        """The tokens of the base model's prompt with these messages, and with tools where they are given.

        These are the ``input_tokens`` of a call with them. A part of a conversation is counted, too.
        """
        if not tools:
            return self._counter.count(as_messages(messages))
        described = [describe(tool) for tool in tools]
        return self._counter_of(overridden(self.settings, {"tools": described})).count(as_messages(messages))

    @cached_property
    def _counter(self) -> TokenCounter:
        return self._counter_of(self.settings)

    def _counter_of(self, config: SpecReasonConfig) -> TokenCounter:
        base = self.pair.base
        return TokenCounter(EnginePrompts(base.vocabulary, config, name=base.name))

    def configurable_fields(
        self, **kwargs: AnyConfigurableField
    ) -> RunnableSerializable[LanguageModelInput, AIMessage]:
        """Let the config of a call set fields of the model or settings of the loop, as LangChain describes it."""
        if unknown := [name for name in kwargs if field_of(type(self), name) is None]:
            raise ConfigError(unknown_setting(unknown[0]))
        return ConfigurableChat(default=self, fields=kwargs)

    def invoke(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """As in LangChain; `QuestionError` for messages that cannot be read."""
        return super().invoke(_checked(input), config, stop=stop, **kwargs)

    async def ainvoke(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """As in LangChain; `QuestionError` for messages that cannot be read."""
        return await super().ainvoke(_checked(input), config, stop=stop, **kwargs)

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
        yield from begun(super().stream(_checked(input), config, stop=stop, **kwargs), below)

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
        async with aclosing(abegun(super().astream(_checked(input), config, stop=stop, **kwargs), below)) as chunks:
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
        tools: Sequence[Tool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let the answers call tools; ``tool_choice``: auto, none, any (or True), or a tool's name.

        `ConfigError` for what is no tool, for a choice that is none of them, and for settings that are wrong.
        """
        bound = {"tools": [describe(tool) for tool in tools], "tool_choice": choice_of(tool_choice), **kwargs}
        config = self._context(None, bound)
        check_choice(config.tool_choice, config.tools)
        return self.bind(**bound)

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
        model = self.bind(**schema_arguments(schema, chosen, kept_to=supports_json_schema), **kwargs)
        return read_objects(model, schema, include_raw=include_raw)

    def _context(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> SpecReasonConfig:
        """The settings of one call; those not named are the model's own."""
        check_model(kwargs.get("model"), self.pair.base.name)
        return _unreviewed(overridden(self.settings, as_settings({**kwargs, **({"stop": stop} if stop else {})})))


def _unreviewed(config: SpecReasonConfig) -> SpecReasonConfig:
    if config.review:
        raise ConfigError("a chat model cannot ask a human", hint="use create_specreason(pair, review=...) in a graph")
    return config


def _checked(given: LanguageModelInput) -> LanguageModelInput:
    """What the model is asked; messages are read here, as LangChain raises what Python does where one is wrong."""
    return given if isinstance(given, str | PromptValue) else as_messages(given)


def _is_alias(kind: type[BaseModel], name: str) -> bool:
    return any(field.alias == name for field in kind.model_fields.values())


def _own_thread(below: BaseCallbackManager | None) -> RunnableConfig:
    """The config of the graph's run, on a thread of its own: else LangGraph would take it for the caller's subgraph."""
    config: RunnableConfig = {"configurable": {"thread_id": uuid4().hex}}
    return {**config, "callbacks": below} if below else config
