"""A reply that is sent as it is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from specreason_graph.serving.api_errors import api_error
from specreason_graph.serving.replies import PING, ReplyForm, event
from specreason_graph.serving.runs import Reply, Run

PING_SECONDS = 15.0
"""How long a stream is silent before a comment is sent."""
PIECE_SECONDS = 0.02
"""How long what is written of an answer is gathered behind a piece of it: an event a token would cost more than it."""


class RunStream(StreamingResponse):
    """Sends what a run says; whatever ends the response ends the run, too."""

    media_type = "text/event-stream"

    def __init__(self, run: Run, form: ReplyForm, *, with_usage: bool) -> None:
        super().__init__(
            _events(run, form, with_usage=with_usage), headers={**form.headers, "cache-control": "no-store"}
        )
        self._run = run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream until it ends or the client leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._run.leave()


async def _events(run: Run, form: ReplyForm, *, with_usage: bool) -> AsyncIterator[str]:
    yield form.opening()
    while True:
        try:
            async with asyncio.timeout(PING_SECONDS):
                part = await run.next()
        except TimeoutError:
            yield PING
            continue
        except Exception as error:
            yield event(api_error(error).body)
            return
        if isinstance(part, Reply):
            yield form.closing(part, with_usage=with_usage)
            return
        if text := form.piece(part):
            yield text
        if part.text:
            await asyncio.sleep(PIECE_SECONDS)
