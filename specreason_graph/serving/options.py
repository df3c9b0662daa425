"""What a server is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

from specreason_graph.errors import ConfigError

Durability = Literal["sync", "async", "exit"]
"""LangGraph's names for when a step is kept: before the next begins, meanwhile, or with the end of the run."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of this machine to itself."""


@dataclass(frozen=True)
class ServeOptions:
    """How a pair is served."""

    model_name: str | None = None
    """Name of the pair in requests and replies; None for the name of the base model."""
    api_key: str | None = field(default=None, repr=False)
    """Key that clients must send as bearer token; None lets everybody in who reaches the port."""
    concurrency: int = 64
    """Requests that are worked on at the same time."""
    queue: int = 256
    """Requests that may wait for their turn; more are refused with status 429."""
    body_bytes: int = 4 * 2**20
    """Largest body of a request, in bytes."""
    hosts: tuple[str, ...] = LOOPBACK
    """Names under which the server may be asked, without ports; empty lets any name in."""
    database: Path | None = None
    """SQLite file that keeps the runs; None keeps nothing."""
    durability: Durability = "exit"
    """When a step of a run is kept. At the end costs least: a client whose request is lost asks again."""

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("queue", 0), ("body_bytes", 1)):
            if (value := getattr(self, name)) < least:
                raise ConfigError(f"{name} = {value} is not allowed", hint=f"write a whole number from {least} on")
        if self.api_key is not None and not (self.api_key.strip() and self.api_key.isascii()):
            raise ConfigError("the API key is empty or not ASCII", hint="choose another, or none")


def checked_durability(named: str) -> Durability:
    """A name that is one of LangGraph's; `ConfigError` for another."""
    if named not in (known := get_args(Durability)):
        raise ConfigError(f"durability = {named!r} is not allowed", hint=f"write {', '.join(known)}")
    return cast("Durability", named)
