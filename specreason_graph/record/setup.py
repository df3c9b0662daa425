"""The set-up of a run: what besides the settings decides its tokens, and what a resumed run is held to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from specreason_graph.record.base import Engine, Record

FormatKind = Literal["tags", "channels", "none"]
DECIDING = ("weights", "vocabulary", "dtype", "scoring")
"""Fields of an engine's description that change tokens or scores."""
DECIDING_OPTIONS = ("revision", "dtype", "quantization", "lora", "speculative", "arguments")
"""Engine options that do."""


class ThinkingFormat(Record):
    """How a model opens and closes its thinking; all texts are as its chat template writes them."""

    kind: FormatKind
    """``tags`` around the thinking, ``channels`` of their own for thinking and answer, or ``none``: the reply itself is
    the trace."""
    source: str
    """By what it was chosen."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """What the chat template is rendered with."""
    opening: str = ""
    """What is put behind the template's start of a reply, where the template does not end with it."""
    tags: tuple[str, str] | None = None
    """The text that opens the thinking, and the one that closes it."""
    before_close: str = ""
    """White space in front of the closing text."""
    answer_start: str = ""
    """What stands between the closing text and the answer."""
    reasoning_field: str | None = None
    """Field of an assistant's message in which the template takes the reasoning between calls; None where it does
    not."""


class EngineDescription(Record):
    """What answered: enough to tell later whether it was the same model."""

    engine: str
    """Kind of engine, as in ``transformers``."""
    engine_version: str
    """Version of the library behind it."""
    model: str
    """Name or path the model was loaded by."""
    weights: str
    """SHA-256 of the weight files, or the revision where the files are out of reach."""
    vocabulary: str
    """SHA-256 of the vocabulary: equal for two engines exactly when their token ids mean the same."""
    dtype: str
    """Number format of the weights."""
    device: str
    """Where it runs."""
    context: int
    """Longest prompt plus output, in tokens."""
    scoring: Literal["chosen", "top"] = "chosen"
    """Where the judge's log-probabilities come from: asked for by token, or picked from the likeliest ones."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Engine options that are not the defaults."""


class Setup(Record):
    """What besides the settings decides the tokens of a run."""

    engines: dict[Engine, EngineDescription]
    """The models, with hashes of their weights and vocabularies."""
    thinking: dict[Engine, ThinkingFormat] = Field(default_factory=dict)
    """How each model thinks."""
    sampling: dict[Engine, dict[str, float]] = Field(default_factory=dict)
    """How each model is sampled."""
    judge_ids: list[int]
    """What is put behind the trace to ask for a digit; empty where no judge does."""
    digit_ids: list[int] = Field(default_factory=list)
    """The tokens of the digits 0 to 9 behind it."""

    def differences(self, now: Setup) -> Iterator[str]:
        """Yield what differs ``now``, in words; what an older record does not hold is not compared."""
        for role, engine in self.engines.items():
            yield from (f"another {role} model: its {what}" for what in _changed(engine, now.engines[role]))
        for name, what in (("thinking", "thinking format"), ("sampling", "sampling")):
            before, after = getattr(self, name), getattr(now, name)
            yield from (f"another {what} of the {role} model" for role in before if _differ(before[role], after[role]))
        if self.judge_ids != now.judge_ids:
            yield f"another judge's prompt: it had {len(self.judge_ids)} tokens, and has {len(now.judge_ids)}"
        elif self.digit_ids and self.digit_ids != now.digit_ids:
            yield "other tokens for the judge's digits"


def _differ(before: Any, now: Any) -> bool:
    """Whether two formats or samplings differ; by what a format was chosen does not matter."""
    return bool(_without_source(before) != _without_source(now))


def _without_source(form: Any) -> Any:
    return form.model_copy(update={"source": ""}) if isinstance(form, ThinkingFormat) else form


def _changed(before: EngineDescription, now: EngineDescription) -> Iterator[str]:
    for name in DECIDING:
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            yield f"{name} were {_short(old)} and are {_short(new)}"
    for name in DECIDING_OPTIONS:
        old, new = before.options.get(name), now.options.get(name)
        if old != new:
            yield f"option {name} was {_short(old)} and is {_short(new)}"


def _short(value: Any) -> str:
    return str(value)[:12]
