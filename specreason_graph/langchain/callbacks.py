"""Puts the graph's run below the chat model's run in the caller's tree of callbacks, for tracers.

Streams of messages get the chat model's chunks from LangChain, so the graph's run does not tell them its reply.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing, closing, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast
from uuid import uuid4

from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackManager, CallbackManager
from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.runnables.config import var_child_runnable_config

from specreason_graph.nodes.message_stream import without_listeners

T = TypeVar("T")
Manager = TypeVar("Manager", CallbackManager, AsyncCallbackManager)
STREAMED: ContextVar[BaseCallbackManager | None] = ContextVar("specreason_streamed", default=None)
"""The chat model's run while its stream begins: LangChain passes it to ``_generate`` and not to ``_stream``."""


def streamed(config: RunnableConfig | None, kind: type[Manager]) -> tuple[RunnableConfig, Manager]:
    """A config with a run id chosen here, and the callback manager for what is run below it."""
    config = ensure_config(config)
    manager = kind.configure(config.get("callbacks"))
    below: Manager = without_listeners(manager)
    below.parent_run_id = config.get("run_id") or uuid4()
    below.add_tags(config.get("tags") or [])
    below.add_metadata(config.get("metadata") or {})
    return {**config, "callbacks": manager, "run_id": below.parent_run_id}, below


def callbacks_below(run_manager: Any, kind: type[Manager]) -> BaseCallbackManager | None:
    """The callback manager for what is run below ``run_manager``; without one, below the stream that is open."""
    if run_manager is None:
        return STREAMED.get()
    below: BaseCallbackManager = without_listeners(
        kind(
            handlers=run_manager.inheritable_handlers, inheritable_handlers=run_manager.inheritable_handlers,
            parent_run_id=run_manager.run_id, inheritable_tags=run_manager.inheritable_tags,
            inheritable_metadata=run_manager.inheritable_metadata,
        )
    )  # fmt: skip
    return below


def begun(parts: Iterator[T], below: BaseCallbackManager | None) -> Iterator[T]:
    """The parts of a stream whose run is put below ``below``, whatever run the caller is in."""
    with _beginning(below):
        first = next(parts)
    with closing(cast("Generator[T]", parts)):
        yield first
        yield from parts


async def abegun(parts: AsyncIterator[T], below: BaseCallbackManager | None) -> AsyncGenerator[T]:
    """The same for an asynchronous stream."""
    with _beginning(below):
        first = await anext(parts)
    async with aclosing(cast("AsyncGenerator[T]", parts)):
        yield first
        async for part in parts:
            yield part


@contextmanager
def _beginning(below: BaseCallbackManager | None) -> Iterator[None]:
    """Hide the caller's run from LangChain, which would else put the new run below that one."""
    streamed = STREAMED.set(below)
    config = None if below else var_child_runnable_config.get()
    if config:
        config = {**config, "callbacks": without_listeners(config.get("callbacks"))}
    around = var_child_runnable_config.set(config)
    try:
        yield
    finally:
        var_child_runnable_config.reset(around)
        STREAMED.reset(streamed)
