"""``specreason doctor``."""

from __future__ import annotations

import json

import typer

from specreason_graph.cli import options
from specreason_graph.config import make_config
from specreason_graph.diagnosis import Diagnosis, Finding, memory

COLOURS = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "failed": typer.colors.RED}


def doctor(
    base: options.BaseOption = None,
    draft: options.DraftOption = None,
    engine: options.EngineOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    base_url: options.BaseUrlOption = None,
    draft_url: options.DraftUrlOption = None,
    engine_options: options.EngineSetOption = None,
    more: options.SetOption = None,
    config: options.ConfigOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Check a pair: does the judge see the steps, do the caches work, does drafting pay. Exit code 1 on a failure."""
    models = {
        "base": base, "draft": draft, "engine": engine, "device": device, "dtype": dtype, "base_url": base_url,
        "draft_url": draft_url,
    }  # fmt: skip
    launch = options.make_launch("", config, models, options.parse_settings(more), engine_options)
    plan = launch.plan_memory()
    with launch.open_pair() as pair:
        findings = ([] if plan is None else memory(plan)) + pair.run(
            Diagnosis(pair, make_config(**launch.settings)).findings
        )
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
