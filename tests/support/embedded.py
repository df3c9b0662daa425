"""The embedded engine on the reference base, and what it is asked."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from specreason_graph import EnginePair
from specreason_graph.config import make_config
from specreason_graph.engines.base import Engine, Sampling
from specreason_graph.engines.transformers import TransformersEngine
from specreason_graph.models.abacus import FOLDER
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.prompting.engine_prompts import EnginePrompts

QUESTION = held_out()[4].question
LONG = Sampling(max_tokens=300)


def fresh() -> TransformersEngine:
    """One that is not open yet."""
    return TransformersEngine(str(FOLDER / "base"))


def prompt(engine: Engine, question: str = QUESTION) -> list[int]:
    """The prompt of a question, as far as the thinking that it opens."""
    return EnginePrompts(engine.vocabulary, make_config()).question_ids(question)


def on_the_base(work: Callable[[Engine], Coroutine[Any, Any, None]]) -> Callable[[EnginePair], None]:
    """Make a test of what is done with the reference base, whose caches are empty, on the loop that it lives on."""

    def test(abacus: EnginePair) -> None:
        base: Any = abacus.base

        async def afresh() -> None:
            await base.reset_prefix_cache()
            await work(base)

        abacus.run(afresh)

    test.__name__ = work.__name__
    return test
