"""A call of the graph: what is asked, under which settings and by whom, checked before LangGraph keeps any of it.

What is found wrong only in a stage stays in the thread: LangGraph stores the input first, and the next message of the
conversation would come behind one that nobody can answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from langchain_core.messages import RemoveMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.types import Command

from specreason_graph.config import CONFIG_KEY
from specreason_graph.errors import SpecReasonError, with_builtin_base
from specreason_graph.nested_call import TASK, NestedCall, around
from specreason_graph.prompting.conversation import check_asked, check_known, last_question, with_ids
from specreason_graph.runtime import StageRunner

SERVED = "langgraph_request_id"
"""Key by which LangGraph's servers name the request that a call is made for."""


@dataclass(frozen=True)
class Call:
    """A call as LangGraph gets it."""

    asked: Any
    """The input."""
    config: RunnableConfig
    """The config, with the settings of the call."""
    context: Any
    """The context, where it is not a mapping of settings."""
    nested: NestedCall | None
    """What is known of it as a call from another graph's node; None where it is none, or nothing is kept."""

    @classmethod
    def read(cls, runner: StageRunner, asked: Any, config: RunnableConfig | None, context: Any) -> Self:
        """Check a call; `UsageError` for what cannot be asked and for settings that cannot be."""
        config, context = _with_settings(config or {}, context)
        if isinstance(asked, Command | None):  # these go on with what was asked before, under the settings of then
            return cls(asked, config, context, None)
        check_asked(asked)
        conf = around(config)
        runner.settings_of(context, conf.get(CONFIG_KEY))
        if question := last_question(asked):
            check_known(runner.pair.base.name, question)
        return cls(_kept(asked, nested=TASK in conf), config, context, NestedCall.find(asked, config, context))


def _with_settings(config: RunnableConfig, context: Any) -> tuple[RunnableConfig, Any]:
    """Put settings that are given as a mapping where they are read over the graph's own.

    LangGraph would make a `SpecReasonConfig` of them, which takes them for all there are: a threshold would be held
    against the scale of the default judge.
    """
    conf = config.get("configurable") or {}
    given = conf.get(CONFIG_KEY) or {}
    if not isinstance(context, Mapping) or not isinstance(given, Mapping):
        return config, context
    return {**config, "configurable": {**conf, CONFIG_KEY: {**context, **given}}}, None


def _kept(asked: Mapping[str, Any], *, nested: bool) -> dict[str, Any]:
    """The input as it goes into the state.

    A question leaves the conversation of the thread alone. As a node of another graph the loop gets the whole
    conversation, whatever it had kept of one itself.
    """
    if asked.get("question"):
        return {name: value for name, value in asked.items() if name != "messages"}
    messages = with_ids(asked.get("messages"))
    return {**asked, "messages": [RemoveMessage(REMOVE_ALL_MESSAGES), *messages] if nested else messages}


@contextmanager
def told_to_clients(config: RunnableConfig | None) -> Iterator[None]:
    """Raise errors in a form whose message LangGraph's servers tell their clients, where one serves the call."""
    try:
        yield
    except SpecReasonError as error:
        if isinstance(error, RuntimeError) or SERVED not in around(config):
            raise
        raise with_builtin_base(error) from error
