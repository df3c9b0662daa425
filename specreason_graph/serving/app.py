"""The server's app: addresses, what stands behind them, and what lives as long as it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from time import time
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from specreason_graph.audit.read.serializer import StrictSerializer
from specreason_graph.config import SpecReasonConfig, make_config
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import ConfigError
from specreason_graph.graph import create_specreason
from specreason_graph.record.signing import Signer
from specreason_graph.runs.store import RunStore
from specreason_graph.serving.api_errors import ApiError, answer_errors, api_error
from specreason_graph.serving.budget import within
from specreason_graph.serving.chat_request import ChatRequest
from specreason_graph.serving.gate import Gate
from specreason_graph.serving.metrics import Metrics
from specreason_graph.serving.options import ServeOptions
from specreason_graph.serving.replies import ReplyForm
from specreason_graph.serving.run_stream import RunStream
from specreason_graph.serving.runs import Runs

T = TypeVar("T")
CLIENT_LEFT = 499
"""Status in logs and metrics of a request whose client has left; nobody reads the response."""


def create_app(
    pair: EnginePair, *, config: SpecReasonConfig | None = None, options: ServeOptions | None = None
) -> FastAPI:
    """An ASGI app that answers OpenAI's chat completions with speculative reasoning over ``pair``.

    ``config`` holds the settings of every run, over which a request puts its own. The caller opens and closes the pair;
    the app opens the database of ``options`` when it starts. `ConfigError` for settings that no client could follow.
    """
    config, options = config or make_config(), options or ServeOptions()
    if config.review:
        raise ConfigError("a server cannot ask a human", hint="set review to null")
    served, metrics = ServedPair(pair, config, options), Metrics()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with served.opened(metrics):
            yield

    # no pages of FastAPI: they load scripts from the network
    app = FastAPI(title="specreason", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Gate, options=options, count=metrics.response)
    answer_errors(app)

    @app.post("/v1/chat/completions", response_model=None)
    async def complete(asked: ChatRequest, request: Request) -> Response:
        return await served.answer(asked, request)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [served.described]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        served.check_name(name)
        return served.described

    @app.get("/health", response_model=None)
    async def health() -> Response:
        return JSONResponse({"status": "ok"} if pair.is_open else {"status": "loading"}, 200 if pair.is_open else 503)

    @app.get("/metrics", response_model=None)
    async def figures() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


class ServedPair:
    """A pair under the name that clients know."""

    def __init__(self, pair: EnginePair, config: SpecReasonConfig, options: ServeOptions) -> None:
        self._pair, self._config, self._options = pair, config, options
        self._name, self._since = options.model_name or pair.base.name, int(time())
        self._runs: Runs | None = None

    @asynccontextmanager
    async def opened(self, metrics: Metrics) -> AsyncIterator[None]:
        """Take requests while the context is open; the pair opens, and so does the database."""
        async with self._saver() as saver:
            graph = create_specreason(self._pair, config=self._config, signer=Signer.from_environment())
            self._runs = Runs(graph.compile(checkpointer=saver), self._options, metrics)
            await self._pair.arun(_opened)
            try:
                yield
            finally:
                await self._runs.end()

    @asynccontextmanager
    async def _saver(self) -> AsyncIterator[BaseCheckpointSaver[Any] | None]:
        file = self._options.database
        if file is None:
            yield None
            return
        with RunStore.open(file):  # makes the file, for its owner alone, and says what is wrong with it
            async with AsyncSqliteSaver.from_conn_string(str(file)) as saver:
                saver.serde = StrictSerializer()
                yield saver

    @property
    def described(self) -> dict[str, Any]:
        """The pair as an entry of the list of models."""
        return {
            "id": self._name, "object": "model", "created": self._since, "owned_by": "specreason",
            "base": self._pair.base.name, "draft": self._pair.draft.name, "max_model_len": self._pair.base.context,
        }  # fmt: skip

    def check_name(self, name: str) -> None:
        """`ApiError` for a model that is not served."""
        if name != self._name:
            raise ApiError(
                404, f"there is no model {name!r} here; write {self._name!r}", code="model_not_found", param="model"
            )

    async def answer(self, asked: ChatRequest, request: Request) -> Response:
        """Work for a request as long as its client is there, and answer it as a whole or as a stream."""
        self.check_name(asked.model)
        asked.check()
        config = asked.over(self._config)
        if most := asked.most_tokens:
            config = await asyncio.to_thread(within, self._pair, config, most)
        if self._runs is None:
            raise ApiError(503, "the server has not started")
        run = self._runs.begin(asked.conversation(), config, streamed=bool(asked.stream))
        form = ReplyForm(run.thread, self._name)
        try:
            if not asked.stream:
                reply = await _while_connected(request, run.reply())
                return JSONResponse(form.whole(reply), headers=form.headers)
            # what is wrong with a request shows before the run begins, and has a status of its own then
            await _while_connected(request, run.next())
            with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
            return RunStream(run, form, with_usage=with_usage)
        except BaseException as error:
            run.leave()
            if isinstance(error, Exception):
                raise api_error(error).of_run(form.headers) from error
            raise


async def _opened() -> None:
    """Nothing, on the engines' loop; they open before it."""


async def _while_connected(request: Request, waiting: Awaitable[T]) -> T:
    """Wait for something as long as the client is there; else `ApiError`, which nobody reads."""
    work, gone = asyncio.ensure_future(waiting), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise ApiError(CLIENT_LEFT, "the client has left")
    finally:
        work.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
