"""How a run was started: question, models, engines and settings, kept so that its thread id is enough to go on."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast
from urllib.parse import urlsplit

from langgraph.checkpoint.base import BaseCheckpointSaver
from pydantic import BeforeValidator, Field, PlainSerializer

from specreason_graph.config import (
    ENGINE_TABLES,
    MODELS,
    SpecReasonConfig,
    layered,
    make_config,
    read_config_file,
)
from specreason_graph.engines import EnginePair, Kind, open_pair, plan_pair, vllm_options
from specreason_graph.engines.redaction import public_url
from specreason_graph.errors import ConfigError
from specreason_graph.graph import CompiledSpecReason, create_specreason
from specreason_graph.lookahead.step_sampler import StepSampler
from specreason_graph.prompting.conversation import check_known, read_conversation
from specreason_graph.record.manifest import with_todays_names
from specreason_graph.record.records import Record
from specreason_graph.record.signing import Signer
from specreason_graph.settings import EngineOptions

if TYPE_CHECKING:
    from specreason_graph.engines.vllm.memory import MemoryPlan

WHERE = {"device", "base_url", "draft_url"}
"""Fields of a launch that say where the models run, and not what they are."""
BUILT_IN = {"base": "abacus-base", "draft": "abacus-draft"}
"""The pair of the command line, where nobody names another."""


def _kept(url: str | None) -> str | None:
    return public_url(url) if url else url


Address = Annotated[str | None, PlainSerializer(_kept), Field(repr=False)]
"""Where a server is. A password, user name or query in it serves to connect, and is in nothing that is kept."""


class Launch(Record):
    """How a run was started."""

    question: str
    """What it thinks about."""
    base: str
    """Base model: a built-in name, a folder or a name on the hub."""
    draft: str
    """Draft model, likewise."""
    engine: str = "transformers"
    """Kind of engine."""
    device: str | None = None
    """Torch device; None chooses."""
    dtype: str | None = None
    """Number format; None chooses."""
    base_url: Address = None
    """Server of the base model, for the engine ``server``."""
    draft_url: Address = None
    """Server of the draft model; None lets the base draft for itself."""
    base_options: dict[str, Any] = Field(default_factory=dict)
    """Engine options of the base model, fields of `VLLMOptions`."""
    draft_options: dict[str, Any] = Field(default_factory=dict)
    """Engine options of the draft model."""
    settings: Annotated[dict[str, Any], BeforeValidator(with_todays_names)] = Field(default_factory=dict)
    """All fields of `SpecReasonConfig`, so that a later default does not change a run that is resumed."""

    def open_pair(self) -> EnginePair:
        """Load the engines."""
        options = [cast("EngineOptions", each) for each in (self.base_options, self.draft_options)]  # checked there
        return open_pair(
            self.base, self.draft, kind=cast("Kind", self.engine), device=self.device, dtype=self.dtype,
            base_url=self.base_url, draft_url=self.draft_url, base_options=options[0], draft_options=options[1],
        )  # fmt: skip

    def compile(
        self, pair: EnginePair, saver: BaseCheckpointSaver[Any] | None = None, *, accept_changes: bool = False
    ) -> CompiledSpecReason:
        """The graph of the run; ``accept_changes`` lets it go on with another set-up than it began with."""
        signer, config = Signer.from_environment(), make_config(**self.settings)
        graph = create_specreason(pair, config=config, signer=signer, accept_changes=accept_changes)
        return graph.compile(checkpointer=saver)

    @property
    def identity(self) -> dict[str, Any]:
        """What was asked of which models, as far as it is not the default; where they run does not count."""
        own = self.model_dump(mode="json", exclude=WHERE | {"settings"}, exclude_defaults=True)
        defaults = SpecReasonConfig().model_dump(mode="json")
        if self.settings.get("threshold") == make_config(**self.settings).judge.accepts_from:
            defaults["threshold"] = self.settings["threshold"]  # said, and the same as unsaid
        chosen = {name: value for name, value in self.settings.items() if defaults.get(name) != value}
        return own | {"settings": chosen, "drafts": bool(self.draft_url)}

    def check_unattended(self) -> None:
        """`ConfigError` when a human would be asked, and nobody could answer."""
        if make_config(**self.settings).review:
            raise ConfigError("review is set, and there is no human to be asked", hint="set it to null")

    def check_fits(self, pair: EnginePair) -> None:
        """`QuestionError` when the question does not fit the models."""
        StepSampler.create(pair, make_config(**self.settings)).check(read_conversation(self.question, None))

    def plan_memory(self) -> MemoryPlan | None:
        """How the engines would share the devices, where this package decides that."""
        if self.engine != "vllm":
            return None
        options = vllm_options((self.base_options, self.draft_options), self.dtype)
        return plan_pair((self.base, self.draft), options)


def make_launch(
    question: str,
    config: Path | None = None,
    models: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    engine_options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Launch:
    """A launch from a config file, overridden by what is named besides; None stands for what is not named.

    ``engine_options``: by table, ``base_options`` and ``draft_options``. `ConfigError` for what cannot be.
    """
    named = {**(models or {}), **(settings or {})}
    given = {name: value for name, value in named.items() if value is not None}
    merged = layered(read_config_file(config) if config else {}, given)
    chosen = BUILT_IN | {name: _text(name, merged.pop(name)) for name in MODELS if name in merged}
    tables = {name: _table(name, merged.pop(name, {})) for name in ENGINE_TABLES.values()}
    for name, options in (engine_options or {}).items():
        tables[name] |= options
    for role in ENGINE_TABLES:
        if Path(chosen[role]).expanduser().is_dir():  # kept whole, so that the run can be resumed from elsewhere
            chosen[role] = str(Path(chosen[role]).expanduser().resolve())
    settings = make_config(**merged).model_dump(mode="json")
    launch = Launch(question=question, settings=settings, **chosen, **tables)
    if question:
        check_known(launch.base, question)
    return launch


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{name} = {value!r} is not allowed", hint="write a text")
    return value


def _table(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{name} = {value!r} is not allowed", hint="write a table of engine options")
    return dict(value)


def check_found(file: Path, named: Mapping[str, Any], engine_options: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a config file names that was found in the working folder, and that nobody asked for.

    Whoever wrote it may be somebody else, as with a record: addresses on other machines, to which questions and keys
    would be sent, and vLLM's own arguments, which can load code, are used only when the caller names them.
    """
    found, missing = read_config_file(file), []
    for name in ("base_url", "draft_url"):
        if (url := found.get(name)) and name not in named and not _is_local(url):
            missing.append(f"--{name.replace('_', '-')} {public_url(str(url))}")
    for role, table in ENGINE_TABLES.items():
        own = engine_options.get(table, {})
        if isinstance(found.get(table), dict) and "arguments" in found[table] and "arguments" not in own:
            missing.append(f"--option {role}.arguments=...")
    if missing:
        raise ConfigError(
            f"{file} lies in the working folder and names addresses or arguments, which are not taken from it unasked",
            hint=f"if they are yours, add --config {file}, or {' '.join(missing)}",
        )
    return list(found)


