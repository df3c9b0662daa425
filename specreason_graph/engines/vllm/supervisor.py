"""A pair of vLLM API servers: started base first, watched, started again when one dies, stopped together."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from specreason_graph.engines.options import VLLMOptions
from specreason_graph.engines.vllm.launch import QUIET, arguments, settings
from specreason_graph.engines.vllm.memory import Share
from specreason_graph.engines.vllm.orphans import PARENT
from specreason_graph.errors import ConfigError, EngineDeadError

KEY = "VLLM_API_KEY"
READY_SECONDS = 600.0
"""Longest time a server may take to start."""
STOP_SECONDS = 5.0
"""Time a server gets to end before it is killed."""
POLL_SECONDS = 0.25
DEATHS, DEATHS_SECONDS = 3, 600.0
"""A server that dies more often than this within that time is not started again: it would die for ever."""
log = logging.getLogger(__name__)


@dataclass
class Server:
    """One API server and how it is started."""

    role: str
    """``base`` or ``draft``."""
    command: list[str]
    """Program and arguments."""
    environment: dict[str, str]
    """Variables that are set for it."""
    url: str
    """Where it answers."""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    """The running process."""
    started: float = 0.0
    """When it was started, on the monotonic clock."""
    deaths: list[float] = field(default_factory=list)
    """When it was found dead."""

    def line(self) -> str:
        """The command for a shell, to be run under another supervisor."""
        shown = {name: shlex.quote(value) for name, value in self.environment.items() if name != PARENT}
        shown |= {KEY: '"$SPECREASON_API_KEY"'} if KEY in shown else {}
        variables = [f"{name}={value}" for name, value in shown.items()]
        return " ".join([*variables, shlex.join(self.command)])

    def start(self) -> None:
        """Start the process; it does not outlive this one."""
        log.info("starting the %s server", self.role)
        self.started = time.monotonic()
        self.process = subprocess.Popen(  # noqa: S603 - our own command
            self.command, env={**os.environ, **self.environment}, stdout=sys.stderr, start_new_session=True
        )

    def is_dead(self) -> bool:
        """Whether the process has ended."""
        return self.process is not None and self.process.poll() is not None

    def is_healthy(self) -> bool:
        """Whether it answers."""
        try:
            return httpx.get(f"{self.url}/health", timeout=2).is_success
        except httpx.HTTPError:
            return False

    def wait(self) -> None:
        """Return when it answers; `EngineDeadError` when it ends or takes too long."""
        while self.is_dead() or not self.is_healthy():
            if self.is_dead() or time.monotonic() - self.started > READY_SECONDS:
                raise EngineDeadError(
                    f"the {self.role} server did not start", engine=self.role, hint="its log above says why"
                )
            time.sleep(POLL_SECONDS)
        log.info("the %s server answers at %s after %.1f s", self.role, self.url, time.monotonic() - self.started)

    def stop(self) -> None:
        """Ask it to end, then make it."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def server(
    role: str, name: str, path: str, options: VLLMOptions, share: Share, *, host: str, port: int, key: str | None
) -> Server:
    """How one role of a pair is served."""
    given = {**arguments(path, share.context, options, share), "served_model_name": name, "host": host, "port": port}
    program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enable-prompt-tokens-details"]
    program += ["--uvicorn-log-level", "warning"]
    quiet = {name: value for name, value in QUIET.items() if name not in os.environ}
    environment = {**quiet, **settings(options)} | ({KEY: key} if key else {})
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104 - recognised, not bound
    return Server(role, [*program, *flags(given)], environment, f"http://{shown}:{port}")


def flags(arguments: dict[str, Any]) -> Iterator[str]:
    """Engine arguments as flags of the command line."""
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        elif value is not None:
            yield f"--{flag}"
            values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
            yield from map(str, values)


def check_free(servers: list[Server]) -> None:
    """Raise `ConfigError` when a port is taken, so that no other server is taken for ours."""
    for each in servers:
        url = httpx.URL(each.url)
        with socket.socket() as probe:
            if probe.connect_ex((url.host, url.port or 80)) == 0:
                raise ConfigError(f"port {url.port} is taken", hint=f"choose another with --{each.role}-port")
    if len({each.url for each in servers}) < len(servers):
        raise ConfigError("both servers have the same port", hint="choose another with --draft-port")


def watch(servers: list[Server], ready: Callable[[], None]) -> None:
    """Start the servers, base first, call ``ready``, and keep them running until SIGINT or SIGTERM."""
    check_free(servers)
    try:
        with _stopping():
            for each in servers:
                each.start()
                each.wait()
            ready()
            while True:
                _restart_dead(servers)
                time.sleep(POLL_SECONDS)
    except _Stopped:
        pass
    finally:
        for each in reversed(servers):
            each.stop()


def _restart_dead(servers: list[Server]) -> None:
    for each in filter(Server.is_dead, servers):
        now = time.monotonic()
        each.deaths = [*(death for death in each.deaths if now - death < DEATHS_SECONDS), now]
        if len(each.deaths) > DEATHS:
            raise EngineDeadError(f"the {each.role} server keeps dying", engine=each.role, hint="see its log above")
        log.warning("the %s server has died", each.role)
        each.start()  # not waited for: the other one has to be watched too


class _Stopped(BaseException):
    """A signal asked to stop."""


@contextmanager
def _stopping() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into an exception, wherever the main thread is."""

    def stop(*_: Any) -> None:
        raise _Stopped

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
