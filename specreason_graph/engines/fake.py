"""A scripted engine for tests and examples: it takes the place of a real engine, with no model."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, TypeVar

from specreason_graph.engines.base import (
    Completion,
    Generation,
    Likelihood,
    Message,
    NextToken,
    Sampling,
    StopWatcher,
    TokenCallback,
    Vocabulary,
    check_room,
    joined,
)
from specreason_graph.errors import EngineError
from specreason_graph.record.manifest import EngineDescription
from specreason_graph.record.records import Usage

SPECIAL = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<think>", "</think>")
_SPLIT = re.compile("(" + "|".join(re.escape(tag) for tag in SPECIAL) + ")")

S = TypeVar("S")
Reply = str
Opinion = int | Sequence[float] | Mapping[str, float]
"""A digit that gets all probability, ten probabilities, or those of other texts, of which the first token counts.

What they lack to 1 goes to other tokens.
"""
Values = float | Sequence[float]
"""A number for each token, or one for all of them."""
CONFIDENCE = -0.1
"""Log-probability of each generated token where nothing is scripted."""
SHOWN = 60
"""Characters of the prompt that are shown where a script has run out."""


class PlainText(str):
    """A reply whose tags are ordinary text and not special tokens."""


class ByteVocabulary:
    """A vocabulary of one token per byte, with special tokens above 255; its chat template has think tags."""

    special_ids = frozenset(range(256, 256 + len(SPECIAL)))
    eos_ids = frozenset({256})
    control_texts = frozenset(SPECIAL)

    def __init__(self) -> None:
        self.fingerprint = hashlib.sha256(repr(SPECIAL).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Return the bytes of the text."""
        return list(text.encode())

    def encode_template(self, text: str) -> list[int]:
        """Return the bytes of the text, with tags as special tokens."""
        ids: list[int] = []
        for part in _SPLIT.split(text):
            ids += [256 + SPECIAL.index(part)] if part in SPECIAL else part.encode()
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        raw = b"".join(bytes([i]) if i < 256 else SPECIAL[i - 256].encode() for i in ids)
        return raw.decode(errors="replace")

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), **_: Any) -> str:
        """Render messages and tools; earlier thinking is dropped, as templates of reasoning models do."""
        listed = f"<|system|>Tools: {json.dumps(list(tools), ensure_ascii=False)}<|end|>" if tools else ""
        return listed + "".join(map(_turn, messages)) + "<|assistant|><think>\n"


def _turn(message: Message) -> str:
    calls = (json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ()))
    text = (message["content"] or "").split("</think>")[-1] + "".join(
        f"<tool_call>\n{call}\n</tool_call>" for call in calls
    )
    if message["role"] == "tool":
        return f"<|user|><tool_response>\n{text}\n</tool_response><|end|>"
    return f"<|{message['role']}|>{text}<|end|>"


def shared_out(values: Values, count: int) -> list[float]:
    """The values, or ``count`` equal parts of one value."""
    return [values / count] * count if isinstance(values, int | float) else list(values)


@dataclass(frozen=True)
class Call:
    """One call that the engine has answered."""

    kind: Literal["generate", "next_token", "likelihood"]
    """The method that was called."""
    prompt_ids: list[int]
    """The prompt."""
    sampling: Sampling | None = None
    """The sampling settings; None but for ``generate``."""
    continuation_ids: list[int] | None = None
    """The given continuation; None but for ``likelihood``."""


