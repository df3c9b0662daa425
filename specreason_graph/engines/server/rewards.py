"""A process reward model behind a server in vLLM's form: what it is asked, and how its answer is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import ConfigDict, FailFast, Field

from specreason_graph.engines.options import CallOptions
from specreason_graph.engines.redaction import Redactor
from specreason_graph.engines.retry import with_retries
from specreason_graph.engines.server.answers import Wire, read
from specreason_graph.engines.server.connection import API_KEY, Address, BoundedClient, Caller
from specreason_graph.errors import ConfigError, EngineAnswerError, EngineRequestError

REWARD_KEY = "SPECREASON_REWARD_KEY"
"""Environment variable with the reward server's key: its own, as the server may be somebody else's."""
NAME = "reward model"


class Rewarded(Wire):
    """What one text is worth."""

    model_config = ConfigDict(allow_inf_nan=False)
    data: list[list[float]] | list[float] | None = None
    """Of ``/pooling``: a row of classes for each step, or one row."""
    probs: list[float] | None = None
    """Of ``/classify``: one row."""

    @property
    def last_row(self) -> list[float]:
        """The classes of the last step; empty where there are none."""
        match self.data or self.probs:
            case [*_, list() as last]:
                return last
            case [*row]:
                return [value for value in row if isinstance(value, float)]
        return []


class Rewards(Wire):
    """The answer of either endpoint."""

    data: Annotated[list[Rewarded], FailFast(), Field(min_length=1, max_length=1)]
    """One entry, as one text was asked about."""


async def reward(
    url: str,
    endpoint: Literal["pooling", "classify"],
    model: str | None,
    question: str,
    reply: str,
    options: CallOptions,
) -> Sequence[float]:
    """The classes of the last step of ``reply``, as the model at ``url`` rates it."""
    address = Address.read(url)
    key = os.environ.get(REWARD_KEY, "").strip()
    if not (key.isascii() and (key.isprintable() or not key)):
        raise ConfigError(f"the key in {REWARD_KEY} holds characters that no header can", hint="use printable ASCII")
    redactor = Redactor([key])
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    body = {"messages": messages, **({"model": model} if model else {})}
    headers = {"accept-encoding": "identity", **({"authorization": f"Bearer {key}"} if key else {})}
    async with BoundedClient(base_url=address.url, timeout=options.timeout_seconds, headers=headers) as client:
        caller = Caller(NAME, client, options, redactor)
        try:
            raw = await with_retries(lambda: caller.request("POST", f"/{endpoint}", json=body), options)
        except EngineRequestError as error:
            error.hint = error.hint.replace(API_KEY, REWARD_KEY)
            raise
    row = read(Rewards, raw, NAME, redactor).data[0].last_row
    if not row:
        raise EngineAnswerError(f"{NAME} gave neither data nor probs", engine=NAME)
    return row
