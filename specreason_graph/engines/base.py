"""The engine protocol: token ids in, token ids out."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol, Self

from specreason_graph.engines.redaction import shown
from specreason_graph.errors import ContextLimitError, EngineAnswerError, EngineDeadError
from specreason_graph.record.manifest import EngineDescription
from specreason_graph.record.records import Usage

Message = dict[str, Any]
"""A chat message as chat templates take it: ``role`` and ``content``, and the fields that tool calls add."""
THINK_TAGS = (
    ("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<reasoning>", "</reasoning>"), ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"), ("<thought>", "</thought>"), ("<|channel>thought", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)  # fmt: skip
"""Pairs of tags that are known to open and close the thinking, the most common ones first."""
Finish = Literal["stop_string", "stop_token", "length"]
MOST_LOGPROBS = 20
"""Most of the likeliest tokens that an entropy is asked for; vLLM gives no more by default."""
SESSION: ContextVar[str | None] = ContextVar("specreason_session", default=None)
"""Name of the run that a call is made for.

Served engines send it as a header, so that a router can keep a run on the replica that has its prefix cache.
"""
TokenCallback = Callable[[int], None]
"""Called with each token id when it is generated, on the engine's thread."""


@dataclass(frozen=True)
class Sampling:
    """Sampling settings of one `Engine.generate` call."""

    max_tokens: int
    """Most tokens to generate."""
    temperature: float = 0.0
    """Sampling temperature; 0 is greedy."""
    top_p: float = 1.0
    """Nucleus sampling: probability mass to keep, 0 to 1; 1 keeps all tokens."""
    top_k: int = 0
    """Likeliest tokens to keep; 0 keeps all."""
    min_p: float = 0.0
    """Least probability of a token to keep, as a fraction of the likeliest one's, 0 to 1."""
    repetition_penalty: float = 1.0
    """By what the logits of tokens in prompt and output are divided, or multiplied if negative; 1 changes nothing."""
    seed: int = 0
    """Sample ``i`` of ``n`` is drawn with ``seed + i``."""
    n: int = 1
    """How many continuations to generate."""
    stop: tuple[str, ...] = ()
    """Strings that end a continuation; the token that completes the string is kept."""
    stop_token_ids: frozenset[int] = frozenset()
    """Tokens that end a continuation; the token is kept."""
    json_schema: str | None = None
    """JSON schema, as text, that the output must follow; only for engines with `Engine.supports_json_schema`."""
    logprobs: int | None = None
    """Ask for `Generation.logprobs`, and above 0 for `Generation.entropies` of that many likeliest tokens, 0 to 20;
    None asks for neither."""

    def __post_init__(self) -> None:
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_LOGPROBS:
            raise ValueError(f"logprobs = {self.logprobs} is not allowed: None, or 0 to {MOST_LOGPROBS}")


@dataclass(frozen=True)
class Generation:
    """One continuation of a prompt."""

    token_ids: list[int]
    """The generated tokens, the one that ended it included."""
    finish: Finish
    """Why the continuation ended."""
    logprobs: list[float] | None = None
    """Natural log-probability of each token under the model itself, before temperature, nucleus and penalties.

    As many as ``token_ids``; None where none were asked for, see `Sampling.logprobs`.
    """
    entropies: list[float] | None = None
    """Entropy at the place of each token in nats: of the ``k = Sampling.logprobs`` likeliest tokens and one more
    outcome, which is all other tokens together. It is therefore at most ``ln(k + 1)``, a lower bound of the entropy
    over the whole vocabulary, and the same number from every kind of engine.

    As many as ``token_ids``; None where none were asked for.
    """


@dataclass(frozen=True)
class Completion:
    """All continuations of one prompt, and what they cost together."""

    generations: list[Generation]
    """The ``n`` continuations, in the order of their seeds."""
    usage: Usage
    """Cost of the call."""


@dataclass(frozen=True)
class NextToken:
    """The distribution of the next token: some candidates, and the mass of all other tokens."""

    logprobs: dict[int, float]
    """Natural log-probability of each candidate, normalised over the whole vocabulary."""
    other_mass: float
    """Probability of all other tokens together."""
    usage: Usage
    """Cost of the call."""


