"""``specreason serve``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from specreason_graph.cli import options
from specreason_graph.cli.bench.run import check_libraries
from specreason_graph.cli.loading import opened
from specreason_graph.cli.screen import is_screen
from specreason_graph.cli.terminal import echo
from specreason_graph.config import make_config
from specreason_graph.errors import ConfigError
from specreason_graph.runs.store import RunStore, default_database

LIBRARIES = ("fastapi", "uvicorn", "prometheus_client")
"""What the extra ``serve`` brings."""


@options.takes_models
def serve(
    models: options.ModelOptions,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes one that is free.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="SPECREASON_API_KEY",
            metavar="KEY",
            help="Key that clients must send; better set in the environment, where others cannot read it.",
        ),
    ] = None,
    model_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the pair for clients; the base model's if not given.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests worked on at the same time.")] = 64,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; more are refused.")] = 256,
    body_bytes: Annotated[int, typer.Option(min=1, help="Largest body of a request, in bytes.")] = 4 * 2**20,
    judge: options.JudgeOption = None,
    more: options.SetOption = None,
    config: options.ConfigOption = None,
    db: options.DatabaseOption = None,
    no_keep: Annotated[
        bool,
        typer.Option("--no-keep", help="Keep nothing: no run can be audited.", rich_help_panel=options.KEEPING),
    ] = False,
    durability: Annotated[
        str,
        options.choice_option(
            "--durability",
            choices=("exit", "async", "sync"),
            part=options.KEEPING,
            text="When steps are kept: with the end of a run, while the next one begins, or before it.",
        ),
    ] = "exit",
) -> None:
    """Serve a pair to OpenAI clients until interrupted: POST /v1/chat/completions and GET /v1/models.

    Each reply names its thread, which `audit show THREAD` reads. /health and /metrics need no key.
    """
    check_libraries("serve", LIBRARIES, extra="serve")
    from specreason_graph.serving import ServeOptions, create_app
    from specreason_graph.serving.options import LOOPBACK, checked_durability
    from specreason_graph.serving.server import listen
    from specreason_graph.serving.server import serve as run

    if host not in LOOPBACK and not api_key:
        raise ConfigError(
            f"{host} can be reached from other machines, and there is no API key", hint="set SPECREASON_API_KEY"
        )
    launch = models.launch("", config, options.with_judge(judge, options.parse_settings(more)))
    launch.check_unattended()
    file = None if no_keep else db or default_database()
    if file:
        with RunStore.open(file):  # says what is wrong with it before the models are loaded
            pass
    chosen = ServeOptions(
        model_name=model_name, api_key=(api_key or "").strip() or None, concurrency=concurrency, queue=queue,
        body_bytes=body_bytes, hosts=LOOPBACK if host in LOOPBACK else (), database=file,
        durability=checked_durability(durability),
    )  # fmt: skip
    with listen(host, port) as listening:
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listening.getsockname()[1]}/v1"
        if not is_screen(err=True):  # there it is shown all the time
            echo(f"loading {launch.base} and {launch.draft}", err=True)
        with opened(launch) as pair:
            app = create_app(pair, config=make_config(**launch.settings), options=chosen)
            kept = f"runs are kept in {file}" if file else "runs are not kept"
            run(app, listening, partial(echo, f"ready: {url}   model {model_name or pair.base.name}   {kept}"))
