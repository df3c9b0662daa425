"""A graph for the server's test: scripted engines that take their time and write down how many calls are running."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from specreason_graph import EnginePair, create_specreason
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.graph import CompiledSpecReason

CLOSE = "</think>"
STEPS = 12


class Counted(FakeEngine):
    """Notes its running calls in a file of its own."""

    running = 0

    async def generate(self, *arguments: Any) -> Any:
        with self._counted():
            return await super().generate(*arguments)

    async def next_token(self, *arguments: Any) -> Any:
        with self._counted():
            return await super().next_token(*arguments)

    @contextmanager
    def _counted(self) -> Any:
        self._note(1)
        try:
            yield
        finally:
            self._note(-1)

    def _note(self, change: int) -> None:
        self.running += change
        file = os.open(Path(os.environ["SPECREASON_TEST_FOLDER"]) / self.name, os.O_CREAT | os.O_WRONLY)
        os.pwrite(file, f"{self.running:3}".encode(), 0)
        os.close(file)


def think(prompt: str) -> str:
    done = prompt.rpartition("<think>\n")[2].count("\n\n")
    return f"This is step number {done}.\n\n" if done < STEPS else CLOSE


def base(prompt: str) -> str:
    return "So it is." if CLOSE in prompt.rpartition("<think>\n")[2] else CLOSE


@cache
def make_graph() -> CompiledSpecReason:
    draft = Counted(think, name="draft", delay=0.1)
    pair = EnginePair(draft, Counted(base, lambda _: 9, name="base", delay=0.1))
    return create_specreason(pair, lookahead=2).compile()
