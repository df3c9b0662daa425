"""``specreason doctor``."""

from __future__ import annotations

import json

import typer

from specreason_graph.cli import options
from specreason_graph.config import make_config
from specreason_graph.diagnosis import Diagnosis, Finding
from specreason_graph.runs import Launch

COLOURS = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "failed": typer.colors.RED}


def doctor(
    base: options.BaseOption = None,
    draft: options.DraftOption = None,
    engine: options.EngineOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    more: options.SetOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Check a pair: does the judge see the steps, do the caches work, does drafting pay. Exit code 1 on a failure."""
    named = {"base": base, "draft": draft, "engine": engine, "device": device, "dtype": dtype}
    launch = Launch(question="", **{name: value for name, value in named.items() if value is not None})
    config = make_config(**options.parse_settings(more))
    with launch.open_pair() as pair:
        findings = pair.run(Diagnosis(pair, config).findings)
    if as_json:
        typer.echo(json.dumps([finding.dump() for finding in findings]))
    else:
        for finding in findings:
            _show(finding)
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(1)


def _show(finding: Finding) -> None:
    status = typer.style(f"{finding.status:7}", fg=COLOURS[finding.status])
    typer.echo(f"{status} {finding.name:13} {finding.detail}")
    if finding.advice:
        typer.echo(f"{'':21} -> {finding.advice}")
