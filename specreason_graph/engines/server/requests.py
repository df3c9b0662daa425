"""Translation between the engine protocol and the requests and answers of a vLLM server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
from httpx_sse import EventSource

from specreason_graph.engines.base import Generation, Sampling, finish_of
from specreason_graph.errors import EngineDeadError

NEUTRAL = {
    "top_p": 1.0, "top_k": 0, "min_p": 0.0,
    "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip
"""What changes no sampling. A server takes a field that a request does not name from ``generation_config.json``."""
TOP = 20
"""How many of the likeliest tokens are asked for where the server gives no log-probabilities of chosen tokens."""


def sampling_fields(sampling: Sampling) -> dict[str, Any]:
    """Return sampling settings as fields of a completion request."""
    greedy = sampling.temperature == 0
    # vLLM refuses n above 1 at temperature 0, where all samples would be the same.
    return {
        **NEUTRAL, "n": 1 if greedy else sampling.n, "temperature": sampling.temperature, "seed": sampling.seed,
        "repetition_penalty": sampling.repetition_penalty,
        **({} if greedy else {"top_k": sampling.top_k, "min_p": sampling.min_p}),
        "top_p": 1.0 if greedy else sampling.top_p, "max_tokens": sampling.max_tokens, "stop": list(sampling.stop),
        "stop_token_ids": sorted(sampling.stop_token_ids), "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        **({"structured_outputs": {"json": json.loads(sampling.json_schema)}} if sampling.json_schema else {}),
    }  # fmt: skip


def scoring(candidates: Sequence[int], *, chosen: bool) -> dict[str, Any]:
    """Return the request fields for one greedy token with log-probabilities.

    ``chosen``: whether to ask for exactly the ``candidates``; else the likeliest tokens are asked for.
    """
    wanted = {"logprobs": len(candidates), "logprob_token_ids": list(candidates)} if chosen else {"logprobs": TOP}
    return {**NEUTRAL, "temperature": 0, "max_tokens": 1, "return_tokens_as_token_ids": True, **wanted}


async def events(response: httpx.Response, name: str) -> Any:
    """Yield the JSON documents of a streamed answer."""
    async for sent in EventSource(response).aiter_sse():
        if sent.data.strip() in ("", "[DONE]"):
            continue
        event = json.loads(sent.data)
        if "error" in event:  # the status code was sent before the error occurred
            raise EngineDeadError(f"{name}: {event['error']}", engine=name, retryable=True)
        yield event


def generation(choice: dict[str, Any], name: str, token_ids: list[int] | None = None) -> Generation:
    """Read one continuation from an answer; ``token_ids`` are given where they came in a stream."""
    ids = choice["token_ids"] if token_ids is None else token_ids
    return Generation(ids, finish_of(choice["finish_reason"], choice.get("stop_reason"), name))


def logprobs(choice: dict[str, Any]) -> dict[int, float]:
    """Return the log-probabilities of the first generated token, by token id."""
    # Tokens are named by id, as in "token_id:17", because two tokens may have the same text.
    top = ((choice.get("logprobs") or {}).get("top_logprobs") or [None])[0] or {}
    return {int(token.removeprefix("token_id:")): logprob for token, logprob in top.items()}


def cached_tokens(usage: dict[str, Any]) -> int:
    """Return how many prompt tokens were in the server's prefix cache; 0 where it does not count them."""
    return (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


def speculation(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the counts of token-level speculation.

    They are empty for several continuations, and for a server without ``--per-request-spec-decode-metrics``.
    """
    return (answer.get("metrics") or {}).get("speculative_decoding") or {}
