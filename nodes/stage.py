"""What all stages share: their collaborators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from langgraph.config import get_config, get_stream_writer

from specreason_graph.config import SpecReasonConfig
from specreason_graph.engines.pair import EnginePair
from specreason_graph.lookahead.lookahead import Lookahead
from specreason_graph.lookahead.registry import LookaheadRegistry
from specreason_graph.lookahead.step_sampler import StepSampler
from specreason_graph.record.events import Event
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


def is_nested() -> bool:
    """Whether the graph that works is a node of another one."""
    return "|" in get_config()["configurable"].get("checkpoint_ns", "")


def emit(event: Event) -> None:
    """Send an event down the custom stream."""
    get_stream_writer()(event.dump())
