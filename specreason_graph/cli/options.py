"""Options that several commands share, and the launch that they describe."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from pydantic import BaseModel

from specreason_graph.cli.terminal import echo
from specreason_graph.config import DEFAULT_KINDS, ENGINE_TABLES, SpecReasonConfig, working_file
from specreason_graph.engines import KINDS
from specreason_graph.engines.options import VLLMOptions
from specreason_graph.errors import ConfigError, QuestionError
from specreason_graph.prompting.conversation import refuse_unkept
from specreason_graph.runs.launch import BUILT_IN, Launch, check_found, make_launch, with_callers_word
from specreason_graph.strategy import kinds

MODELS, SETTINGS, KEEPING, OUTPUT, BATCH = "Models", "Settings", "Keeping", "Output", "Many questions"
"""Parts of a command's help."""
DATABASE_VARIABLE = "SPECREASON_DB"
"""Environment variable that names the database where no option does."""


def path_option(*names: str, text: str, part: str | None = None, variable: str | None = None) -> Any:
    """Return an option for a path; an empty one is refused, because `Path` would take it for the current folder.

    ``part``: of the command's help. ``variable``: an environment variable that gives the path where no option does.
    """
    return typer.Option(*names, parser=_path, metavar="PATH", help=text, rich_help_panel=part, envvar=variable)


def _path(given: str | Path) -> Path:
    if not str(given).strip():
        raise typer.BadParameter("it is empty; name a file, or leave the option out")
    if "://" in str(given):  # a folder `postgresql:` would be made
        raise typer.BadParameter("it is an address; name a file")
    return Path(given)


def choice_option(
    *names: str, choices: Sequence[str], text: str, default: str | None = None, part: str | None = None
) -> Any:
    """Return an option with choices that help and completion show; who uses the value says what is allowed."""
    return typer.Option(
        *names, metavar=f"[{'|'.join(choices)}]", help=text, rich_help_panel=part, show_default=default or True,
        autocompletion=lambda: list(choices),
    )  # fmt: skip


def setting_option(*names: str, setting: str, text: str, default: str | None = None) -> Any:
    """Return an option for a setting, whose default is the setting's own; ``default`` says what that means."""
    own = SpecReasonConfig.model_fields[setting].default
    shown = default or (f"{own:g}" if isinstance(own, float) else str(own))
    return typer.Option(*names, metavar="NUMBER", help=text, show_default=shown, rich_help_panel=SETTINGS)


def _model(*names: str, text: str, default: str | None = None, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=text, show_default=default or True, rich_help_panel=MODELS, metavar=metavar)


