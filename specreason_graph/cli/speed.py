"""``specreason bench speed`` and ``specreason bench length``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specreason_graph.cli import options
from specreason_graph.errors import ConfigError
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.runs import Launch

if TYPE_CHECKING:
    from specreason_graph.bench.ways import Draft, Way

NAMES: dict[Draft, str] = {"given": "{}", "random": "{} with random weights"}
"""What a draft is called."""
PAPER = {"temperature": 0.6, "top_p": 0.95}
"""Sampling as in the paper (arXiv 2504.07891, section 5.1)."""

AtOnceOption = Annotated[list[int] | None, typer.Option("--concurrency", min=1, help="Runs at once; repeatable.")]
WayOption = Annotated[list[str] | None, typer.Option("--way", help="A way to measure beside base alone; repeatable.")]
ProblemsOption = Annotated[int, typer.Option(min=1, max=len(held_out()), help="Held-out problems of a repeat.")]
RepeatsOption = Annotated[int, typer.Option(min=1, help="How often each way runs them, all ways in turn.")]
CacheOption = Annotated[bool, typer.Option("--cache/--no-cache", help="Whether to look at the prefix caches, untimed.")]
StepsOption = Annotated[list[int] | None, typer.Option("--steps", min=1, help="Steps of a run; repeatable.")]


def speed(
    engine: options.EngineOption = "transformers",
    base: options.BaseOption = None,
    draft: options.DraftOption = None,
    base_url: options.BaseUrlOption = None,
    draft_url: options.DraftUrlOption = None,
    engine_options: options.EngineSetOption = None,
    settings: options.SetOption = None,
    problems: ProblemsOption = 100,
    repeats: RepeatsOption = 5,
    concurrency: AtOnceOption = None,
    ways: WayOption = None,
    cache: CacheOption = True,
    as_json: options.JsonOption = False,
) -> None:
    """How fast the loop is beside the base model alone, on the problems that the built-in models were not trained on.

    A server has no draft with random weights: serve one, name it with --draft-url, and read the row "adaptive".
    """
    from specreason_graph.bench.ways import choose, with_draft

    models = {"base": base, "draft": draft, "engine": engine, "base_url": base_url, "draft_url": draft_url}
    shared = {**PAPER, **options.parse_settings(settings)}
    launch, chosen = options.make_launch("", None, models, {}, engine_options), choose(ways)
    plan = {
        "problems": held_out()[:problems], "repeats": repeats, "settings": shared, "cache": cache,
        "tell": partial(typer.echo, err=True),
    }  # fmt: skip
    for name in _drafts(launch, chosen, by_name=bool(ways)):
        plan |= {"draft": name, "ways": with_draft(chosen, name)}
        _measure(launch, plan, concurrency or [1, 4, 16, 64], partial(_show, as_json=as_json))


def length(steps: StepsOption = None, as_json: options.JsonOption = False) -> None:
    """Whether a step costs the same however many came before it: scripted runs in memory and on SQLite."""
    from specreason_graph.bench.hardware import processor
    from specreason_graph.bench.length import SAVERS, measure_length
    from specreason_graph.bench.table import length_lines
    from specreason_graph.engines import cores

    rows = [measure_length(count, saver) for saver in SAVERS for count in sorted(steps or [100, 1000, 10_000])]
    if not as_json:
        typer.echo(f"{processor()}, {cores()} cores; scripted engines that take no time; durability sync")
    _show(rows, length_lines(rows), as_json=as_json)


def _measure(
    launch: Launch, plan: dict[str, Any], at_once: Sequence[int], show: Callable[[Sequence[Any], Iterable[str]], None]
) -> None:
    """Open the pair with one of the drafts, and print what is found as soon as it is."""
    from specreason_graph.bench.hardware import describe_hardware
    from specreason_graph.bench.speed import Bench
    from specreason_graph.bench.table import calibration_line, speed_lines

    with TemporaryDirectory() as folder, _with(launch, plan["draft"], Path(folder)).open_pair() as pair:
        hardware, bench = describe_hardware(pair, NAMES[plan["draft"]].format(launch.draft)), Bench(pair, **plan)
        show([hardware], [hardware.line()])
        for number in at_once:
            found = bench.measure(number)
            show([found.calibration, *found.rows], [calibration_line(found.calibration), *speed_lines(found.rows), ""])


def _drafts(launch: Launch, ways: Sequence[Way], *, by_name: bool) -> list[Draft]:
    """The drafts that the ways need; those that a server cannot have are left out, unless asked for by name."""
    from specreason_graph.bench.ways import with_draft

    if launch.engine != "server":
        return [draft for draft in NAMES if with_draft(ways, draft)]
    if by_name and with_draft(ways, "random"):
        raise ConfigError("a server's draft is not ours to change", hint="serve a bad draft and name its --draft-url")
    return ["given"]


def _with(launch: Launch, draft: Draft, folder: Path) -> Launch:
    """The launch with the draft given, or with one with random weights that is written to a folder."""
    if draft == "given":
        return launch
    from specreason_graph.bench.random_draft import write_random_draft

    write_random_draft(launch.draft, folder)
    return launch.model_copy(update={"draft": str(folder)})


def _show(records: Sequence[Any], lines: Iterable[str], *, as_json: bool) -> None:
    """One JSON line a record, or a table for people."""
    for line in (record.model_dump_json() for record in records) if as_json else lines:
        typer.echo(line)
