"""Machines, models and token-level speculation as a plan sees them: a few numbers each, by name or from a file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from specreason_graph.config import read_config_file
from specreason_graph.errors import ConfigError
from specreason_graph.strategy import Settings

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]


class Hardware(Settings):
    """A machine that both models run on."""

    name: str
    """What it is, for people."""
    bandwidth: Positive
    """Bytes a second that a model can read from its memory, as the maker says; of several devices together."""
    flops: Positive
    """Floating-point operations a second in the models' number format, without sparsity, likewise."""
    memory: Positive
    """Bytes of memory for both models."""
    bandwidth_efficiency: Share = 0.75
    """Share of the bandwidth that decoding reaches."""
    flops_efficiency: Share = 0.5
    """Share of the operations that prefill reaches."""
    pass_seconds: Seconds = 0.0015
    """Seconds of a forward pass besides reading weights and computing: launches, sampling, scheduling."""
    call_seconds: Seconds = 0.004
    """Seconds of a call besides its passes: on the way to the engine and back."""
    stage_seconds: Seconds = 0.001
    """Seconds of CPU that this package takes for a stage of the loop, checkpoint included; three stages a drafted step.

    All runs share one process for it.
    """
    start_seconds: Seconds = 0.0
    """Seconds of that CPU for a question besides its steps."""
    slowdown: Annotated[float, Field(ge=1)] = 2.0
    """How many times as long a pass takes while the other model works as well; 1 where each has devices of its own."""
    cores: Annotated[int, Field(ge=1)] | None = None
    """CPU cores that models and this package share; None where the models run elsewhere."""
    block: Annotated[int, Field(ge=1)] = 16
    """Tokens of a block of the prefix cache; only whole blocks are found again."""
    batching: bool = True
    """Whether an engine works on several calls in one pass; else one generation at a time, scores in between."""
    slots: Annotated[int, Field(ge=1)] | None = None
    """Calls that an engine takes at once; None takes all."""


class Measured(Settings):
    """What was measured of a model on its machine; each figure is used in place of the computed one."""

    passes: dict[Annotated[int, Field(ge=1)], Positive] = Field(default_factory=dict)
    """Seconds of a decoding pass by sequences in it, as in ``{1: 0.023, 16: 0.027}``; others follow on lines."""
    prefill: Seconds | None = None
    """Seconds that each further token of a prompt adds to a pass."""
    call_seconds: Seconds | None = None
    """Seconds of a call besides its passes."""
    host_call: Seconds = 0.0
    """CPU seconds of ``call_seconds`` in the process of this package, which all runs share."""
    host_token: Seconds = 0.0
    """CPU seconds of that process for each token that is written, beside the engine's work."""
    logprobs: Seconds = 0.0
    """Seconds that a token takes longer where its log-probability is asked for, as for a judge of confidence."""
    likelihood: Seconds = 0.0
    """Seconds that the likelihood of a step takes longer than reading as many tokens."""


class Model(Settings):
    """A model as its machine sees it."""

    name: str
    """What it is, for people."""
    parameters: Positive
    """Number of parameters."""
    active: Positive | None = None
    """Parameters that one token uses, of a mixture of experts; None for all."""
    bytes_a_parameter: Positive = 2.0
    """Bytes of a parameter: 2 for bfloat16, 1 for FP8, about 0.55 for 4-bit formats with their scales."""
    kv_bytes: Annotated[float, Field(ge=0)] = 0.0
    """Bytes of the KV cache a token."""
    measured: Measured = Measured()
    """What was measured of it."""

    @property
    def size(self) -> float:
        """Bytes of its weights."""
        return self.parameters * self.bytes_a_parameter


class TokenSpeculation(Settings):
    """Token-level speculation inside an engine: how many tokens a round of guessing and checking gives."""

    name: str
    """Method, as in EAGLE-3."""
    guessed: Annotated[int, Field(ge=1)]
    """Tokens guessed a round."""
    tokens_a_round: Annotated[float, Field(ge=1)]
    """Tokens that a round gives on average, the engine's own included: its acceptance length."""
    round_cost: Annotated[float, Field(ge=1)] = 1.1
    """Seconds of a round over those of a plain pass, one sequence alone."""


