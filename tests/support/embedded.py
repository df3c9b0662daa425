"""The embedded engine on the reference base, and what it is asked."""

from __future__ import annotations

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