@dataclass(frozen=True)
class Likelihood:
    """How likely a given continuation of a prompt is."""

    logprobs: list[float]
    """Natural log-probability of each token of the continuation, given all tokens before it; at most 0.

    It is the model's own, before temperature, nucleus and penalties.
    """
    usage: Usage
    """Cost of all calls that were needed; for one call, ``prompt_tokens`` counts prompt and continuation."""


class Vocabulary(Protocol):
    """A tokenizer: text to token ids and back, and the chat template."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the mapping from tokens to ids."""
        ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Control tokens, which are never text; one that a model generates ends the step."""
        ...

    @property
    def control_texts(self) -> frozenset[str]:
        """Texts that `encode_template` turns into a single added token, special or not."""
        ...

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a reply."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of untrusted text: what looks like a special token is encoded as ordinary characters."""
        ...

    def encode_template(self, text: str) -> list[int]:
        """Token ids of trusted template text: special tokens are recognised."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        ...

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), **arguments: Any
    ) -> str:  # fmt: skip
        """Render the messages with the chat template, up to where the assistant's reply starts.

        ``tools`` are OpenAI function definitions; a template without support for tools ignores them. ``arguments`` are
        the template's own, as ``enable_thinking``; none are given where the settings have none.
        """
        ...


class Engine(Protocol):
    """A model that is prompted with token ids and answers with token ids.

    Calls may be awaited concurrently, and cancelling a call stops its work. Use an engine as an async context manager.
    """

    @property
    def name(self) -> str:
        """Name for messages and logs: the model's name or path."""
        ...

    @property
    def context(self) -> int:
        """Longest prompt plus output, in tokens."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's tokenizer."""
        ...

    @property
    def recommended_sampling(self) -> Mapping[str, float]:
        """Fields of `Sampling` that the makers of the model recommend; empty where they recommend none."""
        ...

    @property
    def supports_json_schema(self) -> bool:
        """Whether `generate` can constrain its output to a JSON schema."""
        ...

    @property
    def max_concurrency(self) -> int | None:
        """Most calls that the engine works on together; more wait for a slot. None: the engine queues calls itself."""
        ...

    @property
    def order_dependent(self) -> bool:
        """Whether an answer depends on the calls before it, as in a script; no speculative calls are made then."""
        ...

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, on_token: TokenCallback | None = None
    ) -> Completion:
        """Generate continuations of a prompt; ``on_token`` gets the tokens of the first one as they come.

        Raises `ContextLimitError` when no token fits behind the prompt.
        """
        ...

    async def next_token(self, prompt_ids: Sequence[int], candidates: Sequence[int]) -> NextToken:
        """Return the raw log-probabilities of at most 20 ``candidates`` as the next token after a prompt.

        They are those of the model itself, before temperature and nucleus. Raises `ContextLimitError` when no token
        fits behind the prompt.
        """
        ...

    async def likelihood(self, prompt_ids: Sequence[int], continuation_ids: Sequence[int]) -> Likelihood:
        """Return the raw log-probability of each token of a given continuation.

        The prefix cache is read, and has prompt and continuation afterwards. Raises `ContextLimitError` when both do
        not fit into the context, and `ValueError` when one of them is empty.
        """
        ...

    def describe(self) -> EngineDescription:
        """Describe library, model and device, for the run's manifest."""
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


def joined(
    engine: Engine, prompt_ids: Sequence[int], continuation_ids: Sequence[int], *, spare: int = 0
) -> list[int]:  # fmt: skip
    """Return a prompt with its continuation, for `Engine.likelihood`.

    ``spare``: tokens for which there must be room behind both. Raises `ContextLimitError` when they do not fit, and
    `ValueError` when the prompt or the continuation is empty: the first token of all has no probability.
    """
    for part, ids in (("prompt", prompt_ids), ("continuation", continuation_ids)):
        if not ids:
            raise ValueError(f"the {part} of a likelihood is empty; give at least one token")
    whole = [*prompt_ids, *continuation_ids]
    check_room(engine, whole, spare)
    return whole


