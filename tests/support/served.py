"""vLLM servers that are started as ``serve-engines`` starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from specreason_graph import EnginePair, open_pair
from tests.support.ports import free_port


@dataclass
class Served:
    """A pair of servers under the supervisor."""

    process: subprocess.Popen[str]
    urls: dict[str, Any]

    def open_pair(self, **more: Any) -> EnginePair:
        return open_pair(**{"base": "abacus-base", "draft": "abacus-draft", "kind": "server", **self.urls, **more})

    def core(self, role: str) -> int:
        """Process id of the core behind a server."""
        import psutil

        port = self.urls[f"{role}_url"].rpartition(":")[2]
        server = next(child for child in psutil.Process(self.process.pid).children() if port in child.cmdline())
        cores = (child for child in server.children(recursive=True) if "EngineCore" in " ".join(child.cmdline()))
        return int(next(cores).pid)

    def stop(self) -> int:
        self.process.terminate()
        status = self.process.wait(15)
        if self.process.stdout:
            self.process.stdout.close()
        return status


def serve(*arguments: str) -> Served:
    """Start the servers of the reference pair, or of what the arguments name, and wait until they answer."""
    ports = free_port(), free_port()
    command = [sys.executable, "-m", "specreason_graph", "serve-engines"]
    command += ["--base-port", str(ports[0]), "--draft-port", str(ports[1]), *arguments]
    environment = {**os.environ, "SPECREASON_API_KEY": "sesame"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout
    assert process.stdout.readline().startswith("ready: specreason solve --engine server")
    base, draft = [f"http://127.0.0.1:{port}" for port in ports]
    return Served(process, {"base_url": base, "draft_url": draft})
