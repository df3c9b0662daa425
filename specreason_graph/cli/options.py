"""Options that several commands share, and how they become a launch."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from specreason_graph.config import SpecReasonConfig, make_config, read_config_file
from specreason_graph.engines.options import VLLMOptions
from specreason_graph.errors import ConfigError, QuestionError
from specreason_graph.runs import Launch

TEXTS = ("base", "draft", "engine", "device", "dtype", "base_url", "draft_url")
"""Fields of a launch that are texts."""
TABLES = {"base": "base_options", "draft": "draft_options"}
"""Fields of a launch that hold engine options, by role."""

BaseOption = Annotated[str | None, typer.Option("--base", help="Base model: built-in name, folder or hub name.")]
DraftOption = Annotated[str | None, typer.Option("--draft", help="Draft model, likewise.")]
EngineOption = Annotated[str | None, typer.Option("--engine", help="Kind of engine: transformers, vllm or server.")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="Torch device, as in cpu or cuda:0.")]
DtypeOption = Annotated[str | None, typer.Option("--dtype", help="Number format, as in float32 or bfloat16.")]
BaseUrlOption = Annotated[str | None, typer.Option("--base-url", help="vLLM server of the base model.")]
DraftUrlOption = Annotated[str | None, typer.Option("--draft-url", help="vLLM server of the draft model.")]
EngineSetOption = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="[ROLE.]NAME=VALUE", help="Engine option, as in base.tensor_parallel=2."),
]
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


def make_launch(
    question: str,
    config: Path | None,
    models: dict[str, Any],
    settings: dict[str, Any],
    engine_options: list[str] | None = None,
) -> Launch:
    """A launch from the config file, overridden by what the command line names (None: not named)."""
    merged = read_config_file(config) if config else {}
    merged |= {name: value for name, value in (models | settings).items() if value is not None}
    chosen = {name: _text(name, merged.pop(name)) for name in TEXTS if name in merged}
    tables = {name: _table(name, merged.pop(name, {})) for name in TABLES.values()}
    for name, options in parse_engine_options(engine_options).items():
        tables[name] |= options
    for role in ("base", "draft"):
        if role in chosen and Path(chosen[role]).expanduser().is_dir():
            chosen[role] = str(Path(chosen[role]).expanduser().resolve())
    launch = Launch(question=question, settings=make_config(**merged).model_dump(mode="json"), **chosen, **tables)
    if question:
        launch.check_known()
    return launch


def parse_engine_options(pairs: list[str] | None) -> dict[str, dict[str, Any]]:
    """Engine options from [ROLE.]NAME=VALUE pairs, by table; without a role they are for both."""
    tables: dict[str, dict[str, Any]] = {name: {} for name in TABLES.values()}
    for name, value in _pairs("--option", pairs, VLLMOptions.model_fields).items():
        role, dot, rest = name.partition(".")
        for table in [TABLES[role]] if dot and role in TABLES else TABLES.values():
            tables[table][rest if dot and role in TABLES else name] = value
    return tables


def parse_settings(pairs: list[str] | None) -> dict[str, Any]:
    """Settings from NAME=VALUE pairs; values are JSON where they can be, else text."""
    return _pairs("--set", pairs, SpecReasonConfig.model_fields)


def _pairs(option: str, pairs: list[str] | None, known: Iterable[str]) -> dict[str, Any]:
    settings = {}
    for pair in pairs or ():
        name, joined, value = pair.partition("=")
        if not joined:
            raise ConfigError(f"{option} {pair!r} is not NAME=VALUE", hint=f"names: {', '.join(known)}")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{name} = {value!r} is not allowed", hint="write a text")
    return value


def _table(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{name} = {value!r} is not allowed", hint="write a table of engine options")
    return dict(value)
