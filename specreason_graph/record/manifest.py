"""What holds for a whole run, the first thing that is kept of it: conversation, settings, engines, prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from specreason_graph.config import SpecReasonConfig
from specreason_graph.record.base import Sparse
from specreason_graph.record.records import Engine, Plain, Record
from specreason_graph.record.setup import EngineDescription as EngineDescription
from specreason_graph.record.setup import Setup
from specreason_graph.record.setup import ThinkingFormat as ThinkingFormat
from specreason_graph.strategy import AnyJudge

Speaker = Literal["system", "user", "assistant", "tool"]
FORMER_SETTINGS = {"window": "lookahead", "guard": "speculation_control", "reading": "score_reduction"}
"""Settings by the names that they had in records of schema version 3 and before."""


DIGIT_SETTINGS = {
    "score_reduction": "reduction", "judge_instruction": "instruction", "judge_prefill": "prefill",
}  # fmt: skip
"""Settings of schema version 6 and before that are now the digit judge's own."""


def with_todays_names(settings: Any) -> Any:
    """Recorded settings under the names of now."""
    if not isinstance(settings, dict):
        return settings
    renamed = {FORMER_SETTINGS.get(name, name): value for name, value in settings.items()}
    own = {new: renamed.pop(old) for old, new in DIGIT_SETTINGS.items() if old in renamed}
    return {**renamed, "judge": {"kind": "digit", **own}} if own else renamed


class ToolCall(Record):
    """A call of a tool in an earlier reply."""

    id: str
    """Names the call in the message that answers it."""
    name: str
    """Which tool."""
    arguments: dict[str, Any]
    """With what."""


class Turn(Record):
    """One message of a conversation, without what its writer was thinking."""

    speaker: Speaker
    """Who says it."""
    text: str
    """What is said."""
    reasoning: str = ""
    """What the assistant thought before it, where tools were called since the last user message."""
    calls: list[ToolCall] = Field(default_factory=list)
    """Tools the assistant calls in it."""
    call_id: str | None = None
    """The call that a tool's message answers."""
    name: str | None = None
    """Name of the tool or speaker, where there is one."""


class Judged(Record):
    """The judge of some steps that a fork took over."""

    until: int
    """Position of the first step that another judge decided on, from 0."""
    judge: AnyJudge
    """The judge of the steps up to there, behind those of the one before."""


class Lineage(Sparse):
    """Where a forked run comes from."""

    without_empty: ClassVar = ("judges",)

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
    judges: list[Judged] = Field(default_factory=list)
    """Who decided on the steps taken over; empty where it was the digit judge."""


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
    config: Annotated[SpecReasonConfig, BeforeValidator(with_todays_names)]
    """All settings, the seed among them."""
    engines: dict[Engine, EngineDescription]
    """The models, with hashes of their weights and vocabularies."""
    shares_vocabulary: bool
    """Whether token ids of one model mean the same to the other."""
    thinking: dict[Engine, ThinkingFormat] = Field(default_factory=dict)
    """How each model thinks; empty in runs of schema version 4 and before, where all think between tags."""
    sampling: dict[Engine, dict[str, float]] = Field(default_factory=dict)
    """How each model is sampled; empty in runs of schema version 4 and before, which went by the settings."""
    head_ids: dict[Engine, list[int]]
    """The prompt of each model up to the opened thinking."""
    judge_ids: list[int]
    """What is put behind the trace to ask for a digit; empty where no judge does."""
    digit_ids: list[int] = Field(default_factory=list)
    """The tokens of the digits 0 to 9 behind it."""
    forked_from: Lineage | None = None
    """The run this one was forked from; None where it began by itself."""
    conversation: str | None = None
    """SHA-256 of the messages of the thread when the run began, its own among them; None in earlier runs."""
    hash: str | None = None
    """Hash of the first entry of the ledger; None in runs of schema version 1, which have none."""

    @property
    def is_plain(self) -> bool:
        """Whether the reply itself is the trace."""
        return bool(self.thinking) and self.thinking["base"].kind == "none"

    @property
    def settings(self) -> SpecReasonConfig:
        """The settings by which a run goes on: before schema version 5 all models were made to think."""
        return self.config if self.thinking else self.config.model_copy(update={"thinking": "tags"})

    @property
    def setup(self) -> Setup:
        """Engines, formats and the judge's prompt at the start of the run."""
        names = Setup.model_fields
        return Setup.model_construct(**{name: getattr(self, name) for name in names})

    @property
    def taken_over(self) -> int:
        """How many of the first steps a fork took over from the run before."""
        return self.forked_from.step if self.forked_from else 0


def setup_in_force(manifest: Plain, trace: Sequence[Plain]) -> Setup:
    """The set-up behind the last step: the manifest's, or the one that the run was resumed with last."""
    changed = next((step["change"] for step in reversed(trace) if step.get("change")), manifest)
    return Setup.load({name: changed[name] for name in Setup.model_fields if name in changed})


def is_plain(manifest: Plain) -> bool:
    """Whether the reply itself is the trace of the run with this manifest."""
    return bool(manifest.get("thinking")) and manifest["thinking"]["base"]["kind"] == "none"
