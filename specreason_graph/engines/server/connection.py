"""The connection to a server: its address, the API key, and the meaning of its errors."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from specreason_graph.engines.options import CallOptions
from specreason_graph.errors import (
    ConfigError,
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


def address(url: str) -> httpx.URL:
    """Return the server's address without ``/v1``; raise `ConfigError` for a text that is no address."""
    try:
        parsed = httpx.URL(url.rstrip("/").removesuffix("/v1"))
    except httpx.InvalidURL as error:
        raise ConfigError(f"URL {url!r} is not valid: {error}", hint="write http://HOST:PORT") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"URL {url!r} is not valid", hint="write http://HOST:PORT")
    return parsed


def authorization() -> dict[str, str]:
    """Return the header with the API key, or nothing without a key; the key is in no message."""
    key = (os.environ.get(API_KEY) or os.environ.get("VLLM_API_KEY") or "").strip()
    if not (key.isascii() and (key.isprintable() or not key)):
        raise ConfigError(f"the key in {API_KEY} holds characters that no header can", hint="use printable ASCII")
    return {"authorization": f"Bearer {key}"} if key else {}


@asynccontextmanager
async def translating(name: str, options: CallOptions) -> AsyncIterator[None]:
    """Limit the time of the code inside, and turn errors of httpx and malformed answers into errors of this package."""
    try:
        # httpx's timeouts hold for each read; this one holds for the whole call, streams included.
        async with asyncio.timeout(options.timeout_seconds):
            yield
    except TimeoutError:
        raise _late(name, options) from None
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise translated(error, name, options) from error
    except (ValueError, KeyError, TypeError) as error:
        odd = f"{name} answered what is no completion: {type(error).__name__}"
        raise EngineDeadError(odd, engine=name, retryable=True, hint="is there a proxy in between?") from error


def translated(error: Exception, name: str, options: CallOptions) -> EngineError:
    """Translate an error of httpx into one of this package."""
    if isinstance(error, httpx.TimeoutException):
        return _late(name, options)
    text = f"{name}: {str(error) or type(error).__name__}"
    if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError | httpx.ProxyError | httpx.StreamError):
        return EngineDeadError(text, engine=name, retryable=True, hint="check that the server runs")
    return EngineRequestError(text, engine=name)


def check(response: httpx.Response, name: str) -> None:
    """Raise the error that a status code stands for."""
    if response.is_success:
        return
    text = f"{name}: {response.status_code} {_message(response)}"
    if response.status_code in BUSY:
        raise EngineBusyError(text, engine=name, retryable=True)
    if response.status_code in GONE:
        raise EngineDeadError(text, engine=name, retryable=True)
    hint = f"set {API_KEY} to the server's key" if response.status_code in (401, 403) else ""
    raise EngineRequestError(text, engine=name, hint=hint)


def cause(error: EngineError) -> str:
    """Return the message of an error without the engine's name and the hint."""
    text = Exception.__str__(error)
    return text.removeprefix(f"{error.engine}: ")


def _late(name: str, options: CallOptions) -> EngineTimeoutError:
    message = f"{name} did not answer within {options.timeout_seconds:g} s"
    return EngineTimeoutError(message, engine=name, retryable=True, hint="raise timeout_seconds if it is slow")


def _message(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return response.reason_phrase
