"""Engines that say again what others said, so that a process needs no model to think a run that was thought before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from specreason_graph.engines.base import Completion, Likelihood, NextToken, Sampling, TokenCallback
from specreason_graph.engines.transformers import TransformersEngine
from specreason_graph.record.manifest import EngineDescription
from tests.support.traces import Before


@dataclass
class Transcript:
    """What an engine is, and what it said; it can be sent to another process."""

    model: str
    """Folder of the model, for its vocabulary."""
    name: str
    """What the engine is called."""
    description: EngineDescription
    """What it says that it is."""
    answers: dict[Any, Any] = field(default_factory=dict)
    """Completions and distributions, by method and arguments."""


class Recording(Before):
    """Writes down what an engine says."""

    def __init__(self, engine: Any, model: str) -> None:
        super().__init__(engine)
        self.transcript = Transcript(model, engine.name, engine.describe())

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, on_token: Any = None) -> Completion:
        done: Completion = await self.engine.generate(prompt_ids, sampling, on_token)
        self.transcript.answers["generate", tuple(prompt_ids), sampling] = done
        return done

    async def next_token(self, prompt_ids: Sequence[int], candidates: Sequence[int]) -> NextToken:
        found: NextToken = await self.engine.next_token(prompt_ids, candidates)
        self.transcript.answers["next_token", tuple(prompt_ids), tuple(candidates)] = found
        return found

    async def likelihood(self, prompt_ids: Sequence[int], continuation_ids: Sequence[int]) -> Likelihood:
        found: Likelihood = await self.engine.likelihood(prompt_ids, continuation_ids)
        self.transcript.answers["likelihood", tuple(prompt_ids), tuple(continuation_ids)] = found
        return found


class Replaying:
    """Says it again; what nobody asked before, which can only be work ahead of a step, is not answered."""

    supports_json_schema = order_dependent = False
    max_concurrency = None

    def __init__(self, transcript: Transcript) -> None:
        engine = TransformersEngine(transcript.model)  # it is not opened
        self.transcript, self.name = transcript, transcript.name
        self.vocabulary, self.context = engine.vocabulary, engine.context

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, on_token: TokenCallback | None = None
    ) -> Completion:
        done: Completion = await self.answer("generate", tuple(prompt_ids), sampling)
        for token in done.generations[0].token_ids if on_token else ():
            on_token(token)  # type: ignore[misc]
        return done

    async def next_token(self, prompt_ids: Sequence[int], candidates: Sequence[int]) -> NextToken:
        found: NextToken = await self.answer("next_token", tuple(prompt_ids), tuple(candidates))
        return found

    async def likelihood(self, prompt_ids: Sequence[int], continuation_ids: Sequence[int]) -> Likelihood:
        found: Likelihood = await self.answer("likelihood", tuple(prompt_ids), tuple(continuation_ids))
        return found

    async def answer(self, *asked: Any) -> Any:
        if asked not in self.transcript.answers:
            await asyncio.Event().wait()
        await asyncio.sleep(0.01)
        return self.transcript.answers[asked]

    def describe(self) -> EngineDescription:
        return self.transcript.description

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None
