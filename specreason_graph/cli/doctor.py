"""``specreason doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from specreason_graph.cli import options
from specreason_graph.cli.diagnosis import CheckResult, Diagnosis, memory, verdict
from specreason_graph.cli.documents import Checks, say
from specreason_graph.cli.interrupt import AGAIN
from specreason_graph.cli.loading import Checking, opened, shown
from specreason_graph.cli.own_questions import read_own_questions, try_own_questions
from specreason_graph.cli.terminal import Coloured, echo, echo_text
from specreason_graph.config import make_config

COLOURS = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "failed": typer.colors.RED}


@options.takes_models
def doctor(
    models: options.ModelOptions,
    file: Annotated[
        Path | None,
        options.path_option(
            "-f", "--file", text="JSONL file with your own questions, and perhaps answers, to measure on."
        ),
    ] = None,
    judge: options.JudgeOption = None,
    more: options.SetOption = None,
    config: options.ConfigOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Check a pair: can the base judge steps, do the caches work, does drafting pay. Exit code 1 on a failure."""
    launch = models.launch("", config, options.with_judge(judge, options.parse_settings(more)))
    asked = read_own_questions(file) if file else []
    plan = launch.plan_memory()  # before the engines take the memory that the plan divides
    with opened(launch, interrupted=AGAIN) as pair, shown(Checking()):
        settings = make_config(**launch.settings)
        results = ([] if plan is None else memory(plan)) + pair.run(Diagnosis(pair, settings).results)
        if not any(result.name == "stopped" for result in results):
            results += try_own_questions(pair, settings, asked) if asked else []
            results.append(verdict(results))
    if as_json:
        say(Checks(results))
    else:
        for result in results:
            _show(result)
        _show_advice(results)
    if any(result.status == "failed" for result in results):
        raise typer.Exit(1)


def _show(result: CheckResult) -> None:
    echo(Coloured(f"{result.status:7}", COLOURS[result.status]), f" {result.name:14} {result.detail}")


def _show_advice(results: Sequence[CheckResult]) -> None:
    """Print what to change: what fails first, then what is only advised, each in the order of the checks."""
    advised = sorted((result for result in results if result.advice), key=lambda result: result.status != "failed")
    if advised:
        echo_text("\nWhat to change, in order:")
    for number, result in enumerate(advised, start=1):
        echo(f"  {number}. {result.advice} ({result.name})")
