"""No test reaches another machine: what one needs is on this one, or is scripted."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import httpx
import pytest
from pytest_socket import SocketConnectBlockedError

from tests.support.ports import free_port

ELSEWHERE = "192.0.2.1"
"""An address that is nobody's (RFC 5737): without the guard a connection would time out."""
refused = pytest.mark.filterwarnings("ignore:A test tried to use socket")  # the guard warns before it raises


@refused
def test_a_connection_elsewhere_is_refused() -> None:
    with pytest.raises(SocketConnectBlockedError, match=ELSEWHERE):
        socket.create_connection((ELSEWHERE, 80), timeout=5)


@refused
def test_a_request_elsewhere_is_refused() -> None:
    with pytest.raises(SocketConnectBlockedError, match=ELSEWHERE):
        httpx.get(f"http://{ELSEWHERE}/v1/models", timeout=5, trust_env=False)


@refused
async def test_a_connection_elsewhere_is_refused_on_a_loop() -> None:
    with pytest.raises(SocketConnectBlockedError, match=ELSEWHERE):
        async with asyncio.timeout(5):
            await asyncio.open_connection(ELSEWHERE, 80)


def greeted(server: socket.socket, client: socket.socket) -> bytes:
    """What a client hears from a server that says ``hello`` to the first who comes."""

    def greet() -> None:
        visitor, _ = server.accept()
        with visitor:
            visitor.sendall(b"hello")

    thread = threading.Thread(target=greet)
    thread.start()
    with client:
        client.connect(server.getsockname())
        heard = client.recv(5)
    thread.join(5)
    return heard


def test_this_machine_is_reached() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        assert greeted(server, socket.socket()) == b"hello"


def test_a_socket_in_a_folder_is_reached(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        assert greeted(server, socket.socket(socket.AF_UNIX)) == b"hello"
