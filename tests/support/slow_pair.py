"""The command on a scripted pair that writes token by token: ``python -m tests.support.slow_pair solve ...``.

The environment says how slow it is: ``SLOW_TOKEN`` and ``SLOW_OPEN`` are seconds for a token and for opening an engine.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from specreason_graph import EnginePair
from specreason_graph.engines.base import Completion, Sampling, TokenCallback
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.runs.launch import Launch
from tests.support.scripts import CLOSE

STEPS = 3
DRAFTED = (
    "Step {}: the draft thinks of apples, pears and plums in a basket that stands beside the window of the kitchen."
)
WRITTEN = "Step {}: the base knows that there are no plums in the basket, and counts the apples and pears once more."
ANSWER = "The answer is **42**, as 6*7*1 = 42 and \\boxed{42}.\n\n* apples\n* pears\n\n```python\nprint(6 * 7)\n```\n"


def thought(prompt: str) -> str:
    """The thinking so far, as far as a prompt holds it."""
    return prompt.split("<think>", 1)[-1]


def draft(prompt: str) -> str:
    count = thought(prompt).count("Step ")
    return f"{DRAFTED.format(count)}\n\n" if count < STEPS else CLOSE


def base(prompt: str) -> str:
    if "</think>" in thought(prompt):
        return ANSWER
    count = thought(prompt).count("Step ")
    return f"{WRITTEN.format(count)}\n\n" if count < STEPS else CLOSE


def score(prompt: str) -> int:
    """The second step of the draft is bad."""
    return 2 if thought(prompt).count("Step ") == 2 else 9


class SlowEngine(FakeEngine):
    """Tells each token when it is written, and takes a while to open."""

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, on_token: TokenCallback | None = None
    ) -> Completion:
        made, begun = await super().generate(prompt_ids, sampling), time.perf_counter()
        for token in made.generations[0].token_ids:
            await asyncio.sleep(float(os.environ.get("SLOW_TOKEN", "0.002")))
            if on_token:
                on_token(token)
        took = made.usage.model_copy(update={"seconds": time.perf_counter() - begun})
        return replace(made, usage=took)

    async def __aenter__(self) -> Self:
        await asyncio.sleep(float(os.environ.get("SLOW_OPEN", "0")))
        return self


def main() -> None:
    """Run the command."""
    Launch.open_pair = lambda _: EnginePair(  # type: ignore[method-assign,assignment]
        SlowEngine(draft, name="slow-draft"), SlowEngine(base, score, name="slow-base")
    )
    from specreason_graph.cli.app import main as command

    command()


if __name__ == "__main__":
    main()
