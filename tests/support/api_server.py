"""A pair served to OpenAI clients, in a thread of this process, and what clients ask it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import uvicorn
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from specreason_graph import EnginePair
from specreason_graph.config import SpecReasonConfig
from specreason_graph.serving import ServeOptions, create_app
from specreason_graph.serving.server import listen
from tests.support.waiting import until

STREAMER = Path(__file__).parent / "openai_streamer.py"
ASKED: Any = [{"role": "user", "content": "How many pens are there?"}]
STOCK: Any = {
    "type": "function",
    "function": {
        "name": "stock", "description": "How many of an item are there.",
        "parameters": {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]},
    },
}  # fmt: skip


@contextmanager
def serving(pair: EnginePair, config: SpecReasonConfig | None = None, **options: Any) -> Iterator[str]:
    """The URL under which the pair answers while the context is open."""
    app = create_app(pair, config=config, options=ServeOptions(**options))
    with listen("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5))
        thread = Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            thread.join()


def client_of(url: str, **more: Any) -> OpenAI:
    return OpenAI(**{"base_url": url, "api_key": "none", "max_retries": 0, **more})


@contextmanager
def asking(pair: EnginePair, config: SpecReasonConfig | None = None, **options: Any) -> Iterator[OpenAI]:
    """A client of a pair that is open and served meanwhile."""
    with pair, serving(pair, config, **options) as url, client_of(url) as client:
        yield client


def metrics_of(client: OpenAI) -> str:
    return httpx.get(str(client.base_url).removesuffix("/v1/") + "/metrics").text


def ask(client: OpenAI, **more: Any) -> ChatCompletion:
    reply: ChatCompletion = client.chat.completions.create(**{"model": "base", "messages": ASKED, **more})
    return reply


def stream(client: OpenAI, **more: Any) -> list[ChatCompletionChunk]:
    pieces: Any = ask(client, stream=True, **more)
    return list(pieces)


def thought(said: Any) -> tuple[str | None, str | None]:
    """The thinking of a message or a piece, under both names in use."""
    more = said.model_extra
    return more.get("reasoning_content"), more.get("reasoning")


async def killed(
    client: OpenAI, question: str, how: list[str], is_at_work: Callable[[], bool], *, pieces: int = 0
) -> None:
    """Ask in a process that is killed when the server works for it, and when it has read so many ``pieces``."""
    (model,) = client.models.list().data
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(STREAMER), str(client.base_url), model.id, question, *how, stdout=subprocess.PIPE
    )
    assert process.stdout
    try:
        for _ in range(1 + pieces):
            assert await process.stdout.readline()
        await until(is_at_work)
    finally:
        process.kill()
        await process.wait()
