"""The connection to a server: address, headers, limits, and the meaning of its errors.

Whatever a server sends, what comes out of here is a bounded number of bytes or an error of this package.
"""

from __future__ import annotations

import asyncio
import base64
import os
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx
from httpx_sse import EventSource, SSEError

from specreason_graph.engines.base import SESSION
from specreason_graph.engines.options import CallOptions
from specreason_graph.engines.redaction import Redactor, public_url
from specreason_graph.engines.server.answers import IN_BETWEEN, Refusal, read
from specreason_graph.engines.server.requests import ANSWER_BYTES
from specreason_graph.errors import (
    ConfigError,
    EngineAnswerError,
    EngineBusyError,
    EngineDeadError,
    EngineError,
    EngineRequestError,
    EngineTimeoutError,
)

API_KEY = "SPECREASON_API_KEY"
"""Environment variable with the API key of the servers; where it is not set, ``VLLM_API_KEY`` is read."""
# Both kinds are retried; 502 and 504 come from a router whose server is down.
GONE = (500, 502, 504)
BUSY = (408, 429, 503)
LIMIT = "specreason_limit"
"""Extension of a request: most bytes that its answer may have."""
PACKED = ("gzip", "x-gzip", "deflate")
"""Encodings of a body that are read, although none is asked for: something in between may pack it."""


@dataclass(frozen=True)
class Address:
    """Where a server is, and with what it lets its callers in."""

    url: httpx.URL
    """Without ``/v1``, user name, password and query, so that it may be shown and recorded."""
    login: tuple[str, str] | None = field(default=None, repr=False)
    """User name and password."""
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Sent with each request, as some gateways take their keys there."""

    @classmethod
    def read(cls, url: str) -> Address:
        """The parts of an address; `ConfigError`, without what is secret in it, for a text that is none."""
        wrong = f"URL {public_url(url)!r} is not valid"
        hint = "write http://HOST:PORT"
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            # the cause may hold a part of the password
            cause = "" if {"@", "?"} & set(url) else f": {error}"
            raise ConfigError(wrong + cause, hint=hint) from None
        if parsed.scheme not in ("http", "https") or not parsed.host or (parsed.port or 1) > 65535:
            raise ConfigError(wrong, hint=hint)
        path = parsed.path.rstrip("/").removesuffix("/v1").rstrip("/")
        login = (parsed.username, parsed.password) if parsed.userinfo else None
        plain = parsed.copy_with(userinfo=b"", query=None, fragment=None, path=path or "/")
        return cls(plain, login, tuple(parsed.params.multi_items()))

    def __str__(self) -> str:
        return str(self.url).rstrip("/")


@dataclass(frozen=True)
class Credentials:
    """What opens a server, and what must therefore not be shown."""

    headers: dict[str, str] = field(repr=False)
    """Headers of each request."""
    redactor: Redactor
    """Takes them out of texts."""

    @classmethod
    def of(cls, address: Address) -> Credentials:
        """Those in the address, else the API key of the environment; `ConfigError` for one that no header can hold."""
        key = (os.environ.get(API_KEY) or os.environ.get("VLLM_API_KEY") or "").strip()
        if not (key.isascii() and (key.isprintable() or not key)):
            raise ConfigError(f"the key in {API_KEY} holds characters that no header can", hint="use printable ASCII")
        both = ":".join(address.login or ())
        login = base64.b64encode(both.encode()).decode() if address.login else ""
        given = f"Basic {login}" if login else f"Bearer {key}" if key else ""
        user, password = address.login or ("", "")
        secrets = [key, both, login, password, user if len(user) > 2 or not password else ""]
        secrets += [value or name for name, value in address.query]
        return cls({"authorization": given} if given else {}, Redactor(secrets))


class BoundedClient(httpx.AsyncClient):
    """A client whose answers are unpacked and read up to the limit of their request only."""

    async def send(self, request: httpx.Request, *, stream: bool = False, **more: Any) -> httpx.Response:
        """Send a request; `EngineAnswerError` for an answer that is too long."""
        sent = await super().send(request, stream=True, **more)
        headers = [(name, value) for name, value in sent.headers.raw if name.lower() not in (b"content-encoding",)]
        body = BoundedBody(sent, request.extensions.get(LIMIT, ANSWER_BYTES))
        response = httpx.Response(
            sent.status_code, headers=headers, stream=body, request=request, extensions=sent.extensions
        )
        response.encoding = "utf-8"  # JSON and events are; the server may name what is no encoding of text
        if not stream:
            try:
                await response.aread()
            finally:
                await response.aclose()
        return response


class BoundedBody(httpx.AsyncByteStream):
    """The body of an answer, unpacked, up to a limit: a packed one of 2 MB may be 2 GB long."""

    def __init__(self, response: httpx.Response, limit: int) -> None:
        self._response, self._left, self._limit = response, limit, limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        packed = self._response.headers.get("content-encoding", "identity").strip().lower()
        if packed not in (*PACKED, "identity", ""):
            raise TooOdd("its content-encoding is not supported")
        unpacking = zlib.decompressobj(47) if packed in PACKED else None  # 47: with the header of either kind
        try:
            async for chunk in self._response.aiter_raw():
                part = unpacking.decompress(chunk, self._left + 1) if unpacking else chunk
                self._left -= len(part)
                if self._left < 0:
                    raise TooOdd(f"it is longer than {self._limit} bytes")
                yield part
        except zlib.error:
            raise TooOdd("it cannot be unpacked") from None

    async def aclose(self) -> None:
        """Leave the rest, and the connection where the server errs.

        A body behind a status that has none, as 204, would be read as the answer to the next call, another run's.
        """
        await self._response.aclose()
        connection = self._response.extensions.get("network_stream")
        if connection and self._response.status_code != httpx.codes.OK:
            await connection.aclose()


class TooOdd(Exception):  # noqa: N818 - turned into an error of this package below
    """Why an answer is not read."""


@dataclass(frozen=True)
class Caller:
    """Makes the calls to one server: with its headers, within the limits, and with its errors translated."""

    name: str
    """Of the engine, for messages."""
    client: httpx.AsyncClient
    """The connections."""
    options: CallOptions
    """Limits of calls."""
    redactor: Redactor
    """For texts from the server."""

    async def request(self, method: str, path: str, limit: int = ANSWER_BYTES, **body: Any) -> bytes:
        """The body of an answer."""
        async with self._translating():
            response = await self.client.request(
                method, path, headers=self._headers(), extensions={LIMIT: limit}, **body
            )
            check(response, self.name, self.redactor)
            return response.content

    async def events(
        self, path: str, body: dict[str, Any], limit: int, progress: Callable[[], int]
    ) -> AsyncGenerator[str, None]:
        """The texts of a streamed answer's events; the time limit begins anew whenever ``progress`` has grown."""
        # an error of who takes the events is not one of the server's: it does not pass through here
        async with self._translating() as deadline:
            extensions = {LIMIT: limit}
            sent = self.client.stream("POST", path, json=body, headers=self._headers(), extensions=extensions)
            async with sent as response:
                if not response.is_success:
                    await response.aread()  # httpx does not read the body of a stream by itself; the message is in it
                    check(response, self.name, self.redactor)
                done = progress()
                async for event in EventSource(response).aiter_sse():
                    if event.data.strip() not in ("", "[DONE]"):
                        yield event.data
                    before, done = done, progress()
                    if done > before:
                        deadline.reschedule(asyncio.get_running_loop().time() + self.options.timeout_seconds)

    def _headers(self) -> dict[str, str]:
        session = SESSION.get()
        return {self.options.session_header: quote(session, errors="replace")[:1000]} if session else {}

    @asynccontextmanager
    async def _translating(self) -> AsyncIterator[asyncio.Timeout]:
        """Limit the time of the code inside, and turn what the HTTP library raises into errors of this package."""
        try:
            # httpx's timeouts hold for each read, and a server may send what is no token for ever
            async with asyncio.timeout(self.options.timeout_seconds) as deadline:
                yield deadline
        except TimeoutError:
            raise _late(self.name, self.options) from None
        except (TooOdd, SSEError, httpx.DecodingError) as error:
            odd = f"{self.name} answered what is no completion: {self.redactor.text(str(error))}"
            raise EngineAnswerError(odd, engine=self.name, hint=IN_BETWEEN) from None
        # beside its own errors it raises what sockets and the encodings of names do
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, OSError, ValueError, OverflowError) as error:
            raise translated(error, self.name, self.options, self.redactor) from None


