"""``specreason serve-engines``."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from specreason_graph.cli import options
from specreason_graph.cli.terminal import echo, echo_text
from specreason_graph.engines import locate, plan_pair, require, share_cores, vllm_options
from specreason_graph.errors import ConfigError


def serve_engines(
    base: Annotated[str, typer.Option(help="Base model: built-in name, folder or hub name.")] = "abacus-base",
    draft: Annotated[str, typer.Option(help="Draft model: built-in name, folder or hub name.")] = "abacus-draft",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    base_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the base model's server.")] = 8000,
    draft_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the draft model's server.")] = 8001,
    engine_options: options.EngineSetOption = None,
    only_print: Annotated[bool, typer.Option("--print", help="Print the two commands and start nothing.")] = False,
) -> None:
    """Serve a pair with two vLLM servers until interrupted; a server that dies is restarted.

    If SPECREASON_API_KEY is set, clients must send that key.
    """
    require("served", "vllm", "vllm", "httpx")
    from specreason_graph.engines.vllm.supervisor import server, watch

    tables = options.parse_engine_options(engine_options)
    chosen = vllm_options((tables["base_options"], tables["draft_options"]))
    if any(option.lora for option in chosen):
        raise ConfigError(
            "serve-engines does not serve LoRA adapters (option lora)",
            hint="serve a merged model, or start vLLM yourself with --lora-modules NAME=FOLDER and name the adapter to "
            "its callers: --option base.lora=NAME",
        )
    plan, chosen = plan_pair((base, draft), chosen), share_cores((base, draft), chosen)
    key = (os.environ.get("SPECREASON_API_KEY") or "").strip() or None  # clients strip it, too
    roles = [("base", base, base_port, plan.base), ("draft", draft, draft_port, plan.draft)]
    servers = [
        server(role, name, locate(name), option, share, host=host, port=port, key=key)
        for (role, name, port, share), option in zip(roles, chosen, strict=True)
    ][: 1 if base == draft else 2]  # one model in both roles needs one server
    if only_print:
        for each in servers:
            echo_text(each.line())
        return
    urls = " ".join(f"--{each.role}-url {each.url}" for each in servers)
    watch(servers, lambda: echo(f"ready: specreason solve --engine server --base {base} --draft {draft} {urls}"))
