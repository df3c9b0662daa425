"""The engine protocol: token ids in, token ids out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, Self

from specreason_graph.errors import ContextLimitError, EngineDeadError, EngineError
from specreason_graph.record.manifest import EngineDescription
from specreason_graph.record.records import Usage

Message = dict[str, Any]
"""A chat message as templates take it: ``role`` and ``content``, and what tools add to them."""
THINK_TAGS = (
    ("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<reasoning>", "</reasoning>"), ("[THINK]", "[/THINK]"),
)  # fmt: skip
"""Tags known to open and close a thinking, the most common ones first."""
Finish = Literal["stop_string", "stop_token", "length"]
SESSION: ContextVar[str | None] = ContextVar("specreason_session", default=None)
"""Name of the run a call is made for; served engines pass it on, so that a router can keep the run on one replica."""
TokenCallback = Callable[[int], None]
"""Called with each token id as it is written, on the engine's thread."""


@dataclass(frozen=True)
class Sampling:
    """How to write."""

    max_tokens: int
    """Most tokens to write."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus; 1 keeps everything."""
    seed: int = 0
    """Sample ``i`` of ``n`` is drawn with ``seed + i``."""
    n: int = 1
    """How many continuations."""
    stop: tuple[str, ...] = ()
    """Strings that end the writing; the token that completes one is kept."""
    stop_token_ids: frozenset[int] = frozenset()
    """Tokens that end the writing; the token is kept."""
    json_schema: str | None = None
    """JSON schema, as text, that the writing must follow; only for engines that say `supports_json_schema`."""


@dataclass(frozen=True)
class Generation:
    """One continuation."""

    token_ids: list[int]
    """The tokens written, the stopping one included."""
    finish: Finish
    """Why it ended."""


@dataclass(frozen=True)
class Completion:
    """All continuations of one prompt, and what they cost together."""

    generations: list[Generation]
    """``n`` of them, in order of their seeds."""
    usage: Usage
    """Cost of the call."""


@dataclass(frozen=True)
class NextToken:
    """The distribution over the next token, seen through some candidates."""

    logprobs: dict[int, float]
    """Log-probability of each candidate over the whole vocabulary."""
    other_mass: float
    """Probability of all other tokens together."""
    usage: Usage
    """Cost of the call."""


class Vocabulary(Protocol):
    """Text to token ids and back, and the chat template."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the mapping from tokens to ids."""
        ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Control tokens: never text, they end a step."""
        ...

    @property
    def control_texts(self) -> frozenset[str]:
        """Texts that `encode_template` makes a single token of, whatever they mean."""
        ...

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a reply."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text: what looks like a special token is encoded as the characters it is made of."""
        ...

    def encode_template(self, text: str) -> list[int]:
        """Token ids of trusted template text: special tokens are recognised."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        ...

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The chat template's text for the messages, ending where the assistant's reply starts.

        ``tools`` are OpenAI function definitions; a template that knows no tools leaves them out.
        """
        ...


