"""Options that several commands share, and how they become a launch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from specreason_graph.config import SpecReasonConfig, make_config, read_config_file
from specreason_graph.errors import ConfigError, QuestionError
from specreason_graph.models.abacus.problems import knows
from specreason_graph.runs import Launch

LAUNCH_FIELDS = ("base", "draft", "engine", "device", "dtype")

BaseOption = Annotated[str | None, typer.Option("--base", help="Base model: built-in name, folder or hub name.")]
DraftOption = Annotated[str | None, typer.Option("--draft", help="Draft model, likewise.")]
EngineOption = Annotated[str | None, typer.Option("--engine", help="Kind of engine: transformers.")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="Torch device, as in cpu or cuda:0.")]
DtypeOption = Annotated[str | None, typer.Option("--dtype", help="Number format, as in float32 or bfloat16.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML or JSON file with settings and model names.")]
DatabaseOption = Annotated[Path | None, typer.Option("--db", help="SQLite file that keeps the runs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other setting.")]


def read_question(question: str | None, file: Path | None) -> str:
    """The question from the argument, a file, or standard input."""
    if question is not None and file is not None:
        raise QuestionError("a question and a file are given", hint="give one of them")
    if question is None:
        try:
            question = file.read_text(encoding="utf-8") if file else "" if sys.stdin.isatty() else sys.stdin.read()
        except (OSError, UnicodeDecodeError) as error:
            cause = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise QuestionError(
                f"cannot read the question from {file or 'standard input'}: {cause}", hint="check the path"
            ) from None
    if not question.strip():
        raise QuestionError("the question is empty", hint="give it as argument, with -f FILE or on standard input")
    return question.strip()


def make_launch(question: str, config: Path | None, models: dict[str, Any], settings: dict[str, Any]) -> Launch:
    """A launch from the config file, overridden by what the command line names (None: not named)."""
    merged = read_config_file(config) if config else {}
    merged |= {name: value for name, value in (models | settings).items() if value is not None}
    chosen = {name: _text(name, merged.pop(name)) for name in LAUNCH_FIELDS if name in merged}
    for role in ("base", "draft"):
        if role in chosen and Path(chosen[role]).expanduser().is_dir():
            chosen[role] = str(Path(chosen[role]).expanduser().resolve())
    launch = Launch(question=question, settings=make_config(**merged).model_dump(mode="json"), **chosen)
    _check_known(launch)
    return launch


def parse_settings(pairs: list[str] | None) -> dict[str, Any]:
    """Settings from NAME=VALUE pairs; values are JSON where they can be, else text."""
    settings = {}
    for pair in pairs or ():
        name, joined, value = pair.partition("=")
        if not joined:
            raise ConfigError(
                f"--set {pair!r} is not NAME=VALUE", hint=f"names: {', '.join(SpecReasonConfig.model_fields)}"
            )
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{name} = {value!r} is not allowed", hint="write a text")
    return value


def _check_known(launch: Launch) -> None:
    if launch.base == "abacus-base" and not knows(launch.question):
        raise QuestionError(
            "the built-in models only do arithmetic word problems of the kind `specreason solve --example` draws",
            hint="name real models with --base MODEL --draft MODEL, each a folder or a Hugging Face name",
        )
