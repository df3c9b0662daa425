"""What a run emits while it works, through LangGraph's custom stream.

Every event is a plain dictionary with the key ``event``; `read_event` gives the typed view. A step that is worked on
again after a crash is emitted again; what ``accepted``, ``regenerated`` and ``answer_token`` say is never withdrawn.
Steps that are taken back stay in the record: ``rolled_back`` says that the models no longer go on from them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from specreason_graph.record.manifest import ThinkingFormat
from specreason_graph.record.records import Answer, Decision, Engine, Proposal, Record, Score, Step, StopReason
from specreason_graph.record.summary import Summary


class Started(Record):
    """A run begins."""

    event: Literal["started"] = "started"
    """Names the event."""
    thinking: dict[Engine, ThinkingFormat]
    """How each model thinks; the format ``none`` of the base makes the reply itself the trace."""

    @property
    def is_plain(self) -> bool:
        """Whether the reply itself is the trace."""
        return self.thinking["base"].kind == "none"


class StepToken(Record):
    """A piece of a step that is being written; emitted for callers that ask, and what becomes of it is told later."""

    event: Literal["step_token"] = "step_token"
    """Names the event."""
    index: int
    """Position the step would have in the trace, from 0."""
    author: Engine
    """Who writes it."""
    start: int
    """Characters of the step before the piece; 0 where the step is begun, or begun again."""
    text: str
    """The piece; what ends the step is left out."""


class Drafted(Record):
    """The draft model wrote a step that nobody has scored yet."""

    event: Literal["drafted"] = "drafted"
    """Names the event."""
    index: int
    """Position the step would have in the trace, from 0."""
    proposal: Proposal
    """The step."""


class Scored(Record):
    """The base model gave its opinion."""

    event: Literal["scored"] = "scored"
    """Names the event."""
    index: int
    """Position of the step."""
    score: Score
    """The opinion."""
    decision: Decision
    """What follows from it, unless a human is asked."""


class Rejected(Record):
    """The proposal is thrown away; the base model writes the step."""

    event: Literal["rejected"] = "rejected"
    """Names the event."""
    index: int
    """Position of the step."""
    decision: Decision
    """Why."""


class RolledBack(Record):
    """Steps are taken back: the base model writes from before them, and no prompt has them from now on."""

    event: Literal["rolled_back"] = "rolled_back"
    """Names the event."""
    index: int
    """Position of the step that takes their place."""
    steps: list[int]
    """Positions of the steps that are taken back."""


class Accepted(Record):
    """A step is committed as the draft model, or a human, wrote it."""

    event: Literal["accepted"] = "accepted"
    """Names the event."""
    step: Step
    """The step with its evidence."""


class Regenerated(Record):
    """A step is committed that the base model wrote."""

    event: Literal["regenerated"] = "regenerated"
    """Names the event."""
    step: Step
    """The step with its evidence."""


class AnswerToken(Record):
    """A piece of the answer; the pieces together are the answer."""

    event: Literal["answer_token"] = "answer_token"
    """Names the event."""
    text: str
    """The piece."""


class Finished(Record):
    """The run is over."""

    event: Literal["finished"] = "finished"
    """Names the event."""
    answer: Answer
    """The answer with its evidence."""
    stop_reason: StopReason
    """Why the thinking ended."""
    summary: Summary
    """What the run took."""


Event = Started | StepToken | Drafted | Scored | Rejected | RolledBack | Accepted | Regenerated | AnswerToken | Finished
_EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def read_event(plain: Any) -> Event | None:
    """The typed view of what came out of a custom stream; None for what others put there."""
    try:
        return _EVENTS.validate_python(plain)
    except ValidationError:
        return None
