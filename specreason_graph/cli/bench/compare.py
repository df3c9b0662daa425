"""``specreason bench compare``: whether a difference is real."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specreason_graph.cli import options
from specreason_graph.cli.bench.run import check_libraries
from specreason_graph.cli.documents import told
from specreason_graph.cli.terminal import echo, echo_json
from specreason_graph.errors import UsageError


def compare(
    first: Annotated[Path, typer.Argument(help="Results of bench run.")],
    second: Annotated[
        Path | None, typer.Argument(help="Other results of the same task; without them strategies of the first.")
    ] = None,
    strategy: Annotated[
        list[str] | None, typer.Option(help="A strategy to look at; all if not given; repeatable.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="The strategy of the first file that others are held against; base if not given.")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Say whether strategies, or two measurements of one, really differ in right answers and in time.

    Paired tests: McNemar's exact one for answers, a permutation of the sides for times; 95% intervals by a bootstrap.
    """
    check_libraries("bench compare")
    from specreason_graph.bench.compare import compare as compared
    from specreason_graph.bench.results import Results

    one, two = Results.read(first), Results.read(second) if second else None
    if two is None:
        origin = against or "base"
        names = strategy or [name for name in one.strategies if name != origin and one.runs(name)]
        found = [compared(one, origin, other=name) for name in names]
    elif against:
        found = [compared(one, against, two, name) for name in strategy or [against]]
    else:
        names = strategy or [name for name in one.strategies if one.runs(name) and two.runs(name)]
        found = [compared(one, name, two) for name in names]
    if not found:
        raise UsageError("there are no two sides to compare", hint="name strategies with --strategy and --against")
    if as_json:
        echo_json([told(each) for each in found])
        return
    for number, each in enumerate(found):
        if number:
            echo()
        for line in each.words():
            echo(line)
