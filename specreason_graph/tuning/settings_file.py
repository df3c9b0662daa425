"""The file of settings that a tuner writes: models and what was chosen, for commands and the chat model to pick up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from specreason_graph.config import ENGINE_TABLES, MODELS, NEVER, SpecReasonConfig, make_config, overridden
from specreason_graph.engines.redaction import public_url
from specreason_graph.errors import ConfigError
from specreason_graph.files import write_file
from specreason_graph.runs.launch import Launch
from specreason_graph.strategy import Strategy
from specreason_graph.tuning.choose import Choice

MARK = "# Written by specreason tune"
"""How such a file begins."""


def settings_text(launch: Launch, choice: Choice, about: str) -> str:
    """The file as TOML; ``about`` says in a line what it was tuned on."""
    try:
        import tomli_w
    except ImportError:
        raise ConfigError("tomli-w is not installed", hint="pip install 'specreason-graph[tune]'") from None
    settings = choice.chosen.candidate.settings if choice.chosen else {"first_steps_by_base": NEVER}
    config = overridden(make_config(**launch.settings), settings)
    models: dict[str, Any] = {name: value for name in MODELS if (value := getattr(launch, name)) is not None}
    models |= {name: public_url(models[name]) for name in ("base_url", "draft_url") if name in models}
    models |= {table: options for table in ENGINE_TABLES.values() if (options := getattr(launch, table))}
    lines = [re.sub(r"\s+", " ", line) for line in (f"{MARK}, on {about}.", f"# {choice.why}.")]
    return "\n".join(lines) + "\n\n" + tomli_w.dumps(_without_none({**changed(config), **models}))


def changed(config: SpecReasonConfig) -> dict[str, Any]:
    """The settings that are not at their defaults, as plain values."""
    default, plain = SpecReasonConfig().model_dump(mode="json"), config.model_dump(mode="json")
    found: dict[str, Any] = {}
    for name, value in plain.items():
        if value != default[name]:
            typed = getattr(config, name)
            found[name] = _changed_of(typed) if isinstance(typed, Strategy) else value
    return found


def _changed_of(strategy: Strategy) -> dict[str, Any]:
    """A judge, writer or rule: its kind, and what is not at its default."""
    plain = strategy.model_dump(mode="json")
    defaults = {
        name: field.get_default() for name, field in type(strategy).model_fields.items() if not field.is_required()
    }
    return {name: value for name, value in plain.items() if name == "kind" or defaults.get(name, ...) != value}


def _without_none(value: Any) -> Any:
    """Values as TOML has them: it knows no null."""
    if isinstance(value, dict):
        return {name: _without_none(each) for name, each in value.items() if each is not None}
    return [_without_none(each) for each in value if each is not None] if isinstance(value, list) else value


def write_settings(file: Path, text: str) -> Path | None:
    """Write the file; one that somebody else wrote is kept beside it, and its new name is returned."""
    kept = None
    if file.exists() and not file.read_text(encoding="utf-8", errors="replace").startswith(MARK):
        kept = file.with_name(f"{file.name}.before")
        file.replace(kept)
    write_file(file, text)
    return kept
