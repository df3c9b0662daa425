"""What is asked of every request before it is read: the right host and key, and a body that is not too large."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from specreason_graph.serving.api_errors import ApiError
from specreason_graph.serving.options import ServeOptions

GUARDED = "/v1"
"""Paths that need the key begin with it; health and metrics are for machines that have none."""


class Gate:
    """Lets requests through to the app, or answers them itself; ``count`` is told the status of each answer."""

    def __init__(self, app: ASGIApp, options: ServeOptions, count: Callable[[int], None]) -> None:
        self._app, self._options, self._count = app, options, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection of the server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        counted = self._counted(send) if scope["path"].startswith(GUARDED) else send
        try:
            self._check(scope["path"], Headers(scope=scope))
        except ApiError as refused:
            await refused.response()(scope, receive, counted)
            return
        await self._app(scope, self._bounded(receive), counted)

    def _check(self, path: str, headers: Headers) -> None:
        # A page in a browser may send requests here from any site, and its DNS may call this machine by its own name.
        if self._options.hosts and (host := _host(headers.get("host", ""))) not in self._options.hosts:
            known = " or ".join(self._options.hosts)
            raise ApiError(421, f"the host {host!r} is not served here; ask {known}", code="unknown_host")
        if path.startswith(GUARDED):
            self._check_key(headers.get("authorization", ""))
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._options.body_bytes:
            raise self._too_large()

    def _check_key(self, given: str) -> None:
        key = self._options.api_key
        if key is None:
            return
        kind, _, token = given.partition(" ")
        if kind.lower() != "bearer" or not secrets.compare_digest(token.strip().encode(), key.encode()):
            told = "the API key is not the server's" if given else "the request has no API key"
            raise ApiError(
                401, f"{told}; send the header authorization: Bearer KEY", code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )  # fmt: skip

    def _bounded(self, receive: Receive) -> Receive:
        """The same messages, up to the largest body: a length need not be said, or be true."""
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._options.body_bytes:
                raise self._too_large()
            return message

        return bounded

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self._options.body_bytes} bytes", code="request_too_large")

    def _counted(self, send: Send) -> Send:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._count(message["status"])
            await send(message)

        return counted


def _host(header: str) -> str:
    """The name in a host header, without its port."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