class Engine(Protocol):
    """A model that is prompted with token ids and answers with token ids.

    Calls may be awaited concurrently; a cancelled call stops the work. Use as an async context manager.
    """

    @property
    def name(self) -> str:
        """What people call it: the model's name or path."""
        ...

    @property
    def context(self) -> int:
        """Longest prompt plus output, in tokens."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """Its tokenizer."""
        ...

    @property
    def supports_json_schema(self) -> bool:
        """Whether it can make what it writes follow a JSON schema."""
        ...

    @property
    def max_concurrency(self) -> int | None:
        """How many calls it works on together; more wait for their turn. None: it says itself who waits."""
        ...

    @property
    def order_dependent(self) -> bool:
        """Whether an answer depends on the calls before it, as a script's does; nothing is asked ahead of it then."""
        ...

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, on_token: TokenCallback | None = None
    ) -> Completion:
        """Continue a prompt; ``on_token`` sees the tokens of the first continuation as they come.

        Raises `ContextLimitError` when the prompt leaves no room for a token.
        """
        ...

    async def next_token(self, prompt_ids: Sequence[int], candidates: Sequence[int]) -> NextToken:
        """Log-probabilities of at most 20 ``candidates`` as the token after the prompt, whatever the sampling settings.

        Raises `ContextLimitError` when the prompt is longer than the context.
        """
        ...

    def describe(self) -> EngineDescription:
        """What this engine is, for the evidence."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...


def check_room(engine: Engine, prompt_ids: Sequence[int], wanted: int = 1) -> None:
    """Raise `ContextLimitError` unless ``wanted`` more tokens fit behind the prompt."""
    if len(prompt_ids) + wanted > engine.context:
        raise ContextLimitError(
            f"{engine.name}: a prompt of {len(prompt_ids)} tokens leaves no room in a context of {engine.context}",
            engine=engine.name, hint="ask a shorter question or use a model with a longer context",
        )  # fmt: skip


MISSING = -100.0
"""Log-probability recorded for a candidate that is not among those an engine gave."""


def pick(
    given: Mapping[int, float], candidates: Sequence[int], name: str, *, chosen: bool
) -> tuple[dict[int, float], float]:
    """Log-probabilities of candidates and the mass elsewhere; `EngineError` when one that was ``chosen`` is missing."""
    if chosen and not set(candidates) <= set(given):
        raise EngineError(f"{name} gave no log-probabilities of the candidates", engine=name)
    found = {token: given.get(token, MISSING) for token in candidates}
    return found, min(1.0, max(0.0, 1.0 - sum(map(math.exp, found.values()))))


def finish_of(reason: str | None, stop: object, name: str) -> Finish:
    """Why vLLM ended a continuation, in process or served; `EngineDeadError` when it was given up."""
    if reason == "length":
        return "length"
    if reason == "stop":
        return "stop_string" if isinstance(stop, str) else "stop_token"
    raise EngineDeadError(f"{name} gave the request up: {reason}", engine=name, retryable=True)


def usage_since(begun: float, prompt_ids: Sequence[int], cached: int, written: int) -> Usage:
    """The cost of one call that began at ``begun`` on the performance counter."""
    return Usage(
        calls=1, prompt_tokens=len(prompt_ids), cached_tokens=cached, generated_tokens=written,
        seconds=(seconds := time.perf_counter() - begun), started=time.time() - seconds,
    )  # fmt: skip


def speculation_of(counts: Mapping[str, Any] | None) -> Usage:
    """What vLLM, in process or served, counts of a continuation's token-level speculation; zeros where it counts none.

    Exact for each call. What it went on to do behind a stop string before it was told to stop is left out.
    """
    if not counts:
        return Usage()
    return Usage(speculated_tokens=counts["num_draft_tokens"], speculated_accepted=counts["num_accepted_draft_tokens"])


class Forward:
    """Passes the tokens of a call on to the caller, each once, also when the call had to be tried again."""

    def __init__(self, on_token: TokenCallback | None) -> None:
        self._on_token, self._sent = on_token, 0

    def tokens(self, written: Sequence[int]) -> None:
        """Take all tokens written so far; those not passed on yet are."""
        if self._on_token:
            for token in written[self._sent :]:
                self._on_token(token)
            self._sent = max(self._sent, len(written))


@dataclass
class StopWatcher:
    """Decides after each token whether the writing ends."""

    vocabulary: Vocabulary
    sampling: Sampling

    @cached_property
    def _tail(self) -> int:
        """Tokens looked at for a stop string: at least as many as the longest has bytes."""
        return max(16, *(len(stop.encode()) + 1 for stop in self.sampling.stop))

    def finish(self, written: Sequence[int]) -> Finish | None:
        """Why the writing ends with the last token of ``written``, or None."""
        if written[-1] in self.sampling.stop_token_ids:
            return "stop_token"
        if self.sampling.stop:
            text = self.vocabulary.decode(written[-self._tail :])
            if any(stop in text for stop in self.sampling.stop):
                return "stop_string"
        return "length" if len(written) >= self.sampling.max_tokens else None
