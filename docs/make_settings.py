"""Writes what follows from the models that hold the settings: ``python docs/make_settings.py``.

That is ``settings.md``, and ``specreason_graph/settings.py`` with the same settings as keyword arguments for type
checkers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from specreason_graph.config import Band, SpecReasonConfig
from specreason_graph.engines.options import CallOptions, ServerOptions, VLLMOptions
from specreason_graph.strategy import Strategy, kinds, type_of

PAGE = Path(__file__).with_name("settings.md")
TYPED = Path(__file__).parents[1] / "specreason_graph/settings.py"
TYPED_START = '''\
"""Settings and engine options as keyword arguments, so that a type checker finds a misspelt one and editors list them.

Written by ``docs/make_settings.py`` from the models that check the values; change those and run it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from typing_extensions import TypedDict

from specreason_graph.config import Band
from specreason_graph.strategy import Judge, Rollback, Stopping, Writer


class RunSettings(TypedDict, total=False):
    """Settings of a run, as `SpecReasonConfig` takes them; what is not named has its default."""

    strategy: str
    """Settings under one name, which others go over."""
'''
TYPED_OPTIONS = '''

class EngineOptions(TypedDict, total=False):
    """Options of an engine in vLLM; a served one takes those of calls, and ``lora`` as a name that its server knows."""