class FakeEngine:
    """Answers calls from a script.

    ``replies``: the texts for `generate` calls in order, or a function from the prompt's text to a reply; a reply is
    cut at a stop string, a stop token or the token limit. ``scores``: the opinions for `next_token` calls in order, or
    a function from the prompt's text. ``likelihoods``: log-probabilities for `likelihood` calls in order, or a function
    from the texts of prompt and continuation: one for each token, or their sum, of which each token gets an equal part.
    ``confidences``: the same for the tokens of each continuation that `generate` is asked to give log-probabilities of,
    or a function from its text; without a script each is -0.1. ``entropies``: likewise, one for each token or one that
    all of them have; without a script 0. A script that runs out raises `EngineError`, which shows the end of the prompt
    that asked for more; a ``name`` tells two engines apart. ``delay``: seconds that each call takes. ``failure``:
    called before each call with the prompt's text; an exception that it returns is raised. It may also be set later.
    """

    supports_json_schema = True

    def __init__(
        self,
        replies: Iterable[Reply] | Callable[[str], Reply] = (),
        scores: Iterable[Opinion] | Callable[[str], Opinion] = (),
        *,
        likelihoods: Iterable[Values] | Callable[[str, str], Values] = (),
        confidences: Iterable[Values] | Callable[[str], Values] | None = None,
        entropies: Iterable[Values] | Callable[[str], Values] | None = None,
        name: str = "fake",
        context: int = 100_000,
        delay: float = 0.0,
        vocabulary: Vocabulary | None = None,
        max_concurrency: int | None = None,
        failure: Callable[[str], Exception | None] | None = None,
        recommended_sampling: Mapping[str, float] | None = None,
    ) -> None:
        self.name, self.context, self.delay, self.max_concurrency = name, context, delay, max_concurrency
        self.vocabulary = vocabulary or ByteVocabulary()
        self.failure = failure
        self.recommended_sampling: Mapping[str, float] = recommended_sampling or {}
        self.calls: list[Call] = []
        """Calls that were answered, in order."""
        # Replies in a list are handed out in the order of the calls, so a speculative call would take another's reply.
        scripts = (replies, scores, likelihoods, confidences, entropies)
        self.order_dependent = any(not callable(script) and script not in ((), None) for script in scripts)
        self._reply = self._scripted(replies, "no reply left")
        self._score = self._scripted(scores, "no score left")
        self._likelihood = self._scripted(likelihoods, "no likelihood left")
        self._confidence = None if confidences is None else self._scripted(confidences, "no confidence left")
        self._entropy = None if entropies is None else self._scripted(entropies, "no entropy left")

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, on_token: TokenCallback | None = None
    ) -> Completion:
        """Return the next reply of the script."""
        self._begin(prompt_ids)
        self.calls.append(Call("generate", list(prompt_ids), sampling))
        generations = [self._write(prompt_ids, sampling) for _ in range(sampling.n)]
        if on_token:
            for token in generations[0].token_ids:
                on_token(token)
        written = sum(len(generation.token_ids) for generation in generations)
        return Completion(generations, await self._usage(prompt_ids, written))

    async def next_token(self, prompt_ids: Sequence[int], candidates: Sequence[int]) -> NextToken:
        """Return the next opinion of the script as log-probabilities."""
        self._begin(prompt_ids)
        self.calls.append(Call("next_token", list(prompt_ids)))
        opinion = self._score(prompt_ids)
        if isinstance(opinion, int):
            opinion = {str(opinion): 1.0}
        elif not isinstance(opinion, Mapping):
            opinion = {str(digit): mass for digit, mass in enumerate(opinion)}
        tokens = {self.vocabulary.encode(text)[0]: mass for text, mass in opinion.items()}
        # A floor, because the logarithm of 0 raises.
        logprobs = {token: math.log(max(tokens.get(token, 0.0), 1e-30)) for token in candidates}
        return NextToken(logprobs, max(0.0, 1.0 - sum(opinion.values())), await self._usage(prompt_ids, 1))

    async def likelihood(self, prompt_ids: Sequence[int], continuation_ids: Sequence[int]) -> Likelihood:
        """Return the next log-probabilities of the script."""
        whole = joined(self, prompt_ids, continuation_ids)
        self._fail(prompt_ids)
        self.calls.append(Call("likelihood", list(prompt_ids), continuation_ids=list(continuation_ids)))
        found = shared_out(self._likelihood(prompt_ids, continuation_ids), len(continuation_ids))
        return Likelihood(found, await self._usage(whole, 0))

    def describe(self) -> EngineDescription:
        """Describe the engine, which has no weights and no device."""
        return EngineDescription(
            engine="fake", engine_version="1", model=self.name, weights="none", vocabulary=self.vocabulary.fingerprint,
            dtype="none", device="none", context=self.context,
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    def _begin(self, prompt_ids: Sequence[int]) -> None:
        check_room(self, prompt_ids)
        self._fail(prompt_ids)

    def _fail(self, prompt_ids: Sequence[int]) -> None:
        if self.failure and (error := self.failure(self.vocabulary.decode(prompt_ids))):
            raise error

    def _scripted(self, script: Iterable[S] | Callable[..., S], exhausted: str) -> Callable[..., S]:
        """Return what gives the next item of a script; a function in its place gets the texts of token ids."""
        if callable(script):
            return lambda *asked: script(*map(self.vocabulary.decode, asked))
        left = iter(script)

        def following(*asked: Sequence[int]) -> S:
            for item in left:
                return item
            end = self.vocabulary.decode(asked[-1])[-SHOWN:]
            raise EngineError(f"{self.name}: {exhausted} for {end!r}", engine=self.name, hint="add to its script")

        return following

    def _write(self, prompt_ids: Sequence[int], sampling: Sampling) -> Generation:
        reply = self._reply(prompt_ids)
        encode = self.vocabulary.encode if isinstance(reply, PlainText) else self.vocabulary.encode_template
        watcher, written = StopWatcher(self.vocabulary, sampling), []
        for token in [*encode(reply), min(self.vocabulary.eos_ids)]:
            written.append(token)
            if finish := watcher.finish(written):
                return self._told(Generation(written, finish), sampling.logprobs)
        return self._told(Generation(written, "stop_token"), sampling.logprobs)

    def _told(self, made: Generation, wanted: int | None) -> Generation:
        """Add the log-probabilities and entropies that were asked for."""
        if wanted is None:
            return made
        count = len(made.token_ids)
        told = [CONFIDENCE] * count
        if self._confidence:
            told = shared_out(self._confidence(made.token_ids), count)
        if wanted == 0:
            return replace(made, logprobs=told)
        each = self._entropy(made.token_ids) if self._entropy else 0.0
        entropies = [float(each)] * count if isinstance(each, int | float) else list(each)
        return replace(made, logprobs=told, entropies=entropies)

    async def _usage(self, prompt_ids: Sequence[int], written: int) -> Usage:
        started = time.time()
        if self.delay:
            await asyncio.sleep(self.delay)
        return Usage(
            calls=1, prompt_tokens=len(prompt_ids), generated_tokens=written, seconds=self.delay, started=started
        )
