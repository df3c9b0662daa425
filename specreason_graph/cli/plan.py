"""``specreason plan``: does speculation pay on a machine, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specreason_graph.cli import options
from specreason_graph.cli.documents import say
from specreason_graph.cli.terminal import echo

if TYPE_CHECKING:
    from specreason_graph.planning.plan import Plan, PlanRow
    from specreason_graph.planning.profile import RunProfile
    from specreason_graph.planning.strategies import Planned

HEAD = ("strategy", "at once", "accepted", "s a step", "times base", "pays from", "waits most for")

HardwareOption = Annotated[
    str | None, typer.Option("--hardware", metavar="NAME", help="The machine: h200, h100, l40s, a10, cpu2, ...")
]
BaseOption = Annotated[str | None, typer.Option("--base", metavar="NAME", help="The large model, as in qwen3-32b.")]
DraftOption = Annotated[str | None, typer.Option("--draft", metavar="NAME", help="The small model.")]
SpeculationOption = Annotated[
    str | None,
    typer.Option("--speculation", metavar="NAME", help="Token-level speculation of the base: eagle3 or ngram."),
]
StrategyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--strategy", metavar="NAME[:SETTING=VALUE,...]", help="A strategy to compare with the base; repeatable."
    ),
]
ConcurrencyOption = Annotated[
    list[int] | None, typer.Option("--concurrency", min=1, max=1024, help="Questions at the same time; repeatable.")
]
AcceptanceOption = Annotated[
    float | None, typer.Option("--acceptance", min=0, max=1, help="Share of the proposals that are accepted.")
]
FileOption = Annotated[
    Path | None,
    options.path_option("--config", text="TOML file with tables hardware, base, draft and speculation."),
]
RecordsOption = Annotated[
    str | None,
    typer.Option("--db", help="SQLite file or postgresql://... with runs, whose steps and acceptance are taken."),
]


def plan(
    hardware: HardwareOption = None,
    base: BaseOption = None,
    draft: DraftOption = None,
    speculation: SpeculationOption = None,
    acceptance: AcceptanceOption = None,
    db: RecordsOption = None,
    concurrency: ConcurrencyOption = None,
    strategy: StrategyOption = None,
    config: FileOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Predict what each strategy would give on a machine, without loading a model."""
    from specreason_graph.planning.descriptions import describe
    from specreason_graph.planning.plan import make_plan, published
    from specreason_graph.planning.strategies import COMPARED, parse_strategy

    described = describe(hardware=hardware, base=base, draft=draft, speculation=speculation, file=config)
    strategies = [each for each in map(parse_strategy, strategy or COMPARED) if each.name != "base"]
    found = make_plan(described, _profile(db, strategies), strategies, concurrency or [1], acceptance)
    if as_json:
        from specreason_graph.cli.plan_document import PlanDocument

        say(PlanDocument(**dict(found), described=described, published=published()))
        return
    for line in _lines(found):
        echo(line)


def _profile(db: str | None, strategies: list[Planned]) -> RunProfile:
    """The steps of a database, or those of public runs."""
    from specreason_graph.planning.profile import published_profile, read_profile

    return read_profile(db, [each.judge for each in strategies if each.judge]) if db else published_profile()


def _lines(found: Plan) -> list[str]:
    from specreason_graph.bench.table import aligned

    title = f"{found.base} with drafts of {found.draft} on {found.hardware}; a prediction"
    assumed = [f"  {line}" for line in found.assumptions]
    return [title, "", *aligned(HEAD, list(map(_row, found.rows))), "", "Assumed:", *assumed, "", found.advice]


def _row(row: PlanRow) -> list[str]:
    even = "" if row.break_even is None else ("never" if row.break_even > 1 else f"{row.break_even:.0%}")
    return [
        row.strategy, str(row.concurrency), "" if row.acceptance is None else f"{row.acceptance:.0%}",
        f"{row.seconds_a_step:.3g}", f"{row.times_base:.2f}", even,
        f"{row.dominant} {row.waits_for[row.dominant]:.0%}",
    ]  # fmt: skip