def _is_local(url: Any) -> bool:
    """Whether an address is on this machine."""
    try:
        host = urlsplit(str(url)).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def with_callers_word(
    launch: Launch, named: Mapping[str, Any], engine_options: Mapping[str, Mapping[str, Any]]
) -> Launch:
    """A launch that a record holds, with what the caller names put over it.

    Whoever wrote the record may be somebody else: the addresses of servers, to which questions and keys are sent, and
    vLLM's own arguments, which can load code, are used only when the caller names them; else `ConfigError` says how.
    ``named``: fields of a launch. ``engine_options``: by table, ``base_options`` and ``draft_options``.
    """
    fields, kind = dict(named), named.get("engine", launch.engine)
    if kind != launch.engine:  # options of one kind of engine mean nothing to another
        launch = launch.model_copy(update={name: {} for name in ENGINE_TABLES.values()})
    missing = []
    for name in ("base_url", "draft_url"):
        recorded = getattr(launch, name)
        if recorded and kind == "server" and name not in fields:
            missing.append(f"--{name.replace('_', '-')} {public_url(recorded)}")
        elif kind != "server":
            fields[name] = None
    for role, table in ENGINE_TABLES.items():
        own = engine_options.get(table, {})
        fields[table] = {**getattr(launch, table), **own}
        if "arguments" in getattr(launch, table) and "arguments" not in own:
            missing.append(f"--option {role}.arguments=...")  # their values may be secret
    if missing:
        raise ConfigError(
            "the record of this run names addresses or arguments, which are not taken from a record alone",
            hint=f"if they are yours, add {' '.join(missing)}",
        )
    return launch.model_copy(update=fields)