class Described(Settings):
    """Everything that a plan is made for."""

    hardware: Hardware
    """The machine."""
    base: Model
    """The large model."""
    draft: Model
    """The small model."""
    speculation: TokenSpeculation
    """Token-level speculation under the base, for strategies that have it."""

    def check_fits(self) -> None:
        """`ConfigError` where the weights of both models are larger than the memory."""
        need = self.base.size + self.draft.size
        if need > self.hardware.memory:
            raise ConfigError(
                f"{self.base.name} and {self.draft.name} have {need / 1e9:.0f} GB of weights, and {self.hardware.name} "
                f"has {self.hardware.memory / 1e9:.0f} GB of memory",
                hint="name a larger machine, a smaller model, or fewer bytes_a_parameter in a file",
            )


T = TypeVar("T", bound=Settings)
TABLES: dict[str, tuple[str, type[Settings]]] = {
    "hardware": ("hardware", Hardware), "base": ("model", Model), "draft": ("model", Model),
    "speculation": ("speculation", TokenSpeculation),
}  # fmt: skip
"""What a file may describe: the kind of its presets, and its form."""
LIKE = "like"
"""Key of a table that names the preset which it changes."""


def shipped(name: str) -> dict[str, Any]:
    """What a data file of this package holds."""
    return tomllib.loads(files("specreason_graph.planning").joinpath(name).read_text(encoding="utf-8"))


def key_of(name: str) -> str:
    """The name of a preset as people write it: case, dots and an owner in front do not count."""
    return name.rpartition("/")[2].lower().replace(".", "-").replace("_", "-")


def describe(
    *, hardware: str | None = None, base: str | None = None, draft: str | None = None, speculation: str | None = None,
    file: Path | None = None,
) -> Described:  # fmt: skip
    """Put together what a plan is made for: presets by name, and a file's tables over them.

    A file has tables ``hardware``, ``base``, ``draft`` and ``speculation``; one with the key ``like`` changes some
    figures of the preset that it names. Raises `ConfigError` for names and figures that cannot be.
    """
    named = {"hardware": hardware, "base": base, "draft": draft, "speculation": speculation}
    given = read_config_file(file) if file else {}
    if unknown := sorted(given.keys() - TABLES.keys()):
        raise ConfigError(f"{file}: unknown table {unknown[0]!r}", hint=f"known tables: {', '.join(TABLES)}")
    found = {table: _described(table, named[table], given.get(table), file) for table in TABLES}
    described = Described(**found)
    described.check_fits()
    return described


def _described(table: str, name: str | None, own: Any, file: Path | None) -> dict[str, Any]:
    """The figures of one table: those of a preset, and a file's over them."""
    kind, form = TABLES[table]
    if own is not None and not isinstance(own, Mapping):
        raise ConfigError(f"{file}: {table} = {own!r} is not allowed", hint=f"write a table [{table}]")
    changes = dict(own or {})
    like = name or changes.pop(LIKE, None)
    changes.pop(LIKE, None)
    if like is None and not changes:
        like = {"speculation": "eagle3"}.get(table)
    if like is None and not changes:
        raise ConfigError(f"no {table} is named", hint=f"give --{table}, one of {', '.join(presets(kind))}, or a file")
    start = preset(kind, str(like), option=table) if like is not None else {}
    if "measured" in changes and isinstance(changes["measured"], Mapping):
        changes["measured"] = {**start.get("measured", {}), **changes["measured"]}
    try:
        return form.model_validate({**start, **changes}).model_dump()
    except ValidationError as error:
        raise ConfigError(f"{file or like}: {_problem(table, form, error)}") from None


def presets(kind: str) -> list[str]:
    """The names of what is known: of ``hardware``, ``model`` or ``speculation``."""
    return list(shipped("presets.toml")[kind])


def preset(kind: str, name: str, *, option: str | None = None) -> dict[str, Any]:
    """The figures of a preset; `ConfigError` with the known names for another one."""
    known = shipped("presets.toml")[kind]
    if (key := key_of(name)) not in known:
        raise ConfigError(
            f"--{option or kind} {name!r} is not known here; known: {', '.join(known)}",
            hint="or describe it in a file, see --config",
        )
    return dict(known[key])


def _problem(table: str, form: type[Settings], error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join((table, *map(str, first["loc"])))
    if first["type"] == "extra_forbidden":
        return f"unknown figure {where!r}; known: {', '.join(form.model_fields)}"
    if first["type"] == "missing":
        return f"{where} is missing; write it, or name a preset with {LIKE}"
    value = first["input"]
    shown = f"{value:g}" if isinstance(value, float) and isfinite(value) else repr(value)
    return f"{where} = {shown} is not allowed: {first['msg'][:1].lower()}{first['msg'][1:]}"