def translated(
    error: Exception, name: str, options: CallOptions, redactor: Redactor = Redactor()  # noqa: B008 - it is immutable
) -> EngineError:  # fmt: skip
    """Translate an error of httpx into one of this package."""
    if isinstance(error, httpx.TimeoutException):
        return _late(name, options)
    text = f"{name}: {redactor.text(str(error)) or type(error).__name__}"
    gone = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError, httpx.StreamError, OSError)
    if isinstance(error, gone):
        return EngineDeadError(text, engine=name, retryable=True, hint="check that the server runs")
    return EngineRequestError(text, engine=name)


def check(response: httpx.Response, name: str, redactor: Redactor) -> None:
    """Raise the error that a status code stands for."""
    if response.is_success:
        return
    text = f"{name}: {response.status_code} {_message(response, redactor)}".rstrip()
    if response.status_code in BUSY:
        raise EngineBusyError(text, engine=name, retryable=True)
    if response.status_code in GONE:
        raise EngineDeadError(text, engine=name, retryable=True)
    hint = f"set {API_KEY} to the server's key" if response.status_code in (401, 403) else ""
    raise EngineRequestError(text, engine=name, hint=hint)


def cause(error: EngineError) -> str:
    """Return the message of an error without the engine's name and the hint."""
    text = Exception.__str__(error)
    return text.removeprefix(f"{error.engine}: ").removeprefix(f"{error.engine} ")


def message_of(error: Any, redactor: Redactor) -> str:
    """The message of an error in OpenAI's form."""
    return redactor.text(error.get("message", error) if isinstance(error, dict) else error)


def _late(name: str, options: CallOptions) -> EngineTimeoutError:
    message = f"{name} did not answer within {options.timeout_seconds:g} s"
    return EngineTimeoutError(message, engine=name, retryable=True, hint="raise timeout_seconds if it is slow")


def _message(response: httpx.Response, redactor: Redactor) -> str:
    try:
        error = read(Refusal, response.content, "", redactor).error
    except EngineAnswerError:
        error = None
    return redactor.text(response.reason_phrase) if error is None else message_of(error, redactor)