BaseOption = Annotated[
    str | None,
    _model("--base", text="Base model: built-in name, folder or hub name.", default=BUILT_IN["base"], metavar="MODEL"),
]
DraftOption = Annotated[
    str | None,
    _model(
        "--draft", text="Draft model: built-in name, folder or hub name.", default=BUILT_IN["draft"], metavar="MODEL"
    ),
]
EngineOption = Annotated[
    str | None, choice_option("--engine", choices=KINDS, text="Kind of engine.", default=KINDS[0], part=MODELS)
]
DeviceOption = Annotated[
    str | None,
    _model(
        "--device", text="Torch device, as in cpu or cuda:0.", default="the GPU where there is one", metavar="DEVICE"
    ),
]
DtypeOption = Annotated[
    str | None,
    _model(
        "--dtype", text="Number format, as in float32 or bfloat16.", default="by model and device", metavar="FORMAT"
    ),
]
BaseUrlOption = Annotated[str | None, _model("--base-url", text="URL of the base model's vLLM server.", metavar="URL")]
DraftUrlOption = Annotated[
    str | None, _model("--draft-url", text="URL of the draft model's vLLM server.", metavar="URL")
]
EngineSetOption = Annotated[
    list[str] | None,
    _model("--option", metavar="[ROLE.]NAME=VALUE", text="Engine option, as in base.tensor_parallel=2; repeatable."),
]
ConfigOption = Annotated[
    Path | None,
    path_option("--config", text="TOML or JSON file with settings and model names.", part=SETTINGS),
]
DatabaseOption = Annotated[
    Path | None,
    path_option(
        "--db", part=KEEPING, variable=DATABASE_VARIABLE,
        text="SQLite file that keeps the runs; if not given, that of `specreason runs path`.",
    ),
]  # fmt: skip
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document and nothing else.", rich_help_panel=OUTPUT)
]
JudgeOption = Annotated[
    str | None,
    typer.Option(
        "--judge", metavar="KIND", rich_help_panel=SETTINGS, show_default=DEFAULT_KINDS["judge"],
        help="Who says what a step is worth: digit, likelihood, confidence, cascade, ...; `specreason settings judge` "
        "lists all.", autocompletion=lambda: kinds("judge"),
    ),
]  # fmt: skip
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", rich_help_panel=SETTINGS, autocompletion=lambda: _names(SpecReasonConfig),
        help="Any other setting; repeatable. `specreason settings` lists them.",
    ),
]  # fmt: skip
TaskArgument = Annotated[
    str, typer.Argument(help="A JSONL file with one question per line, or abacus, or abacus-short.")
]
QuestionKeyOption = Annotated[
    str | None, typer.Option(metavar="KEY", help="Key of the question in a line.", show_default="question")
]
AnswerKeyOption = Annotated[
    str | None, typer.Option(metavar="KEY", help="Key of the right answer in a line.", show_default="answer")
]
ChoicesKeyOption = Annotated[
    str | None, typer.Option(metavar="KEY[,KEY...]", help="Key of the choices, or several keys of one each.")
]
IdKeyOption = Annotated[str | None, typer.Option(metavar="KEY", help="Key of a line's id; else lines are numbered.")]
TemplateOption = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Prompt with {KEY} for what a line holds; {question} asks it bare.")
]
GraderOption = Annotated[
    str | None, typer.Option(help="math, number, exact, choice, agreement or MODULE:FUNCTION; chosen if not given.")
]


def _names(model: type[BaseModel]) -> list[str]:
    return [f"{name}=" for name in model.model_fields]


@dataclass(frozen=True)
class ModelOptions:
    """Models and engines as given on the command line; None where an option is not given."""

    base: BaseOption = None
    draft: DraftOption = None
    engine: EngineOption = None
    device: DeviceOption = None
    dtype: DtypeOption = None
    base_url: BaseUrlOption = None
    draft_url: DraftUrlOption = None
    engine_options: EngineSetOption = None

    @property
    def named(self) -> dict[str, Any]:
        """The options that are given, as fields of a launch."""
        return {name: value for name, value in asdict(self).items() if name != "engine_options" and value is not None}

    def over(self, launch: Launch) -> Launch:
        """Put these models over a launch that a record holds."""
        return with_callers_word(launch, self.named, parse_engine_options(self.engine_options))

    def launch(self, question: str, config: Path | None = None, settings: dict[str, Any] | None = None) -> Launch:
        """Make a launch; without ``config`` a file in the working folder is picked up, and it says so."""
        own = parse_engine_options(self.engine_options)
        if config is None and (config := working_file()):
            names = check_found(config, self.named, own)
            echo(f"picked up {config}: {', '.join(names) or 'it is empty'}", err=True)
        return make_launch(question, config, self.named, settings, own)