'''
INTRODUCTION = """\
# Settings

<!-- Written by docs/make_settings.py. Change the models it reads, then run: python docs/make_settings.py -->

This page lists every setting of a run and every option of an engine: name, type, default and meaning. An unknown name
or a value out of range is refused.

```python
from specreason_graph import SpecReasonConfig, create_specreason, open_pair

question = "Zoe has 25 boxes with 18 coins in each box. Zoe sells 65 coins. How many coins does Zoe have now?"

with open_pair("abacus-base", "abacus-draft") as pair:
    graph = create_specreason(pair, threshold=8, seed=1).compile()  # for every call of the graph
    strict = SpecReasonConfig(threshold=9)  # for one call; the seed is still 1
    print(graph.invoke({"question": question}, context=strict)["answer"])
```

On the command line write `--set NAME=VALUE` with the value as JSON (`7.5`, `true`, `null`). The most used settings have
a flag of their own: see `specreason solve --help`. `--config FILE` reads settings from a TOML or JSON file. The types
and defaults below are Python's.
"""
RUN = {
    "Who writes, and what is enough": (
        "judge", "threshold", "writer", "rollback", "proposals", "first_steps_by_base", "review", "answer_by",
        "continue_without_draft",
    ),
    "Speed and deadlines": (
        "lookahead", "speculation_control", "deadline_seconds", "step_seconds", "threshold_floor",
    ),
    "Limits": (
        "stopping", "max_steps", "max_step_tokens", "min_step_tokens", "thinking_tokens", "answer_tokens",
        "repetition_limit",
    ),
    "Sampling": ("temperature", "top_p", "sampling", "seed"),
    "The answer": ("tools", "tool_choice", "parallel_tool_calls", "stop", "answer_schema"),
    "Form of the thinking": (
        "thinking", "template", "think_open", "think_close",
    ),
}  # fmt: skip
"""Settings of a run by what they are about; one that is named nowhere comes last, as `OTHER`."""
OTHER = "Other"
JUDGES = """\
## Judges

The setting `judge` is a kind, or a table with `kind` and the settings below; on the command line
`--judge likelihood --set judge.threshold=-6`. See [Judges](judges.md).
"""
WRITERS = """\
## Writers

The setting `writer` is a kind, or a table with `kind` and the settings below; on the command line
`--set writer=cues --set writer.steps=2`. It says when the base model writes the next step without the draft being
asked. `first_steps_by_base` goes first, and `speculation_control` has a say where the writer asks the draft.
"""
ROLLBACK = """\
## Rollback rules

The setting `rollback`, likewise: `--set rollback=collapse --set rollback.steps=5`. See
[Strategies](strategies.md#rollback).
"""
STOPPING = """\
## Stopping rules

The setting `stopping`, likewise: `--set stopping=settled`, or `--set stopping.kind=settled --set stopping.agree=4`.
"""
OPTIONS = """\
## Options of engines

An engine option belongs to an engine and not to a run. Write `--option NAME=VALUE` for both engines and
`--option base.NAME=VALUE` for one. A config file has the tables `base_options` and `draft_options`, and `open_pair`
takes `base_options={...}`. The embedded engine (`transformers`) takes no options. See [Engines](engines.md).
"""
SEAMS = {"Judge": "judge", "Writer": "writer", "Rollback": "rule", "Stopping": "rule"}
KINDS = {"number": "number", "integer": "whole number", "string": "text", "boolean": "bool", "object": "dict"}


def page() -> str:
    """The whole page."""
    seams = {"judge": JUDGES, "writer": WRITERS, "rollback": ROLLBACK, "stopping": STOPPING}
    strategies = [part for seam, introduction in seams.items() for part in (introduction, *_strategies(seam))]
    return "\n".join([INTRODUCTION, *_run(), *strategies, OPTIONS, *_options()])


def _run() -> Iterator[str]:
    yield "## Settings of a run\n"
    placed = {name for names in RUN.values() for name in names}
    other = tuple(name for name in SpecReasonConfig.model_fields if name not in placed)
    for title, names in [*RUN.items(), *([(OTHER, other)] if other else [])]:
        yield f"### {title}\n"
        yield _table(SpecReasonConfig, names)
        if "review" in names:
            yield 'The value of `review` is a band of scores, as in `{"low": 5, "high": 7.5}`:\n'
            yield _table(Band, tuple(Band.model_fields))


def _strategies(seam: str) -> Iterator[str]:
    for kind in kinds(seam):
        found = type_of(seam, kind)
        if not found.__module__.startswith("specreason_graph."):
            continue  # registered by whoever imports this module
        names = tuple(name for name, field in found.model_fields.items() if name != "kind" and field.description)
        yield f"### `{kind}`\n"
        yield f"{_first(found)}\n"
        if names:
            yield _table(found, names)


def _first(model: type[BaseModel]) -> str:
    """The first paragraph of a model's description."""
    return " ".join((model.__doc__ or "").partition("\n\n")[0].split()).replace("``", "`")


def _options() -> Iterator[str]:
    calls = tuple(CallOptions.model_fields)
    yield "### Calls, in `vllm` and `server`\n"
    yield _table(CallOptions, calls)
    yield "### Servers, in `server`\n"
    yield _table(ServerOptions, tuple(name for name in ServerOptions.model_fields if name not in calls))
    yield "### Engines, in `vllm` and `serve-engines`\n"
    yield _table(VLLMOptions, tuple(name for name in VLLMOptions.model_fields if name not in calls))


def typed() -> str:
    """The module of typed settings."""
    return TYPED_START + "".join(_typed(SpecReasonConfig)) + TYPED_OPTIONS + "".join(_typed(VLLMOptions))


def _typed(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        meaning = (field.description or "").replace("\n", "\n    ")
        yield f'    {name}: {_hint(field.annotation)}\n    """{meaning}"""\n'


def _hint(annotation: Any) -> str:
    """The type of what may be given for a field: a mapping or a kind may stand for what is made of it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _hint(inner[0])
    if origin in (UnionType, Union):
        return " | ".join(map(_hint, inner))
    if origin is Literal:
        return "Literal[" + ", ".join(f'"{each}"' for each in inner) + "]"
    if origin in (list, dict):
        return f"{origin.__name__}[{', '.join(map(_hint, inner))}]"
    if annotation is None or annotation is type(None):
        return "None"
    if isinstance(annotation, type) and issubclass(annotation, Strategy):
        return f"{annotation.__name__} | str | Mapping[str, Any]"
    if annotation is Band:
        return "Band | Mapping[str, float]"
    return str(annotation.__name__)


def _table(model: type[BaseModel], names: tuple[str, ...]) -> str:
    """One row a field."""
    fields, schema = model.model_fields, model.model_json_schema()["properties"]
    rows = [
        f"| `{name}` | {_kind(schema[name])} | {_default(fields[name])} | {_meaning(fields[name])} |" for name in names
    ]
    return "\n".join(["| name | type | default | meaning |", "|---|---|---|---|", *rows, ""])


def _kind(schema: Mapping[str, Any]) -> str:
    """What a field holds, in words."""
    if "anyOf" in schema:
        return " or ".join(_kind(each) for each in schema["anyOf"])
    if "const" in schema:
        return f'`"{schema["const"]}"`'
    if "enum" in schema:
        return " or ".join(f'`"{each}"`' for each in schema["enum"])
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if schema.get("title") in SEAMS:
        return SEAMS[schema["title"]]
    if "type" not in schema:
        return "not set"
    if schema["type"] == "object" and "additionalProperties" in schema:
        return "dict"
    if schema["type"] == "array":
        return f"list of {_kind(schema['items'])}s"
    return "`None`" if schema["type"] == "null" else KINDS[schema["type"]] + _range(schema)


def _range(schema: Mapping[str, Any]) -> str:
    """The allowed range, where there is one."""
    words = {"minimum": "from {:g}", "exclusiveMinimum": "above {:g}", "maximum": "up to {:g}"}
    return "".join(f" {form.format(schema[name])}" for name, form in words.items() if name in schema)


def _default(field: Any) -> str:
    """The default as Python writes it, whole numbers without a point."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Strategy):
        return f'`"{value.kind}"`'
    if isinstance(value, str):
        return f'`"{value}"`'
    return f"`{value:g}`" if isinstance(value, float) else f"`{value!r}`"


def _meaning(field: Any) -> str:
    return " ".join(field.description.split()).replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    TYPED.write_text(typed(), encoding="utf-8")
