"""The answers of a vLLM server, each as one typed model; what does not fit it raises `EngineAnswerError` here.

Types are strict: true is no number, and 1.0 no token. Fields that are not read may hold anything.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from specreason_graph.engines.base import Generation, checked_logprob, finish_of
from specreason_graph.engines.redaction import Redactor
from specreason_graph.errors import EngineAnswerError

Count = Annotated[int, Field(ge=0, lt=2**53)]
Token = Annotated[int, Field(ge=0, lt=2**31)]
Name = Annotated[str, Field(min_length=1, max_length=500)]
TOKEN = re.compile(r"token_id:([0-9]{1,10})")
"""How a token is named by its id, because two tokens may have the same text."""


class Wire(BaseModel):
    """Base of all that is read from a server."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class PromptCounts(Wire):
    """Counts of a prompt's tokens."""

    cached_tokens: Count | None = None
    """Those found in the server's prefix cache; None where it does not count them."""


class Counts(Wire):
    """What a server counted in a call."""

    prompt_tokens_details: PromptCounts | None = None
    """More about the prompt."""


class SpeculationCounts(Wire):
    """What token-level speculation inside the server did in a call."""

    num_draft_tokens: Count = 0
    """Tokens it guessed."""
    num_accepted_draft_tokens: Count = 0
    """Guessed tokens that were right."""
    num_spec_tokens: Annotated[int, Field(ge=0, le=1000)] = 0
    """Most tokens that it guesses at once."""


class Metrics(Wire):
    """Figures of a call, from a server with ``--per-request-spec-decode-metrics``."""

    speculative_decoding: SpeculationCounts | None = None
    """Token-level speculation; None for several continuations."""


class Logprobs(Wire):
    """Log-probabilities."""

    top_logprobs: Annotated[list[dict[str, Any] | None], FailFast()] = Field(default_factory=list)
    """For each generated token those that were asked for, by their names."""


class Choice(Wire):
    """One continuation, or in a stream the next part of one."""

    index: Count = 0
    """Which of the continuations."""
    token_ids: list[Token] | None = Field(default=None, fail_fast=True)
    """Its tokens; in a stream those that are new."""
    finish_reason: str | None = None
    """Why it ended; in a stream None until then."""
    stop_reason: int | str | None = None
    """The stop string or token that ended it."""
    logprobs: Logprobs | None = None
    """Log-probabilities, where they were asked for."""


class Answer(Wire):
    """The answer to a completion request, or one event of its stream."""

    choices: Annotated[list[Choice], FailFast()] = Field(default_factory=list)
    """The continuations."""
    usage: Counts | None = None
    """What the call took; in a stream in the last event."""
    metrics: Metrics | None = None
    """Figures."""
    error: Any = None
    """What went wrong; in a stream the status code was sent before."""

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens in the server's prefix cache; None where it does not count them."""
        details = self.usage and self.usage.prompt_tokens_details
        return details.cached_tokens if details else None

    @property
    def speculation(self) -> SpeculationCounts | None:
        """Token-level speculation; None where the server does not tell."""
        return self.metrics.speculative_decoding if self.metrics else None


class Card(Wire):
    """A model that is served."""

    id: Name
    """Its name there."""
    root: Name | None = None
    """Where it was loaded from."""
    max_model_len: Annotated[int, Field(ge=2, lt=2**31)] | None = None
    """Longest prompt plus output, in tokens."""


class Models(Wire):
    """The answer to ``/v1/models``."""

    data: Annotated[list[Card], FailFast()]
    """The models."""


class Version(Wire):
    """The answer to ``/version``."""

    version: Name
    """The server's version."""


class Refusal(Wire):
    """The body of an answer whose status code is an error."""

    error: Any = None
    """The error in OpenAI's form, or its message."""


A = TypeVar("A", bound=Wire)


def read(kind: type[A], raw: bytes | str, name: str, redactor: Redactor) -> A:
    """Read an answer; `EngineAnswerError` names the field and the value that are wrong."""
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_context=False)[0]
    where = redactor.text(".".join(map(str, detail["loc"])), 100)
    what = f"{where} = {redactor.text(detail['input'], 60)}: {detail['msg']}" if where else detail["msg"]
    raise EngineAnswerError(f"{name} answered what is no completion: {what}", engine=name, hint=IN_BETWEEN) from None


IN_BETWEEN = "is there a proxy in between?"


def generations(choices: list[Choice], wanted: int, name: str) -> list[Generation]:
    """The continuations of an answer that should have ``wanted`` of them, in their order."""
    by_index = {choice.index: choice for choice in choices}
    if sorted(choice.index for choice in choices) != list(range(wanted)):
        given = ", ".join(str(choice.index) for choice in choices[:8])
        raise EngineAnswerError(f"{name} gave the continuations {given}; asked for were {wanted}", engine=name)
    return [_generation(by_index[index], name) for index in range(wanted)]


def _generation(choice: Choice, name: str) -> Generation:
    if choice.token_ids is None:
        raise EngineAnswerError(f"{name} gave no token ids", engine=name)
    return Generation(choice.token_ids, finish_of(choice.finish_reason, choice.stop_reason, name))


def logprobs(answer: Answer, name: str) -> dict[int, float]:
    """The log-probabilities of the first generated token, by token id; empty where there are none."""
    top = answer.choices[0].logprobs
    found = (top.top_logprobs[0] if top and top.top_logprobs else None) or {}
    read: dict[int, float] = {}
    for token, value in found.items():
        named = TOKEN.fullmatch(token)
        if named is None:
            raise EngineAnswerError(
                f"{name} names tokens in log-probabilities by their texts and not by their ids", engine=name
            )
        read[int(named[1])] = checked_logprob(value, name)
    return read
