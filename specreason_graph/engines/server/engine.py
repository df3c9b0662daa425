"""The served engine: calls to a vLLM server, and the checks of what that server supports."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from functools import cached_property, partial
from typing import Any, Self

import httpx

from specreason_graph.engines.base import (
    Completion,
    Generation,
    Likelihood,
    NextToken,
    Sampling,
    TokenCallback,
    TokenForwarder,
    check_continuations,
    check_room,
    pick,
    speculation_of,
    usage_since,
)
from specreason_graph.engines.checkpoint import load_config, load_vocabulary, recommended_sampling, weights_hash
from specreason_graph.engines.likelihood import likelihood_of
from specreason_graph.engines.options import LONG, ServerOptions
from specreason_graph.engines.redaction import LogFilter
from specreason_graph.engines.retry import with_retries
from specreason_graph.engines.server.answers import (
    IN_BETWEEN,
    WITHOUT,
    Answer,
    Card,
    Choice,
    Logprobs,
    Models,
    Version,
    chosen,
    generations,
    logprobs,
    prompt_logprobs,
    read,
)
from specreason_graph.engines.server.connection import Address, BoundedClient, Caller, Credentials, cause, message_of
from specreason_graph.engines.server.requests import (
    TOP,
    likelihood_fields,
    longest_answer,
    sampling_fields,
    scoring,
)
from specreason_graph.errors import (
    ConfigError,
    EngineAnswerError,
    EngineDeadError,
    EngineError,
    EngineRequestError,
)
from specreason_graph.record.manifest import EngineDescription

log = logging.getLogger(__name__)


class ServerEngine:
    """A model behind an OpenAI-compatible vLLM endpoint.

    ``url``: the server, with or without ``/v1``. ``model``: folder or hub name of the model that the server serves; its
    tokenizer is loaded here. The option ``lora`` names an adapter of it that the server has. Opening the engine checks
    what the server supports.
    """

    supports_json_schema = True
    max_concurrency = None
    order_dependent = False

    def __init__(self, url: str, model: str, options: ServerOptions | None = None, *, name: str | None = None) -> None:
        self._address = Address.read(url)
        self.url = str(self._address)  # recorded and printed: no password in it
        self.name = f"{name or model} at {self.url}"
        self.options = options or ServerOptions()
        self._path, self._model = model, name or model
        self.vocabulary, self.recommended_sampling = load_vocabulary(model), recommended_sampling(model)
        self.context: int = load_config(model).max_position_embeddings
        self.served_name = ""
        self._version = "unknown"
        self._chosen = True
        self._options: dict[str, Any] = {"lora": self.options.lora} if self.options.lora else {}
        self._users = 0

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, on_token: TokenCallback | None = None
    ) -> Completion:
        """Generate continuations of a prompt."""
        check_room(self, prompt_ids)
        begun, forwarder = time.perf_counter(), TokenForwarder(on_token)
        body = {**self.body(prompt_ids), **sampling_fields(sampling)}
        top = sampling.logprobs
        streamed = on_token or sampling.max_tokens > LONG
        call = partial(self._stream, body, top, forwarder) if streamed else partial(self._complete, body, top)

        async def checked() -> tuple[list[Generation], int, Answer]:
            made, answer = await call()
            written = sum(len(each.token_ids) for each in made)
            made *= sampling.n // len(made)  # greedy samples are all the same, so only one was generated
            check_continuations(self, prompt_ids, sampling, made, self.vocabulary.size)
            return made, written, answer

        made, written, answer = await with_retries(checked, self.options)
        usage = usage_since(begun, prompt_ids, min(answer.cached_tokens or 0, len(prompt_ids)), written)
        counts = answer.speculation.model_dump() if answer.speculation else None
        return Completion(made, usage + speculation_of(counts))

    async def next_token(self, prompt_ids: Sequence[int], candidates: Sequence[int]) -> NextToken:
        """Return the log-probabilities of the candidates as the next token."""
        check_room(self, prompt_ids)
        begun, body = time.perf_counter(), {**self.body(prompt_ids), **scoring(candidates, chosen=self._chosen)}

        async def checked() -> tuple[dict[int, float], float, int]:
            answer = await self._post(body)
            found, other = pick(logprobs(answer, self.name), candidates, self.name, chosen=self._chosen)
            return found, other, answer.cached_tokens or 0

        found, other, cached = await with_retries(checked, self.options)
        return NextToken(found, other, usage_since(begun, prompt_ids, min(cached, len(prompt_ids)), 1))

    async def likelihood(self, prompt_ids: Sequence[int], continuation_ids: Sequence[int]) -> Likelihood:
        """Return the log-probabilities of a given continuation; the server generates one more token in each call.

        A server that `serve-engines` has started computes only what is not in its prefix cache; others compute all.
        Raises `EngineError` for a server that gives no log-probabilities of a prompt's tokens.
        """
        return await likelihood_of(self, self._computed, prompt_ids, continuation_ids, self.options)

    async def _computed(self, ids: list[int], following: int | None) -> Likelihood:
        """Return the log-probabilities of the tokens that are computed of a prompt, and of the one ``following`` it."""
        begun = time.perf_counter()
        try:
            answer = await self._post({**self.body(ids), **likelihood_fields(following)})
        except EngineRequestError as error:
            hint = error.hint or WITHOUT
            raise EngineRequestError(error.args[0], engine=self.name, hint=hint) from None
        cached, choice = min(answer.cached_tokens or 0, len(ids)), answer.choices[0]
        found = prompt_logprobs(choice, ids, cached, self.name)
        if following is not None:
            if choice.token_ids != [following]:
                raise EngineAnswerError(f"{self.name} generated a token that was not allowed", engine=self.name)
            found += chosen(choice, self.name)
        return Likelihood(found, usage_since(begun, ids, cached, 1))

    def describe(self) -> EngineDescription:
        """Describe the engine; weights are hashed where the model's files are local, else named."""
        return self._description

    @cached_property
    def _description(self) -> EngineDescription:
        return EngineDescription(
            engine="server", engine_version=self._version, model=self._model,
            weights=weights_hash(self._path) or self.served_name, vocabulary=self.vocabulary.fingerprint,
            dtype="server", device=self.url, context=self.context, scoring="chosen" if self._chosen else "top",
            options=self._options,
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        self._users += 1
        if self._users == 1:
            try:
                self._opened = await self._open()
            except BaseException:
                self._users -= 1
                raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._users -= 1
        if self._users == 0:
            await self._opened.aclose()

    async def _open(self) -> AsyncExitStack:
        """Connect, and return what ends it."""
        async with AsyncExitStack() as opened:  # ends it when a check below fails
            # httpx allows 100 connections by default; further calls would wait here instead of joining a batch.
            self.client = BoundedClient(
                base_url=self._address.url, timeout=self.options.timeout_seconds, params=self._address.query,
                headers={"accept-encoding": "identity"},  # the answers are short
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=60),
            )  # fmt: skip
            opened.push_async_callback(self.client.aclose)
            credentials = Credentials.of(self._address)
            self.client.headers.update(credentials.headers)
            self._redactor = credentials.redactor
            opened.enter_context(LogFilter(self._redactor))
            await self._connect()
            await asyncio.to_thread(self.describe)  # hashing the weights takes long and would block the loop
            return opened.pop_all()

    def body(self, prompt_ids: Sequence[int]) -> dict[str, Any]:
        """The fields that all completion requests have in common."""
        # Sampling.stop_token_ids decides where a call ends; vLLM would also stop at the model's own end of sequence.
        return {"model": self.served_name, "prompt": list(prompt_ids), "return_token_ids": True, "ignore_eos": True}

    async def _connect(self) -> None:
        """Check that the server serves the model, and find out what it supports; `ConfigError` where it cannot."""
        try:
            card, longest = await self._served_card()
            self.served_name, self.context = card.id, longest or self.context
            with suppress(EngineError):  # a router may not pass /version on
                self._version = await self._served_version()
            await self._probe()
        except EngineError as error:
            hint = error.hint or "check the URL and that the server runs"
            raise ConfigError(f"{self.url} cannot be used: {cause(error)}", hint=hint) from None

    async def _served_card(self) -> tuple[Card, int | None]:
        """What the server tells of the model or adapter, and the longest prompt plus output."""
        raw = await self._call.request("GET", "/v1/models")
        try:
            served = read(Models, raw, self.name, self._redactor).data
        except EngineAnswerError as error:
            wrong = cause(error).removeprefix("answered what is no completion: ")
            raise ConfigError(f"{self.url} is no vLLM server: {wrong}", hint="check the URL") from None
        adapter = self.options.lora
        wanted = {adapter} if adapter else {self._model, self._path}
        card = next((card for card in served if wanted & {card.id, None if adapter else card.root}), None)
        if card is None:
            names = sorted({name for card in served for name in (card.id, card.root) if name})
            shown = self._redactor.text(", ".join(names)) or "nothing"
            hint = "start it with --lora-modules NAME=FOLDER" if adapter else "name the model it serves"
            raise ConfigError(f"{self.url} serves {shown}, not {adapter or self._model!r}", hint=hint)
        # it is sent back, recorded and printed
        if self._redactor.text(card.id, len(card.id)) != card.id:
            raise ConfigError(f"{self.url} serves a model under a name that cannot be used", hint="rename it there")
        # of an adapter vLLM tells no length: it has that of the model under it
        lengths = (each.max_model_len for each in (card, *served) if each is card or each.id == card.parent)
        return card, next(filter(None, lengths), None)

    async def _served_version(self) -> str:
        raw = await self._call.request("GET", "/version")
        return self._redactor.text(read(Version, raw, self.name, self._redactor).version, 100) or self._version

    async def _probe(self) -> None:
        """Find out whether the server returns token ids, log-probabilities of chosen tokens, and counts."""
        prompt = self.vocabulary.encode("0")
        # A server that does not know logprob_token_ids returns its likeliest tokens; these letters are not among them.
        unlikely = sorted({self.vocabulary.encode(letter)[0] for letter in "qjxzkvQJXZ"})
        try:
            answer = await self._post({**self.body(prompt), **scoring(unlikely, chosen=True)})
            self._chosen = set(unlikely) <= set(logprobs(answer, self.name))
        except EngineAnswerError:
            raise
        except (EngineRequestError, EngineDeadError):
            self._chosen = False
        if not self._chosen:
            answer = await self._probe_top(prompt)
        if answer.choices[0].token_ids is None:
            raise ConfigError(f"{self.url} returns no token ids", hint="use vLLM 0.10.2 or later as the server")
        if answer.cached_tokens is None:
            log.warning("%s does not count cached tokens: start it with --enable-prompt-tokens-details", self.name)
        if answer.speculation and (guesses := answer.speculation.num_spec_tokens):
            # A server does not return the rest of its speculative_config.
            self._options |= {"speculative": {"num_speculative_tokens": guesses}}

    async def _probe_top(self, prompt: list[int]) -> Answer:
        hint = f"start the server with --max-logprobs {TOP} or more"
        body = {**self.body(prompt), **scoring(prompt, chosen=False)}
        try:  # vLLM with token-level speculation may drop the connection at the request before: retry this one
            answer = await with_retries(lambda: self._post(body), self.options)
        except EngineError as error:
            raise ConfigError(f"{self.url} gives no log-probabilities: {cause(error)}", hint=hint) from None
        if not logprobs(answer, self.name):
            raise ConfigError(f"{self.url} gives no log-probabilities", hint=hint)
        log.warning("%s gives no log-probabilities of chosen tokens: the top %d are used", self.name, TOP)
        return answer

    async def _complete(self, body: dict[str, Any], top: int | None) -> tuple[list[Generation], Answer]:
        answer = await self._post(body)
        return generations(answer.choices, body["n"], self.name, top), answer

    async def _post(self, body: dict[str, Any]) -> Answer:
        raw = await self._call.request("POST", "/v1/completions", longest_answer(body), json=body)
        answer = self._read(raw)
        if not answer.choices:
            raise EngineAnswerError(f"{self.name} answered without choices", engine=self.name, hint=IN_BETWEEN)
        return answer

    async def _stream(
        self, body: dict[str, Any], top: int | None, forwarder: TokenForwarder
    ) -> tuple[list[Generation], Answer]:  # fmt: skip
        """Make the call as a stream, and return the continuations and the event with the usage."""
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        parts, last = StreamedChoices(self.name, body["n"], body["max_tokens"], self.vocabulary.size), Answer()
        async with aclosing(self._call.events("/v1/completions", body, longest_answer(body), parts.count)) as events:
            async for event in events:
                answer = self._read(event)
                last = answer if answer.usage else last
                for choice in answer.choices:
                    parts.add(choice)
                forwarder.tokens(parts.ids[0])
        return generations(parts.whole(), body["n"], self.name, top), last

    def _read(self, raw: bytes | str) -> Answer:
        answer = read(Answer, raw, self.name, self._redactor)
        if answer.error is not None:
            wrong = message_of(answer.error, self._redactor)
            raise EngineDeadError(f"{self.name}: {wrong}", engine=self.name, retryable=True)
        return answer

    @property
    def _call(self) -> Caller:
        return Caller(self.name, self.client, self.options, self._redactor)


