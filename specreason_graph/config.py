"""Every knob of the loop, validated when it is set."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from specreason_graph.errors import ConfigError
from specreason_graph.json_values import why_not_kept
from specreason_graph.strategy import (
    REFUSED,
    AnyJudge,
    AnyRollback,
    AnyStopping,
    AnyWriter,
    Judge,
    Rollback,
    Settings,
    Stopping,
    Writer,
    read,
)

DEFAULT_KINDS = {"judge": "digit", "writer": "draft", "rollback": "never", "stopping": "closed"}
"""Settings that are a table with a kind, and the kind where none is given."""
STRATEGIES: dict[str, dict[str, Any]] = {
    "paper": {
        "lookahead": 0, "speculation_control": False, "max_step_tokens": 512, "proposals": 1, "threshold": 7.0,
        "judge": {
            "kind": "digit", "reduction": "greedy", "prefill": "<think>I think the quality score is: ",
            "instruction": (
                "Evaluate the last reasoning step solely based on factual correctness and logical validity. Ignore "
                "style, phrasing, or overall usefulness\u2014only judge whether the step is objectively correct and "
                "logically follows from prior steps. Assign a score from 0 to 9."
            ),
        },
        "writer": {"kind": "draft"}, "rollback": {"kind": "never"}, "stopping": {"kind": "words"},
        "repetition_limit": 2, "min_step_tokens": 1,
    },
}  # fmt: skip
"""Settings that a strategy stands for; others may be put over them.

``paper``: as the code of SpecReason does (arXiv 2504.07891): in turns, with its words for the judge and its rule of
when the thinking ends.
"""
MOVED = {
    "score_reduction": "judge.reduction", "judge_instruction": "judge.instruction", "judge_prefill": "judge.prefill",
}  # fmt: skip
"""Settings of releases before that belong to the digit judge."""
WORKING_FILE = Path("specreason.toml")
"""File of models and settings that commands and the chat model pick up where it lies in the working folder."""
MODELS = ("base", "draft", "engine", "device", "dtype", "base_url", "draft_url")
"""Names in a config file that say which models run where, and on what."""
ENGINE_TABLES = {"base": "base_options", "draft": "draft_options"}
"""Tables of engine options in a config file, by role."""
CONFIG_KEY = "specreason"
"""Key of ``config["configurable"]`` under which a call's own settings are looked for."""
STREAM_KEY = "specreason_stream_steps"
"""Key of ``config["configurable"]``: with true there a run also emits the text of each step while it is written."""

