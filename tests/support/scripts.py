"""Pairs of scripted engines that go by the prompt: asked again, or ahead, or in another order, they say the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from specreason_graph import EnginePair
from specreason_graph.engines.fake import FakeEngine

CLOSE = "</think>"
ANSWER = "The answer."


def done(prompt: str) -> int:
    """Steps that stand in a prompt; the judge's has another opened thinking behind them."""
    return prompt.count("\n\n")


def is_closed(prompt: str) -> bool:
    """Whether the thinking is over and the answer is due."""
    return CLOSE in prompt.rpartition("<think>\n")[2]


def writing(author: str, steps: int, answer: str = ANSWER) -> Callable[[str], str]:
    """The script of who thinks ``steps`` steps, of which each says whose it is, and then answers."""

    def write(prompt: str) -> str:
        if is_closed(prompt):
            return answer
        return f"Step {done(prompt)} of the {author}.\n\n" if done(prompt) < steps else CLOSE

    return write


def judging(opinions: Sequence[int]) -> Callable[[str], int]:
    """The script of a judge that has these opinions of the steps, again and again."""
    return lambda prompt: opinions[(done(prompt) - 1) % len(opinions)]


def stepwise(
    steps: int,
    opinions: Sequence[int] = (9,),
    *,
    engine: Callable[..., Any] = FakeEngine,
    draft: float = 0.0,
    base: float = 0.0,
    **more: Any,
) -> EnginePair:
    """A pair that thinks ``steps`` steps, of engines that take so many seconds for a call."""
    drafting = engine(writing("draft", steps), name="draft", delay=draft, **more)
    return EnginePair(drafting, engine(writing("base", steps), judging(opinions), name="base", delay=base, **more))
