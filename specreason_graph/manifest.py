"""What holds for a whole run: the first thing that is kept of it."""

from __future__ import annotations

from pydantic import Field

from specreason_graph.config import SpecReasonConfig
from specreason_graph.conversation import Turn
from specreason_graph.engines.base import EngineDescription
from specreason_graph.records import Engine, Record


class Lineage(Record):
    """Where a forked run comes from."""

    thread_id: str
    """Thread of the run it was forked from."""
    namespace: str
    """Where in that thread: empty at the root, else the path of the subgraph."""
    run: str
    """Names the run it was forked from."""
    step: int
    """How many of its steps were taken over."""
    edited: bool = False
    """Whether the last of those was written anew by a human."""
    head: str | None
    """Hash of the old ledger up to and with the last step taken over unchanged; None where it has no ledger."""


class Manifest(Record):
    """What a run was asked, of whom, and under which settings."""

    schema_version: int
    """Version of the form of all records of the run."""
    package_version: str
    """Version of this package."""
    run: str | None = None
    """Names the run."""
    started: str | None = None
    """When it began, ISO 8601, UTC."""
    question: str
    """The last thing the user said."""
    turns: list[Turn]
    """The conversation."""
    asked_by_messages: bool
    """Whether the answer is also given as a message."""
    config: SpecReasonConfig
    """All settings, the seed among them."""
    engines: dict[Engine, EngineDescription]
    """The models, with hashes of their weights and vocabularies."""
    shares_vocabulary: bool
    """Whether token ids of one model mean the same to the other."""
    head_ids: dict[Engine, list[int]]
    """The prompt of each model up to the opened thinking."""
    judge_ids: list[int]
    """What is put behind the trace to ask for a score."""
    digit_ids: list[int] = Field(default_factory=list)
    """The tokens of the digits 0 to 9 behind it."""
    forked_from: Lineage | None = None
    """The run this one was forked from; None where it began by itself."""
    hash: str | None = None
    """Hash of the first entry of the ledger; None in runs of schema version 1, which have none."""

    @property
    def taken_over(self) -> int:
        """How many of the first steps a fork took over from the run before."""
        return self.forked_from.step if self.forked_from else 0
