"""A pair of vLLM API servers: started base first, watched, restarted when one dies, and stopped together."""

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
from uuid import uuid4

import httpx

from specreason_graph.engines.options import VLLMOptions
from specreason_graph.engines.vllm.launch import QUIET, SERVING, arguments, settings
from specreason_graph.engines.vllm.memory import Share
from specreason_graph.engines.vllm.orphans import Watcher, end_marked, environment_of
from specreason_graph.errors import ConfigError, EngineDeadError

KEY = "VLLM_API_KEY"
READY_SECONDS = 600.0
"""Longest time that a server may take to start, in seconds."""
STOP_SECONDS = 5.0
"""Seconds that a server gets to end by itself before it is killed."""
POLL_SECONDS = 0.25
DEATHS, DEATHS_SECONDS = 3, 600.0
"""A server that dies more often than `DEATHS` times within `DEATHS_SECONDS` is not restarted any more."""
log = logging.getLogger(__name__)


@dataclass
class Server:
    """One API server, and the command that starts it."""

    role: str
    """``base`` or ``draft``."""
    command: list[str]
    """Program and arguments."""
    environment: dict[str, str]
    """Environment variables that are set for the process."""
    url: str
    """Address at which the server answers."""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    """The process; None before the first start."""
    started: float = 0.0
    """When the process was started, on the monotonic clock."""
    deaths: list[float] = field(default_factory=list)
    """When the process was found dead, on the monotonic clock."""
    mark: str = field(default_factory=lambda: uuid4().hex)
    """Marks the process and those that it starts (see orphans.py)."""
    watcher: Watcher | None = field(default=None, repr=False)
    """Ends the marked processes with this one; None before the first start."""

    def line(self) -> str:
        """Return the command for a shell, to be run under another supervisor."""
        shown = {name: shlex.quote(value) for name, value in self.environment.items()}
        shown |= {KEY: '"$SPECREASON_API_KEY"'} if KEY in shown else {}  # the key itself must not be printed
        variables = [f"{name}={value}" for name, value in shown.items()]
        return " ".join([*variables, shlex.join(self.command)])

    def start(self) -> None:
        """Start the process, which ends with this one; what one before it has left is ended first."""
        log.info("starting the %s server", self.role)
        end_marked(self.mark)  # a server that was killed leaves its core, and that holds the memory
        self.watcher = self.watcher or Watcher(self.mark)
        self.started = time.monotonic()
        # The server logs to standard output, which is the caller's: the log goes to standard error.
        self.process = subprocess.Popen(  # noqa: S603 - our own command
            self.command, env={**os.environ, **self.environment, **environment_of(self.mark)}, stdout=sys.stderr,
            start_new_session=True,
        )  # fmt: skip

    def is_dead(self) -> bool:
        """Whether the process has ended."""
        return self.process is not None and self.process.poll() is not None

    def is_healthy(self) -> bool:
        """Whether the server answers."""
        try:
            return httpx.get(f"{self.url}/health", timeout=2).is_success
        except httpx.HTTPError:
            return False

    def wait(self) -> None:
        """Wait until the server answers; raise `EngineDeadError` when it ends or takes too long."""
        while self.is_dead() or not self.is_healthy():
            if self.is_dead() or time.monotonic() - self.started > READY_SECONDS:
                raise EngineDeadError(
                    f"the {self.role} server did not start", engine=self.role, hint="its log above says why"
                )
            time.sleep(POLL_SECONDS)
        log.info("the %s server answers at %s after %.1f s", self.role, self.url, time.monotonic() - self.started)

    def stop(self) -> None:
        """Terminate the process, kill it when it takes too long, and end what it has left."""
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        end_marked(self.mark)
        if self.watcher:
            self.watcher.stop()


def server(
    role: str, name: str, path: str, options: VLLMOptions, share: Share, *, host: str, port: int, key: str | None
) -> Server:
    """Return the server for one role of a pair."""
    # By default a server samples, and ends its answers, as the model's generation_config.json says.
    given = {"generation_config": "vllm", **arguments(path, share.context, options, share)}
    given |= {"scheduler_cls": SERVING, **options.arguments}  # among these may be a scheduler of the caller's own
    given |= {"served_model_name": name, "host": host, "port": port}
    program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enable-prompt-tokens-details"]
    program += ["--uvicorn-log-level", "warning"]
    quiet = {name: value for name, value in QUIET.items() if name not in os.environ}
    environment = {**quiet, **settings(options)} | ({KEY: key} if key else {})
    # These hosts mean "listen on all addresses"; a client needs one of them.
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104 - it is compared, not bound
    return Server(role, [*program, *flags(given)], environment, f"http://{shown}:{port}")


def flags(arguments: dict[str, Any]) -> Iterator[str]:
    """Yield engine arguments as flags of vLLM's command line."""
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        elif value is not None:
            yield f"--{flag}"
            values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
            yield from map(str, values)


def check_free(servers: list[Server]) -> None:
    """Raise `ConfigError` when a port is taken or both servers have the same one."""
    # Without this check another server on the port would answer for ours, which could not start.
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
        each.start()  # without waiting until it answers, because the other server has to be watched, too


class _Stopped(BaseException):
    """Raised in the main thread when a signal asks to stop."""


@contextmanager
def _stopping() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into an exception, which also ends a wait for a server that is starting."""

    def stop(*_: Any) -> None:
        raise _Stopped

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
