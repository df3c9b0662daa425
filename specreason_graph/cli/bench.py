"""``specreason bench``: measurements of a pair of models on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specreason_graph.cli import bench_compare, bench_run, options
from specreason_graph.cli.terminal import echo, echo_json
from specreason_graph.errors import ConfigError
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.runs.launch import Launch

if TYPE_CHECKING:
    from specreason_graph.bench.scenarios import DraftKind, Scenario

NAMES: dict[DraftKind, str] = {"given": "{}", "random": "{} with random weights"}
"""Names of the drafts in the output; ``{}`` is the draft model."""
PAPER = {"temperature": 0.6, "top_p": 0.95}
"""Sampling as in the paper (arXiv 2504.07891, section 5.1)."""

ConcurrencyOption = Annotated[
    list[int] | None, typer.Option("--concurrency", min=1, help="Runs at the same time; repeatable.")
]
ScenarioOption = Annotated[
    list[str] | None, typer.Option("--scenario", help="A scenario to measure besides base only; repeatable.")
]
ProblemsOption = Annotated[int, typer.Option(min=1, max=len(held_out()), help="Held-out problems per repeat.")]
RepeatsOption = Annotated[int, typer.Option(min=1, help="How often each scenario solves the problems.")]


app = typer.Typer(help="Measure a pair on this machine.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Measure a pair on this machine."""


app.command("run")(bench_run.run)
app.command("compare")(bench_compare.compare)


@app.command()
@options.takes_models
def speed(
    models: options.ModelOptions,
    settings: options.SetOption = None,
    problems: ProblemsOption = 100,
    repeats: RepeatsOption = 5,
    concurrency: ConcurrencyOption = None,
    scenarios: ScenarioOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Compare the speed of the loop with that of the base model alone, on problems that no built-in model has seen.

    Scenarios with a bad draft need a draft with random weights, which a server cannot load: serve one, name it with
    --draft-url, and read the row "adaptive".
    """
    from specreason_graph.bench.scenarios import choose, with_draft

    shared = {**PAPER, **options.parse_settings(settings)}
    launch, chosen = models.launch(""), choose(scenarios)
    plan = {
        "problems": held_out()[:problems], "repeats": repeats, "settings": shared,
        "report": partial(echo, err=True),
    }  # fmt: skip
    for name in _drafts(launch, chosen, by_name=bool(scenarios)):
        plan |= {"draft": name, "scenarios": with_draft(chosen, name)}
        _measure(launch, plan, concurrency or [1, 4, 16, 64], partial(_show, as_json=as_json))


def _measure(
    launch: Launch,
    plan: dict[str, Any],
    concurrencies: Sequence[int],
    show: Callable[[Sequence[Any], Iterable[str]], None],
) -> None:
    """Open the pair with one of the drafts, and print each result as soon as it is there."""
    from specreason_graph.bench.hardware import describe_hardware
    from specreason_graph.bench.speed import SpeedBenchmark
    from specreason_graph.bench.table import calibration_line, speed_lines

    with TemporaryDirectory() as folder, _with(launch, plan["draft"], Path(folder)).open_pair() as pair:
        hardware, bench = (
            describe_hardware(pair, NAMES[plan["draft"]].format(launch.draft)),
            SpeedBenchmark(pair, **plan),
        )
        show([hardware], [hardware.line()])
        for number in concurrencies:
            found = bench.measure(number)
            show([found.calibration, *found.rows], [calibration_line(found.calibration), *speed_lines(found.rows), ""])


def _drafts(launch: Launch, scenarios: Sequence[Scenario], *, by_name: bool) -> list[DraftKind]:
    """Return the drafts that the scenarios need; a server has only its own."""
    from specreason_graph.bench.scenarios import with_draft

    if launch.engine != "server":
        return [draft for draft in NAMES if with_draft(scenarios, draft)]
    if by_name and with_draft(scenarios, "random"):
        raise ConfigError("a server's draft is not ours to change", hint="serve a bad draft and name its --draft-url")
    return ["given"]


def _with(launch: Launch, draft: DraftKind, folder: Path) -> Launch:
    """Return the launch with the given draft, or with one of random weights that is written to ``folder``."""
    if draft == "given":
        return launch
    from specreason_graph.bench.random_draft import write_random_draft

    write_random_draft(launch.draft, folder)
    return launch.model_copy(update={"draft": str(folder)})


def _show(records: Sequence[Any], lines: Iterable[str], *, as_json: bool) -> None:
    """Print one JSON line per record, or a table for people."""
    if as_json:
        for record in records:
            echo_json(record.dump())
        return
    for line in lines:
        echo(line)
