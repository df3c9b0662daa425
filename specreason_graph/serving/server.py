"""Runs the app until it is interrupted."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from specreason_graph.errors import SpecReasonError, UsageError

LEAVE_SECONDS = 5
"""How long requests may go on after an interrupt; then they are ended."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; ``port`` 0 takes any that is free. `UsageError` where it cannot be had."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        cause = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot listen on {host} port {port}: {cause}", hint="choose another with --port") from None


def serve(app: FastAPI, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Serve ``app`` until SIGINT or SIGTERM; ``ready`` is called when requests are taken.

    Log messages go where the caller's logging sends them.
    """
    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=LEAVE_SECONDS, server_header=False)
    # uvicorn gives a signal back when it has ended; SIGTERM would kill this process before its engines are closed
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        ReadyServer(config, ready).run([listening])
    except KeyboardInterrupt:
        return
    except SystemExit:
        raise SpecReasonError("the server could not be started", hint="what it logged says why") from None
    finally:
        signal.signal(signal.SIGTERM, before)


class ReadyServer(uvicorn.Server):
    """uvicorn's server, which says when it takes requests."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take requests, and say so."""
        await super().startup(sockets)
        if self.started:
            self._ready()
