"""The requests to a vLLM server, and how long their answers may be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from specreason_graph.engines.base import Sampling
from specreason_graph.engines.likelihood import READ_CACHE

NEUTRAL = {
    "top_p": 1.0, "top_k": 0, "min_p": 0.0,
    "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip
"""What changes no sampling. A server takes a field that a request does not name from ``generation_config.json``."""
TOP = 20
"""How many of the likeliest tokens are asked for where the server gives no log-probabilities of chosen tokens."""
ANSWER_BYTES = 2**20
"""Longest answer whose length does not follow from the request."""
TOKEN_BYTES, PROMPT_TOKEN_BYTES, ROW_BYTES = 4096, 32, 1024
"""Most that an answer takes for a token: an event of a stream is some 300 bytes; the prompt is repeated as ids, and
where its log-probabilities are asked for each comes with the token's text."""


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
        "skip_special_tokens": False, **({} if sampling.logprobs is None else chosen_logprobs(sampling.logprobs)),
        **({"structured_outputs": {"json": json.loads(sampling.json_schema)}} if sampling.json_schema else {}),
    }  # fmt: skip


def scoring(candidates: Sequence[int], *, chosen: bool) -> dict[str, Any]:
    """Return the request fields for one greedy token with log-probabilities.

    ``chosen``: whether to ask for exactly the ``candidates``; else the likeliest tokens are asked for.
    """
    wanted = {"logprobs": len(candidates), "logprob_token_ids": list(candidates)} if chosen else {"logprobs": TOP}
    return {**NEUTRAL, "temperature": 0, "max_tokens": 1, "return_tokens_as_token_ids": True, **wanted}


def chosen_logprobs(top: int) -> dict[str, Any]:
    """Return the request fields for the log-probabilities of the generated tokens and of the ``top`` likeliest ones."""
    return {"logprobs": top, "return_tokens_as_token_ids": True}


def likelihood_fields(following: int | None) -> dict[str, Any]:
    """Return the request fields for the log-probabilities of a prompt's tokens and of the one ``following`` it, if any.

    Servers that `serve-engines` has started read the prefix cache for it (see vllm/scheduler.py); others take no notice
    of the last field, and compute the whole prompt.
    """
    forced = {} if following is None else {"allowed_token_ids": [following], **chosen_logprobs(0)}
    xargs = {"vllm_xargs": {READ_CACHE: 1}}
    return {**NEUTRAL, "temperature": 0, "max_tokens": 1, "prompt_logprobs": 0, **forced, **xargs}


def longest_answer(body: dict[str, Any]) -> int:
    """Return how many bytes the answer to a completion request may have."""
    row = PROMPT_TOKEN_BYTES + (ROW_BYTES if "prompt_logprobs" in body else 0)
    each = TOKEN_BYTES * body["max_tokens"] + row * len(body["prompt"])
    return int(ANSWER_BYTES + body.get("n", 1) * each)
