"""What all stages share: their collaborators."""

from __future__ import annotations

import contextvars
from dataclasses import dataclass
from typing import Any

from langgraph.config import get_config, get_stream_writer

from specreason_graph.config import SpecReasonConfig
from specreason_graph.engines.base import TokenCallback
from specreason_graph.engines.pair import EnginePair
from specreason_graph.lookahead.lookahead import Lookahead
from specreason_graph.lookahead.registry import LookaheadRegistry
from specreason_graph.lookahead.step_sampler import StepSampler
from specreason_graph.prompting.answer_stream import AnswerStream
from specreason_graph.record.events import Event, StepToken
from specreason_graph.record.records import Engine
from specreason_graph.record.signing import Signer
from specreason_graph.record.state import State


@dataclass(frozen=True)
class Stage:
    """A node: called with the state and the run's lookahead, it returns the channels it changes."""

    sampler: StepSampler
    """How the engines are asked, under the settings of the run."""
    registry: LookaheadRegistry
    """The work on all runs over the pair."""
    signer: Signer | None = None
    """Signs the ledger of a run that is finished."""

    async def __call__(self, state: State, lookahead: Lookahead, /) -> dict[str, Any]:
        """Do the stage's work on the engines' loop."""
        raise NotImplementedError

    @property
    def pair(self) -> EnginePair:
        """The engines."""
        return self.sampler.pair

    @property
    def config(self) -> SpecReasonConfig:
        """Settings of the run."""
        return self.sampler.config

    def step_stream(self, lookahead: Lookahead, author: Engine) -> TokenCallback | None:
        """What takes the tokens of the next step and emits its text; None where nobody asked for that."""
        if not lookahead.streams:
            return None
        context = contextvars.copy_context()  # the engine's calls know nothing of this run
        prompts, index = self.sampler.prompts.of(author), lookahead.node.index

        def piece(text: str, whole: str) -> None:
            start = len(whole) - len(text)
            context.run(emit, StepToken(index=index, author=author, start=start, text=text))

        hidden = prompts.vocabulary.special_ids | prompts.vocabulary.eos_ids | prompts.call_ids
        return AnswerStream(prompts.vocabulary, piece, (), hidden).token


def is_nested() -> bool:
    """Whether the graph that works is a node of another one."""
    return "|" in get_config()["configurable"].get("checkpoint_ns", "")


def emit(event: Event) -> None:
    """Send an event down the custom stream."""
    get_stream_writer()(event.dump())
