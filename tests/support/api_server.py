"""A pair served to OpenAI clients, in a thread of this process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import uvicorn

from specreason_graph import EnginePair
from specreason_graph.config import SpecReasonConfig
from specreason_graph.serving import ServeOptions, create_app
from specreason_graph.serving.server import listen


@contextmanager
def serving(pair: EnginePair, config: SpecReasonConfig | None = None, **options: Any) -> Iterator[str]:
    """The URL under which the pair answers while the context is open."""
    app = create_app(pair, config=config, options=ServeOptions(**options))
    with listen("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5))
        thread = Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            thread.join()