class StreamedChoices:
    """Puts the continuations of a stream together; a token is checked before anybody is told of it."""

    def __init__(self, name: str, wanted: int, most: int, size: int) -> None:
        self._name, self._most, self._size = name, most, size
        self.ids: list[list[int]] = [[] for _ in range(wanted)]
        """The tokens so far."""
        self._told = [Logprobs() for _ in range(wanted)]
        self._ends: dict[int, Choice] = {}

    def count(self) -> int:
        """How many tokens have come."""
        return sum(map(len, self.ids))

    def add(self, choice: Choice) -> None:
        """Take the next part of a continuation; `EngineAnswerError` for one that cannot be."""
        new = choice.token_ids or []
        if choice.index >= len(self.ids):
            self._refuse(f"the continuation {choice.index} of {len(self.ids)}")
        if new and choice.index in self._ends:
            self._refuse("tokens behind the end")
        ids = self.ids[choice.index]
        ids += new
        if new and choice.logprobs:
            self._told[choice.index].extend(choice.logprobs)
        if len(ids) > self._most:
            self._refuse(f"more than the {self._most} tokens that were asked for")
        if wrong := [token for token in new if token >= self._size]:
            self._refuse(f"the token {wrong[0]}; tokens are 0 to {self._size - 1}")
        if choice.finish_reason:
            self._ends.setdefault(choice.index, choice)

    def whole(self) -> list[Choice]:
        """The continuations; `EngineDeadError` where one has no end."""
        if len(self._ends) < len(self.ids):  # the connection closed without an error, but before the last event
            raise EngineDeadError(f"{self._name}: the stream broke off", engine=self._name, retryable=True)
        return [
            end.model_copy(update={"token_ids": self.ids[index], "logprobs": self._told[index]})
            for index, end in self._ends.items()
        ]

    def _refuse(self, what: str) -> None:
        raise EngineAnswerError(f"{self._name} gave {what}", engine=self._name)
