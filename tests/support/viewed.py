"""``specreason view`` in a process of its own, and the events that it sends."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from typing import Any

import httpx


@contextmanager
def viewed(place: str, *options: str) -> Iterator[str]:
    """The address of a view of the database; it is stopped as people stop it, and ends at once and without a word."""
    arguments = ["view", *options, "--no-open", "--db", place]
    server = subprocess.Popen(
        [sys.executable, "-m", "specreason_graph", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout
    try:
        line = server.stdout.readline()
        assert line.startswith("view: http://127.0.0.1:"), (line, server.stderr.read() if server.stderr else "")
        yield line.removeprefix("view: ").strip()
        assert server.poll() is None, "it still runs"
    finally:
        server.send_signal(signal.SIGINT)
        _, said = server.communicate(timeout=30)
    assert server.returncode == 0
    assert said.splitlines() == ["the address holds the key to it; stop with Ctrl-C"], said


def events(client: httpx.Client, page: str, address: str) -> Iterator[tuple[str, Any]]:
    """What the page at this address is sent: the kind of event and what it holds."""
    found = re.search(r'data-events="([^"]+)"', page)
    assert found
    with client.stream("GET", httpx.URL(address).join(unescape(found[1])), timeout=60) as stream:
        kind = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield kind, json.loads(line.removeprefix("data: "))