Whole = Annotated[int, Field(lt=2**31)]
Count = Annotated[Whole, Field(ge=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Tag = Annotated[str, Field(pattern=r"\S")]
Author = Literal["base", "draft"]
Thinking = Literal["auto", "none", "tags"]

RENDERED = {
    "messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize",
    "continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict",
    "return_assistant_tokens_mask", "tokenizer_kwargs",
}  # fmt: skip
"""Arguments of a chat template that this package gives itself."""
NEVER = 10**6
"""More steps than any run has, as ``first_steps_by_base``: the draft is never asked."""
ANSWER_TOKENS = 1024
"""Most tokens of an answer behind a thinking, where the settings do not say."""


class NotKeptError(ValueError):
    """A value that no record gives back as it was."""


def _free(template: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Template arguments that may be given."""
    for role, arguments in template.items():
        if taken := sorted(RENDERED & arguments.keys()):
            raise ValueError(f"{role}.template.{taken[0]} is given by this package; leave it out")
    return template


def _named(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tools with names that are safe to write into a prompt."""
    for tool in tools:
        function = tool.get("function")
        if not isinstance(function, dict):
            raise ValueError('write each as {"type": "function", "function": {"name": ..., "parameters": {...}}}')
        name = function.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]{1,128}", name):
            raise ValueError(f"a tool is named {name!r}; use letters, digits, '_', '.' and '-'")
    return tools


class Band(Settings):
    """An uncertain range of scores, both ends included."""

    low: Number
    """Lowest number in the band."""
    high: Number
    """Highest number in the band."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low = {self.low:g} is above high = {self.high:g}; swap them")
        return self

    def __contains__(self, number: float) -> bool:
        return self.low <= number <= self.high


class SpecReasonConfig(Settings):
    """Settings of one run; unknown names are rejected, and so are values out of range.

    Defaults follow the paper (arXiv 2504.07891, section 5.1): threshold 7, temperature 0.6, top-p 0.95, a thinking
    budget of 8192 tokens.
    """

    judge: AnyJudge = Field(default_factory=lambda: read(Judge, DEFAULT_KINDS["judge"]))
    """What a proposal is worth: a kind, or a mapping with ``kind`` and the judge's own settings."""
    threshold: Number | None = None
    """Number from which a proposal is accepted, on the judge's scale; None for the judge's own threshold."""
    writer: AnyWriter = Field(default_factory=lambda: read(Writer, DEFAULT_KINDS["writer"]))
    """Who writes the next step: a kind, or a mapping with ``kind`` and the writer's own settings."""
    rollback: AnyRollback = Field(default_factory=lambda: read(Rollback, DEFAULT_KINDS["rollback"]))
    """When committed steps are taken back: a kind, or a mapping with ``kind`` and the rule's own settings."""
    proposals: Annotated[Whole, Field(ge=1, le=16)] = 1
    """Versions of a step that the draft writes, of which the best is taken; several need a temperature above 0."""
    lookahead: Annotated[Whole, Field(ge=0, le=64)] | None = None
    """Steps worked on ahead of the commit point; None goes by acceptance and load. No token depends on it."""
    speculation_control: bool | None = None
    """Whether the base model writes alone while drafting does not pay; it goes by the clock, which nothing repeats.
    None does so only while eight or more runs share the engines."""
    reproducible: bool = False
    """Whether nothing in the run may go by the clock: what does is refused, and so is speculation control."""
    first_steps_by_base: Annotated[Whole, Field(ge=0)] = 0
    """How many steps at the start the base model writes itself."""
    stopping: AnyStopping = Field(default_factory=lambda: read(Stopping, DEFAULT_KINDS["stopping"]))
    """When the thinking ends besides the models' own word and the limits: a kind, or a mapping with ``kind``."""
    max_steps: Count = 256
    """Committed steps after which the thinking ends."""
    max_step_tokens: Count = 512
    """Tokens after which a step ends even in mid-sentence."""
    min_step_tokens: Count = 5
    """A blank line before this many tokens does not end a step, so that a bare "Wait." is not scored alone."""
    thinking_tokens: Count = 8192
    """Committed thinking tokens after which the thinking ends."""
    answer_tokens: Count | None = None
    """Most tokens of the answer, and of a reply that is itself the trace; None for 1024 behind a thinking, and for
    ``thinking_tokens`` where the reply is the trace."""
    deadline_seconds: Annotated[Number, Field(gt=0)] | None = None
    """Seconds in which a run is to have its answer, waiting for engines included; the thinking is cut short for it."""
    step_seconds: Annotated[Number, Field(gt=0)] | None = None
    """Seconds that a step is to take; a run that is slower goes before others, and eases its own demands."""
    threshold_floor: Number | None = None
    """How far a run that is late may lower the threshold; None never does."""
    repetition_limit: Annotated[Whole, Field(ge=2)] = 3
    """The thinking ends when one step text has been committed this often."""
    temperature: Annotated[Number, Field(ge=0, le=2)] = 0.6
    """Sampling temperature of both models; 0 is greedy. Scores do not depend on it."""
    top_p: Annotated[Number, Field(gt=0, le=1)] = 0.95
    """Nucleus of the sampling."""
    sampling: Literal["settings", "model"] = "settings"
    """How both models are sampled: ``settings``, or ``model`` for what the makers of each recommend in its generation
    config, top-k, min-p and repetition penalty included."""
    seed: Annotated[Whole, Field(ge=0)] = 0
    """Seed that every call's own seed is derived from."""
    continue_without_draft: bool = True
    """Whether the base model goes on alone when the draft engine has failed for good; False stops the run instead."""
    review: Band | None = None
    """Scores for which a human is asked instead of the threshold; None asks nobody."""
    answer_by: Author = "base"
    """Which model writes the answer."""
    tools: Annotated[list[dict[str, Any]], AfterValidator(_named)] = Field(default_factory=list)
    """Tools the answer may call, as OpenAI function definitions; rendered by the models' chat templates."""
    tool_choice: str | None = None
    """``auto`` or None leaves it to the model, ``none`` forbids calls, ``any`` forces one, a name forces that tool."""
    parallel_tool_calls: bool = True
    """Whether an answer may call several tools at once; False takes the first of its calls."""
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Strings that end the answer; they are left out of it."""
    answer_schema: dict[str, Any] | None = None
    """JSON schema the answer must follow, on engines with constrained decoding."""
    thinking: Thinking = "auto"
    """How the models think: ``auto`` goes by their chat templates, ``tags`` makes them think between tags, ``none``
    makes the reply itself the trace."""
    template: Annotated[dict[Author, dict[str, Any]], AfterValidator(_free)] = Field(default_factory=dict)
    """Arguments of the chat templates by role, as in ``{"base": {"enable_thinking": true}}``."""
    think_open: Tag | None = None
    """Tag that opens the thinking, given with ``think_close``; None finds both in the chat template or vocabulary,
    else ``<think>``."""
    think_close: Tag | None = None
    """Tag that closes the thinking, given with ``think_open``."""

    @field_validator("*", mode="before")
    @classmethod
    def _kept(cls, value: Any, info: ValidationInfo) -> Any:
        """Settings are a part of the record, and must come out of it as they were given."""
        plain = value.model_dump() if isinstance(value, BaseModel) else value
        if problem := why_not_kept(plain, str(info.field_name)):
            raise NotKeptError(problem)
        return value

    @model_validator(mode="after")
    def _sampled(self) -> Self:
        if self.proposals > 1 and self.temperature == 0:
            raise ValueError(f"proposals = {self.proposals} would all be the same at temperature = 0; raise it")
        return self

    @model_validator(mode="after")
    def _repeats(self) -> Self:
        timed = [name for name in ("speculation_control", "deadline_seconds", "step_seconds") if getattr(self, name)]
        if self.reproducible and timed:
            raise ValueError(f"reproducible = True, and {timed[0]} goes by the clock; leave one of them out")
        return self

    @model_validator(mode="after")
    def _on_scale(self) -> Self:
        low, high = self.judge.scale_in_force
        numbers = {"threshold": self.threshold, "threshold_floor": self.threshold_floor}
        numbers |= {"review.low": self.review.low, "review.high": self.review.high} if self.review else {}
        for name, number in numbers.items():
            if number is not None and not low <= number <= high:
                scale = f"the scale of the {self.judge.kind} judge is {low:g} to {high:g}"
                raise ValueError(f"{name} = {number:g} is not allowed: {scale}")
        if self.threshold_floor is not None and self.threshold_floor > self.judge_in_force.accepts_from:
            raise ValueError(
                f"threshold_floor = {self.threshold_floor:g} is above threshold = {self.judge_in_force.accepts_from:g}"
            )
        return self

    @property
    def judge_in_force(self) -> Judge:
        """The judge, under the threshold of these settings where they have one."""
        return self.judge if self.threshold is None else self.judge.with_threshold(self.threshold)


def make_config(**settings: Any) -> SpecReasonConfig:
    """Validate settings; a bad one raises `ConfigError` with its name, value, what is allowed and the fix."""
    try:
        return SpecReasonConfig(**layered(settings))
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def overridden(config: SpecReasonConfig, *settings: Mapping[str, Any]) -> SpecReasonConfig:
    """The settings with others put over them, the last ones winning."""
    if not any(settings):
        return config
    return make_config(**layered(config.model_dump(), *settings))


def layered(*settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others put over them, the last ones winning; nothing is validated.

    A judge without ``kind`` changes settings of the judge before; one with it takes that judge's place. So it is with
    writers and other rules. A threshold that was meant for the judge before is dropped, as it is where the judge's own
    is given.
    """
    found: dict[str, Any] = {}
    for each in map(_expanded, settings):
        judge, before = each.get("judge"), dict(found)
        found |= each
        for seam, default in DEFAULT_KINDS.items():
            own, old = each.get(seam), before.get(seam) or default
            if isinstance(own, Mapping) and "kind" not in own:
                found[seam] = {**({"kind": old} if isinstance(old, str) else dict(old)), **own}
        meant = judge is not None and (not isinstance(judge, Mapping) or {"kind", "threshold"} & judge.keys())
        if meant and each.get("threshold") is None:
            found["threshold"] = None
    return found


def _expanded(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings with what a strategy stands for in its place; what is said besides goes over it."""
    if settings.get("strategy") is None:
        return settings
    if (name := settings["strategy"]) not in STRATEGIES:
        raise ConfigError(f"there is no strategy {name!r}", hint=f"write {' or '.join(STRATEGIES)}")
    rest = {each: value for each, value in settings.items() if each != "strategy"}
    return layered(STRATEGIES[name], rest)


def read_config_file(path: Path) -> dict[str, Any]:
    """Settings from a TOML or JSON file (by its ending); nothing is validated but the form of the file."""
    try:
        text = path.read_text(encoding="utf-8")
        settings = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read config file {path}: {error.strerror}", hint="check the path") from None
    except UnicodeDecodeError:
        raise ConfigError(f"config file {path} is not UTF-8 text", hint="write it as TOML or JSON") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"config file {path} cannot be parsed: {error}", hint="write it as TOML or JSON") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"config file {path} holds a {type(settings).__name__}", hint="write name and value pairs")
    return settings


def working_file() -> Path | None:
    """`WORKING_FILE` where it lies in the working folder, and None where it does not."""
    return WORKING_FILE if WORKING_FILE.is_file() else None


def unknown_setting(name: str) -> str:
    """What is said of a setting that there is none of: what may be meant, and which there are."""
    meant = "".join(f"; did you mean {each!r}?" for each in get_close_matches(name, SpecReasonConfig.model_fields, n=1))
    return f"unknown setting {name!r}; known settings: {', '.join(SpecReasonConfig.model_fields)}{meant}"


def _explain(error: ValidationError) -> str:
    return "; ".join(_explain_one(detail) for detail in error.errors())


def _explain_one(detail: Any) -> str:
    name = ".".join(str(part) for part in detail["loc"]) or "config"
    if name in MOVED:
        return f"the setting {name!r} is now the judge's; write {MOVED[name]}"
    if detail["type"] == "extra_forbidden":
        return unknown_setting(name)
    if isinstance(problem := detail.get("ctx", {}).get("error"), NotKeptError):
        return f"{problem}; leave it out, or write it as a text"  # the value may be of any length and depth
    if detail["type"] == REFUSED:
        return str(detail["msg"])
    if not detail["loc"] and (problem := detail.get("ctx", {}).get("error")):  # of several settings together
        return str(problem)
    field = SpecReasonConfig.model_fields.get(name)
    meaning = f" ({field.description.rstrip('.')})" if field and field.description else ""
    return f"{name} = {detail['input']!r} is not allowed: {_lower(detail['msg'])}{meaning}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