def check_continuations(
    engine: Engine, prompt_ids: Sequence[int], sampling: Sampling, made: Sequence[Generation], size: int | None = None
) -> None:
    """Raise `EngineAnswerError` unless the continuations are what was asked for.

    ``size``: token ids from there on do not exist; None where the engine does not tell.
    """
    if len(made) != sampling.n:
        raise EngineAnswerError(
            f"{engine.name} gave {len(made)} continuations and was asked for {sampling.n}", engine=engine.name
        )
    most = min(sampling.max_tokens, engine.context - len(prompt_ids))
    for each in made:
        _check_tokens(engine.name, each.token_ids, most, size)
        if each.finish == "stop_token" and sampling.stop_token_ids.isdisjoint(each.token_ids):
            raise EngineAnswerError(
                f"{engine.name} stopped at a token that ends nothing: {each.token_ids[-1]}", engine=engine.name
            )
        _check_evidence(engine.name, each, sampling.logprobs)


def _check_tokens(name: str, ids: Sequence[int], most: int, size: int | None) -> None:
    if not 1 <= len(ids) <= most:
        raise EngineAnswerError(f"{name} gave {len(ids)} tokens; 1 to {most} were asked for", engine=name)
    for token in ids:
        if not isinstance(token, int) or isinstance(token, bool) or token < 0 or (size is not None and token >= size):
            allowed = "from 0" if size is None else f"0 to {size - 1}"
            raise EngineAnswerError(f"{name} gave the token {shown(token, 20)}; tokens are {allowed}", engine=name)


def _check_evidence(name: str, made: Generation, wanted: int | None) -> None:
    """Raise `EngineAnswerError` unless log-probabilities and entropies that were asked for came with each token."""
    if wanted is None:
        return
    checked_logprobs(made.logprobs, len(made.token_ids), name)
    if wanted == 0:
        return
    if made.entropies is None or len(made.entropies) != len(made.token_ids):
        raise EngineAnswerError(f"{name} did not give an entropy for each token", engine=name)
    most = math.log(wanted + 1)
    for value in made.entropies:
        if not _is_number(value) or not -ROUNDING <= value <= most + ROUNDING:
            raise EngineAnswerError(
                f"{name} gave {shown(value, 20)} as an entropy of {wanted} tokens and the rest; it is 0 to {most:.3f}",
                engine=name,
            )


async def continuations(
    engine: Engine, prompt_ids: Sequence[int], sampling: Sampling, on_token: TokenCallback | None = None
) -> Completion:
    """Have an engine continue a prompt, each continuation up to and with the first token that ends it.

    An engine may not have stopped there; what it gave behind is dropped, so that no control token gets into a trace.
    Raises `EngineAnswerError` for what is not what was asked for.
    """
    completion = await engine.generate(prompt_ids, sampling, on_token)
    size = getattr(engine.vocabulary, "size", None)  # a vocabulary of the caller's own may have none
    check_continuations(engine, prompt_ids, sampling, completion.generations, size)
    ended = [_up_to_stop(each, sampling.stop_token_ids) for each in completion.generations]
    return replace(completion, generations=ended)


def _up_to_stop(made: Generation, stops: frozenset[int]) -> Generation:
    first = next((place for place, token in enumerate(made.token_ids) if token in stops), None)
    if first is None:
        return made
    end = first + 1
    logprobs, entropies = [values if values is None else values[:end] for values in (made.logprobs, made.entropies)]
    return Generation(made.token_ids[:end], "stop_token", logprobs, entropies)


MISSING = -100.0
"""Log-probability that is recorded for a candidate which the engine did not return."""
ROUNDING = 1e-3
"""By how much a log-probability may be above 0: half-precision numbers near 1 are that far apart."""


def pick(
    given: Mapping[int, float], candidates: Sequence[int], name: str, *, chosen: bool
) -> tuple[dict[int, float], float]:
    """Return the log-probabilities of the candidates, and the mass of all other tokens.

    ``chosen``: whether the engine was asked for exactly these tokens; then a missing one raises `EngineAnswerError`, as
    does one that is no log-probability, else it counts as `MISSING`.
    """
    if chosen and not set(candidates) <= set(given):
        raise EngineAnswerError(f"{name} gave no log-probabilities of the candidates", engine=name)
    found = {token: checked_logprob(given.get(token, MISSING), name) for token in candidates}
    # Rounding may bring the sum slightly above 1.
    return found, min(1.0, max(0.0, 1.0 - sum(map(math.exp, found.values()))))


