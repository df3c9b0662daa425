"""The answers of a vLLM server, each as one typed model; what does not fit it raises `EngineAnswerError` here.

Types are strict: true is no number, and 1.0 no token. Fields that are not read may hold anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from specreason_graph.engines.base import Generation, checked_logprob, checked_logprobs, entropy_of, finish_of
from specreason_graph.engines.likelihood import computed
from specreason_graph.engines.redaction import Redactor
from specreason_graph.errors import EngineAnswerError, EngineError

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
    """Log-probabilities of generated tokens; in a stream of those that are new."""

    tokens: Annotated[list[str], FailFast()] = Field(default_factory=list)
    """The names of the tokens."""
    token_logprobs: Annotated[list[Any], FailFast()] = Field(default_factory=list)
    """For each its own log-probability."""
    top_logprobs: Annotated[list[dict[str, Any] | None], FailFast()] = Field(default_factory=list)
    """For each those that were asked for, by their names."""

    def extend(self, more: Logprobs) -> None:
        """Add those of a stream's next part."""
        self.tokens.extend(more.tokens)
        self.token_logprobs.extend(more.token_logprobs)
        self.top_logprobs.extend(more.top_logprobs)


class PromptLogprob(Wire):
    """The log-probability of a token of the prompt."""

    logprob: Any
    """Natural logarithm of the probability."""


PromptRow = dict[str, PromptLogprob] | None
"""The log-probabilities at one place of the prompt, by token id."""


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
    prompt_logprobs: list[PromptRow] | None = Field(default=None, fail_fast=True)
    """Those of the prompt's tokens, where they were asked for; None for the first token."""


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
    parent: Name | None = None
    """The model that it adapts, where it is a LoRA adapter."""
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


def generations(choices: list[Choice], wanted: int, name: str, top: int | None = None) -> list[Generation]:
    """The continuations of an answer that should have ``wanted`` of them, in their order.

    ``top``: the likeliest tokens whose log-probabilities were asked for; None where none were.
    """
    by_index = {choice.index: choice for choice in choices}
    if sorted(choice.index for choice in choices) != list(range(wanted)):
        given = ", ".join(str(choice.index) for choice in choices[:8])
        raise EngineAnswerError(f"{name} gave the continuations {given}; asked for were {wanted}", engine=name)
    return [_generation(by_index[index], name, top) for index in range(wanted)]


def _generation(choice: Choice, name: str, top: int | None) -> Generation:
    if choice.token_ids is None:
        raise EngineAnswerError(f"{name} gave no token ids", engine=name)
    made = Generation(choice.token_ids, finish_of(choice.finish_reason, choice.stop_reason, name))
    if top is None:
        return made
    told = replace(made, logprobs=chosen(choice, name))
    return replace(told, entropies=_entropies(choice, top, name)) if top else told


def chosen(choice: Choice, name: str) -> list[float]:
    """The log-probability of each generated token; `EngineAnswerError` where one is missing or of another token."""
    told, ids = choice.logprobs or Logprobs(), choice.token_ids or []
    if [_id(token, name) for token in told.tokens] != ids:
        raise EngineAnswerError(f"{name} gave log-probabilities of other tokens than it generated", engine=name)
    return checked_logprobs(told.token_logprobs, len(ids), name)


def _entropies(choice: Choice, top: int, name: str) -> list[float]:
    """The entropy at each generated token, of the ``top`` likeliest ones and the rest."""
    rows = choice.logprobs.top_logprobs if choice.logprobs else []
    given = [[checked_logprob(value, name) for value in (row or {}).values()] for row in rows]
    return [entropy_of(sorted(each, reverse=True)[:top]) for each in given]


def prompt_logprobs(choice: Choice, ids: Sequence[int], cached: int, name: str) -> list[float]:
    """The log-probabilities of the last tokens of a prompt: of those that the server has computed.

    ``cached``: tokens in its prefix cache. Raises `EngineError` where the server gives none.
    """
    if choice.prompt_logprobs is None:
        raise EngineError(f"{name} gives no log-probabilities of a prompt's tokens", engine=name, hint=WITHOUT)
    found = []
    for row, token in computed(choice.prompt_logprobs, ids, cached, name):
        entry = (row or {}).get(str(token))
        found.append(checked_logprob(entry and entry.logprob, name))
    return found


WITHOUT = "choose a judge that works without: confidence or digit"
"""What to do about a server that gives no log-probabilities of a prompt's tokens."""


def logprobs(answer: Answer, name: str) -> dict[int, float]:
    """The log-probabilities of the first generated token, by token id; empty where there are none."""
    top = answer.choices[0].logprobs
    found = (top.top_logprobs[0] if top and top.top_logprobs else None) or {}
    return {_id(token, name): checked_logprob(value, name) for token, value in found.items()}


def _id(token: str, name: str) -> int:
    """The id in a token's name."""
    named = TOKEN.fullmatch(token)
    if named is None:
        raise EngineAnswerError(
            f"{name} names tokens in log-probabilities by their texts and not by their ids", engine=name
        )
    return int(named[1])
