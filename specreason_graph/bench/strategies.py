"""Strategies that are measured side by side: settings, and engines where they differ from those of the others."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from specreason_graph.config import ENGINE_TABLES, MODELS, NEVER, SpecReasonConfig, layered, make_config, overridden
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import ConfigError
from specreason_graph.record.records import Engine, Record
from specreason_graph.runs.launch import Launch
from specreason_graph.strategy import kinds

NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4, "prompt_lookup_min": 2}
"""Token-level speculation of vLLM that needs no other model."""


class Strategy(Record):
    """One way to answer the questions."""

    name: str
    """What it is called in tables."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Fields of `SpecReasonConfig`, put over those that all strategies share."""
    engines: dict[str, Any] = Field(default_factory=dict)
    """Models and engine options that differ, by their names in a config file; empty for those that all share."""
    alone: Engine | None = None
    """The model that writes everything by itself; None where both work together."""

    def launch(self, shared: Launch, question: str = "", seed: int = 0) -> Launch:
        """How a run of the strategy is launched, with the engines that it is given."""
        engines = self.engines_of(shared)
        if self.alone == "draft":
            of_draft = {"base": engines.draft, "base_options": engines.draft_options, "base_url": engines.draft_url}
            engines = engines.model_copy(update=of_draft)
        settings = overridden(self.config(shared), {"seed": seed}).model_dump(mode="json")
        return engines.model_copy(update={"question": question, "settings": settings})

    def config(self, shared: Launch) -> SpecReasonConfig:
        """The settings in force; what goes by the clock only where it is asked for, so that a table can be repeated."""
        given = make_config(**shared.settings)
        repeatable = {"speculation_control": False} if given.speculation_control is None else {}
        never = {"first_steps_by_base": NEVER} if self.alone else {}
        return overridden(given, repeatable, self.settings, never)

    def engines_of(self, shared: Launch) -> Launch:
        """The engines that must be open for it, with no question and no settings."""
        tables = {name: {**getattr(shared, name), **self.engines.get(name, {})} for name in ENGINE_TABLES.values()}
        texts = {name: value for name, value in self.engines.items() if name in MODELS}
        return shared.model_copy(update={"question": "", "settings": {}, **tables, **texts})

    def view(self, pair: EnginePair) -> EnginePair:
        """The pair as the strategy sees it, with estimates of its own: what it learns must not help another one."""
        return pair.view(base=self.alone or "base")


BASE = Strategy(name="base", alone="base")
"""The base alone: the same graph, and the draft is never asked."""
NAMED: dict[str, Strategy] = {
    each.name: each
    for each in (
        BASE,
        Strategy(name="draft", alone="draft"),
        Strategy(name="base-ngram", alone="base", engines={"base_options": {"speculative": NGRAM}}),
        Strategy(name="loop"),
        Strategy(name="paper", settings={"strategy": "paper"}),
        Strategy(
            name="cascade",
            settings={
                "judge": {"kind": "cascade", "first": "confidence", "low": -12.0, "high": -0.1, "then": "likelihood"}
            },
        ),
        Strategy(name="sequential", settings={"lookahead": 0}),
        Strategy(name="controlled", settings={"speculation_control": True}),
    )
}
"""Strategies by name; besides each kind of judge is one, as in ``likelihood``.

``loop``: with the settings that all share. ``base-ngram``: the base alone with vLLM's n-gram speculation.
"""
ALWAYS = ("base", "draft", "base-ngram")
"""Strategies that are measured whatever else is."""


def make_strategy(
    name: str, settings: Mapping[str, Any] | None = None, engines: Mapping[str, Any] | None = None, *, label: str = ""
) -> Strategy:
    """A named strategy, or the kind of a judge, with settings and engines put over it, under another name if wanted.

    Raises `ConfigError` for a name, a setting or a model field that is not known.
    """
    found = NAMED.get(name)
    if found is None:
        if name not in kinds("judge"):
            all_known = ", ".join(dict.fromkeys([*NAMED, *kinds("judge")]))
            raise ConfigError(f"there is no strategy {name!r}", hint=f"write one of {all_known}")
        found = Strategy(name=name, settings={"judge": {"kind": name}})
    tables = ENGINE_TABLES.values()
    if unknown := [key for key in engines or {} if key not in MODELS and key not in tables]:
        raise ConfigError(f"{unknown[0]!r} is no model field", hint=f"write one of {', '.join([*MODELS, *tables])}")
    merged = {**found.engines, **(engines or {})}
    for table in tables:
        if table in found.engines and table in (engines or {}):
            merged[table] = {**found.engines[table], **merged[table]}
    own = layered(found.settings, settings) if settings else found.settings
    return found.model_copy(update={"name": label or name, "settings": own, "engines": merged})


def read_strategies(file: Path) -> list[Strategy]:
    """Strategies from a TOML file: a table each, with settings, and ``as`` for the strategy it begins with.

    Without ``as`` a table called like a known strategy begins with that one, and any other with ``loop``.
    """
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read strategies from {file}: {error.strerror}", hint="check the path") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be parsed: {error}", hint="write TOML tables, as in [likelihood]") from None
    found = []
    for label, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{label} in {file} is no table", hint=f"write [{label}] and settings below it")
        as_known = label if label in NAMED or label in kinds("judge") else "loop"
        own = {key: value for key, value in table.items() if key != "as"}
        engines = {key: own.pop(key) for key in list(own) if key in (*MODELS, *ENGINE_TABLES.values())}
        found.append(make_strategy(str(table.get("as", as_known)), own, engines, label=label))
    return found


def with_always(strategies: Sequence[Strategy], *, only: bool = False) -> list[Strategy]:
    """The strategies with those that are always among them in front; with ``only`` that is the base alone.

    Raises `ConfigError` where two have one name.
    """
    names = [each.name for each in strategies]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"two strategies are called {twice!r}", hint="name one of them, as in mine=likelihood:...")
    if "base" in names and strategies[names.index("base")] != BASE:
        raise ConfigError("'base' is the base alone as it is", hint="name yours, as in mine=base:...")
    always = ALWAYS[:1] if only else ALWAYS
    return [*(NAMED[name] for name in always if name not in names or name == "base"),
            *(each for each in strategies if each.name != "base")]  # fmt: skip


def rotated(strategies: Sequence[Strategy], turns: int) -> list[Strategy]:
    """The strategies in another order for each number of turns, so that none always comes first or last."""
    first = turns % len(strategies)
    return [*strategies[first:], *strategies[:first]]