def checked_logprob(value: Any, name: str) -> float:
    """A log-probability, at most 0; `EngineAnswerError` for what is none."""
    if not _is_number(value) or not -sys.float_info.max <= value <= ROUNDING:
        raise EngineAnswerError(
            f"{name} gave {shown(value, 20)} as a log-probability; they are finite and at most 0", engine=name
        )
    return min(0.0, float(value))


def checked_logprobs(values: Sequence[Any] | None, wanted: int, name: str) -> list[float]:
    """``wanted`` log-probabilities, each at most 0; `EngineAnswerError` for another number of them or for what is none.

    ``values``: what an engine gave, None where it gave nothing.
    """
    if values is None or len(values) != wanted:
        given = "no" if values is None else len(values)
        raise EngineAnswerError(f"{name} gave {given} log-probabilities for {wanted} tokens", engine=name)
    return [checked_logprob(value, name) for value in values]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def entropy_of(logprobs: Sequence[float]) -> float:
    """Entropy in nats of the likeliest tokens and one more outcome, which is all other tokens together.

    ``logprobs``: natural log-probabilities of the likeliest tokens, shape ``[k]``. The result is at least 0 and at
    most ``ln(k + 1)``.
    """
    # Rounding may bring a probability, or their sum, slightly above 1.
    masses = [min(1.0, math.exp(logprob)) for logprob in logprobs]
    rest = max(0.0, 1.0 - sum(masses))
    return sum(-mass * math.log(mass) for mass in [*masses, rest] if mass > 0.0)


def finish_of(reason: str | None, stop: object, name: str) -> Finish:
    """Translate vLLM's finish and stop reason; raise `EngineDeadError` when vLLM aborted the request."""
    if reason == "length":
        return "length"
    if reason == "stop":
        return "stop_string" if isinstance(stop, str) else "stop_token"
    raise EngineDeadError(f"{name} gave the request up: {shown(reason, 40)}", engine=name, retryable=True)


def usage_since(begun: float, prompt_ids: Sequence[int], cached: int, written: int) -> Usage:
    """Return the cost of one call that began at ``begun`` on `time.perf_counter`."""
    # The duration is measured on the monotonic clock, which nobody sets; only the start is wall-clock time.
    return Usage(
        calls=1, prompt_tokens=len(prompt_ids), cached_tokens=cached, generated_tokens=written,
        seconds=(seconds := time.perf_counter() - begun), started=time.time() - seconds,
    )  # fmt: skip


def speculation_of(counts: Mapping[str, Any] | None) -> Usage:
    """Return vLLM's counts of token-level speculation for one continuation; zeros where it gives none.

    The counts are exact for each call. Passes that vLLM makes after a stop string, before it stops, are not counted.
    """
    if not counts:
        return Usage()
    return Usage(speculated_tokens=counts["num_draft_tokens"], speculated_accepted=counts["num_accepted_draft_tokens"])


class TokenForwarder:
    """Passes the tokens of a call on to its caller: each token once, also when the call is retried."""

    def __init__(self, on_token: TokenCallback | None) -> None:
        self._on_token, self._sent = on_token, 0

    def tokens(self, written: Sequence[int]) -> None:
        """Take all tokens written so far, and pass on those that are new."""
        # A retry generates the same tokens again, because one prompt and one seed give one answer.
        if self._on_token:
            for token in written[self._sent :]:
                self._on_token(token)
            self._sent = max(self._sent, len(written))


@dataclass
class StopWatcher:
    """Decides after each token whether the continuation ends."""

    vocabulary: Vocabulary
    sampling: Sampling

    @cached_property
    def _tail(self) -> int:
        """How many of the last tokens are searched for a stop string."""
        # A token holds at least one byte, so a string never spans more tokens than it has bytes. To decode the whole
        # text after each token would take time that grows with the square of its length.
        return max(16, *(len(stop.encode()) + 1 for stop in self.sampling.stop))

    def finish(self, written: Sequence[int]) -> Finish | None:
        """Return why the continuation ends with the last token of ``written``, or None if it goes on."""
        if written[-1] in self.sampling.stop_token_ids:
            return "stop_token"
        if self.sampling.stop:
            text = self.vocabulary.decode(written[-self._tail :])
            if any(stop in text for stop in self.sampling.stop):
                return "stop_string"
        return "length" if len(written) >= self.sampling.max_tokens else None