def takes_models(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of `ModelOptions` in place of its parameter ``models``."""
    # Typer reads options from the signature of a function and has no groups of options: so the wrapper gets a
    # signature in which the fields of ModelOptions are parameters.
    hints = {**get_type_hints(command, include_extras=True), **get_type_hints(ModelOptions, include_extras=True)}
    own = [each for each in inspect.signature(command).parameters.values() if each.name != "models"]
    shared = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=None) for each in fields(ModelOptions)
    ]

    def wrapped(**given: Any) -> Any:
        models = ModelOptions(**{each.name: given.pop(each.name) for each in fields(ModelOptions)})
        return command(**given, models=models)

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [each.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[each.name]) for each in [*own, *shared]]
    )
    # Typer takes types from the annotations, which are texts: it would look their names up in this module.
    wrapped.__annotations__ = {each.name: hints[each.name] for each in [*own, *shared]}
    return wrapped


def read_question(question: str | None, file: Path | None) -> str:
    """Read the question from the argument, a file, or standard input.

    It is taken as it is, but for the one line end with which files and standard input end.
    """
    if question is not None and file is not None:
        raise QuestionError("a question and a file are given", hint="give one of them")
    if question is None:
        try:
            read = file.read_text(encoding="utf-8") if file else _standard_input()
            read.encode()  # raises for bytes that are no text, which Python may have let through
        except (OSError, UnicodeError) as error:
            cause = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise QuestionError(
                f"cannot read the question from {file or 'standard input'}: {cause}", hint="check the path"
            ) from None
        question = read.removesuffix("\n")
    if not question.strip():
        raise QuestionError("the question is empty", hint="give it as argument, with -f FILE or on standard input")
    refuse_unkept(question)
    return question


def _standard_input() -> str:
    if sys.stdin is None or sys.stdin.isatty():  # a terminal is not read: the command would seem to hang
        return ""
    return sys.stdin.read()


def parse_engine_options(pairs: list[str] | None) -> dict[str, dict[str, Any]]:
    """Read engine options from [ROLE.]NAME=VALUE pairs, by role; without a role they are for both engines."""
    tables: dict[str, dict[str, Any]] = {name: {} for name in ENGINE_TABLES.values()}
    for name, value in _pairs("--option", pairs, VLLMOptions.model_fields).items():
        role, dot, rest = name.partition(".")
        for table in [ENGINE_TABLES[role]] if dot and role in ENGINE_TABLES else ENGINE_TABLES.values():
            tables[table][rest if dot and role in ENGINE_TABLES else name] = value
    return tables


def parse_settings(pairs: list[str] | None) -> dict[str, Any]:
    """Read settings from NAME=VALUE pairs; a value that is no JSON is text.

    ``judge.NAME`` is a setting of the judge, ``judge.first.NAME`` one of a judge that it is made of, and so with
    ``writer.NAME`` and ``stopping.NAME``; ``ROLE.template.NAME`` is an argument of one model's chat template,
    ``template.NAME`` one of both.
    """
    settings: dict[str, Any] = {}
    for name, value in _pairs("--set", pairs, SpecReasonConfig.model_fields).items():
        first, dot, rest = name.partition(".")
        if first in DEFAULT_KINDS and (dot or isinstance(value, str)):
            _set_in(settings.setdefault(first, {}), rest or "kind", value, first)
            continue
        role, found, argument = name.rpartition("template.")
        if not found or role not in ("", *(f"{each}." for each in ENGINE_TABLES)):
            settings[name] = value
            continue
        for each in [role.rstrip(".")] if role else ENGINE_TABLES:
            settings.setdefault("template", {}).setdefault(each, {})[argument] = value
    return settings


def _set_in(table: Any, path: str, value: Any, within: str) -> None:
    """Set what a dotted name stands for in tables within each other."""
    first, dot, rest = path.partition(".")
    if not isinstance(table, dict):
        raise ConfigError(f"--set {within}...{path} is within a value that is no table", hint="set each name once")
    if dot:
        _set_in(table.setdefault(first, {}), rest, value, within)
    else:
        table[first] = value


def judge_of(kind: str | None, pairs: list[str] | None) -> Any:
    """The judge of ``--judge KIND`` and ``--set judge.NAME=VALUE``, as a setting; None where neither is given."""
    settings = with_judge(kind, parse_settings(pairs))
    if others := sorted(set(settings) - {"judge"}):
        raise ConfigError(f"--set {others[0]} is no setting of the judge", hint="write judge.NAME=VALUE")
    return settings.get("judge")


def with_judge(kind: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the judge of ``--judge KIND``."""
    if kind is None:
        return settings
    own = settings.get("judge", {})
    if not isinstance(own, dict) or "kind" in own:
        raise ConfigError("--judge and --set judge are given", hint="give one of them")
    return {**settings, "judge": {"kind": kind, **own}}


def _pairs(option: str, pairs: list[str] | None, known: Iterable[str]) -> dict[str, Any]:
    settings = {}
    for pair in pairs or ():
        name, joined, value = pair.partition("=")
        if not joined:
            raise ConfigError(f"{option} {pair!r} is not NAME=VALUE", hint=f"names: {', '.join(known)}")
        try:
            settings[name] = json.loads(value)
        except RecursionError:
            raise ConfigError(f"{option} {name} is nested too deeply", hint="write a flatter value") from None
        except ValueError:
            settings[name] = value
    return settings
