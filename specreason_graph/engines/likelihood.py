"""The likelihood of a continuation, from an engine that gives log-probabilities only of what it computes.

vLLM gives the log-probability of a prompt's token only if it has computed the token before it: of the tokens that it
finds in its prefix cache there is none. What is missing lies in front, and is asked for from the end on, with a prompt
that ends just before the last missing token.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from specreason_graph.engines.base import Engine, Likelihood, joined
from specreason_graph.engines.options import CallOptions
from specreason_graph.engines.retry import with_retries
from specreason_graph.errors import EngineAnswerError

READ_CACHE = "specreason_read_prefix_cache"
"""In ``vllm_xargs`` of a request with ``prompt_logprobs``: 1 lets it read the prefix cache (see vllm/scheduler.py)."""
PromptCall = Callable[[list[int], int | None], Awaitable[Likelihood]]
"""A call with a prompt and the token that must follow it, or None for any.

It returns the log-probabilities of as many of the last tokens as the engine has computed, the following one included.
"""


async def likelihood_of(
    engine: Engine, ask: PromptCall, prompt_ids: Sequence[int], continuation_ids: Sequence[int], options: CallOptions
) -> Likelihood:
    """Return the log-probabilities of a continuation, in as few calls as the cache allows.

    A prefix that ends at a block's end takes a second call, which computes that block again. A continuation that is
    cached takes one call more for each of its blocks. Each call makes the engine write one more token.
    """
    whole, count = joined(engine, prompt_ids, continuation_ids, spare=1), len(continuation_ids)

    async def asked(ids: list[int], following: int | None) -> Likelihood:
        return await with_retries(lambda: ask(ids, following), options)

    found = await asked(whole, None)
    while len(found.logprobs) < count:
        place = len(whole) - len(found.logprobs) - 1  # of the last token that is missing
        before = await asked(whole[:place], whole[place])
        found = Likelihood(before.logprobs + found.logprobs, found.usage + before.usage)
    return Likelihood(found.logprobs[-count:], found.usage)


def computed(rows: Sequence[Any] | None, ids: Sequence[int], cached: int, name: str) -> list[tuple[Any, int]]:
    """Return what vLLM gave for the prompt's tokens, each with its token, without those that it did not compute.

    ``rows``: None for the first token, then one row for each other token; some versions have no rows for tokens that
    were ``cached``, others have rows that hold anything. Raises `EngineAnswerError` where rows are missing.
    """
    given, wanted = rows or (), max(0, len(ids) - 1 - cached)
    if wanted and len(given) <= wanted:
        told = f"gave {max(0, len(given) - 1)} log-probabilities of the {wanted} tokens that it computed of the prompt"
        raise EngineAnswerError(f"{name} {told}", engine=name)
    return list(zip(given[len(given) - wanted :], ids[len(ids) - wanted :], strict=True))
