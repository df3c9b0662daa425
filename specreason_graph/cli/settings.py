"""``specreason settings``: every setting of a run, with its default and meaning."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import Annotated, Any

import typer

from specreason_graph.cli.documents import SettingRow, SettingRows, say
from specreason_graph.cli.options import JsonOption
from specreason_graph.cli.terminal import echo, to_json
from specreason_graph.config import SpecReasonConfig
from specreason_graph.errors import ConfigError
from specreason_graph.strategy import Strategy, kinds

WIDTH = 100
"""Columns of the text."""
SEAMS = ("judge", "writer", "rollback", "stopping")
"""Settings that are of a kind, whose own settings stand behind a dot."""


def settings(
    words: Annotated[
        list[str] | None, typer.Argument(help="Show only settings whose name or meaning has these.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the settings that `--set NAME=VALUE` and config files take, with default and meaning."""
    found = [row for row in rows() if all(each.lower() in f"{row.name} {row.meaning}".lower() for each in words or ())]
    if not found:
        raise ConfigError(f"no setting has {' and '.join(map(repr, words or ()))}", hint="try another word, or none")
    if as_json:
        say(SettingRows(found))
        return
    for row in found:
        echo(f"{row.name} = {to_json(row.default)}")
        for line in wrap(row.meaning, WIDTH - 4):
            echo(f"    {line}")


def rows() -> Iterator[SettingRow]:
    """All settings, in the order of `SpecReasonConfig`."""
    for name, field in SpecReasonConfig.model_fields.items():
        default: Any = field.get_default(call_default_factory=True)
        meaning = " ".join((field.description or "").replace("``", "`").split())
        if name in SEAMS:
            meaning = f"{meaning} Kinds: {', '.join(kinds(name))}."
        yield SettingRow(name=name, default=default.kind if isinstance(default, Strategy) else default, meaning=meaning)
