"""The served engine: calls to a vLLM server, and the checks of what that server supports."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from functools import cached_property, partial
from typing import Any, Self
from urllib.parse import quote

import httpx

from specreason_graph.engines.base import (
    SESSION,
    Completion,
    Generation,
    NextToken,
    Sampling,
    TokenCallback,
    TokenForwarder,
    check_room,
    pick,
    speculation_of,
    usage_since,
)
from specreason_graph.engines.checkpoint import load_config, load_vocabulary, recommended_sampling, weights_hash
from specreason_graph.engines.options import CallOptions
from specreason_graph.engines.retry import with_retries
from specreason_graph.engines.server.connection import address, authorization, cause, check, translating
from specreason_graph.engines.server.requests import (
    TOP,
    cached_tokens,
    events,
    generation,
    logprobs,
    sampling_fields,
    scoring,
    speculation,
)
from specreason_graph.errors import (
    ConfigError,
    EngineDeadError,
    EngineError,
    EngineRequestError,
)
from specreason_graph.record.manifest import EngineDescription

log = logging.getLogger(__name__)


class ServerEngine:
    """A model behind an OpenAI-compatible vLLM endpoint.

    ``url``: the server, with or without ``/v1``. ``model``: folder or hub name of the model that the server serves; its
    tokenizer is loaded here. Opening the engine checks what the server supports.
    """

    supports_json_schema = True
    max_concurrency = None
    order_dependent = False

    def __init__(self, url: str, model: str, options: CallOptions | None = None, *, name: str | None = None) -> None:
        self._address = address(url)
        self.url = str(self._address.copy_with(userinfo=b"")).rstrip("/")  # recorded and printed: no password in it
        self.name = f"{name or model} at {self.url}"
        self.options = options or CallOptions()
        self._path, self._model = model, name or model
        self.vocabulary, self.recommended_sampling = load_vocabulary(model), recommended_sampling(model)
        self.context: int = load_config(model).max_position_embeddings
        self.served_name = ""
        self._version = "unknown"
        self._chosen = True
        self._options: dict[str, Any] = {}
        self._users = 0

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, on_token: TokenCallback | None = None
    ) -> Completion:
        """Generate continuations of a prompt."""
        check_room(self, prompt_ids)
        begun, forwarder = time.perf_counter(), TokenForwarder(on_token)
        body = {**self.body(prompt_ids), **sampling_fields(sampling)}
        call = partial(self._stream, body, forwarder) if on_token else partial(self._complete, body)
        made, answer = await with_retries(call, self.options)
        written = sum(len(each.token_ids) for each in made)
        if len(made) < sampling.n:  # greedy samples are all the same, so only one was generated
            made *= sampling.n
        usage = usage_since(begun, prompt_ids, cached_tokens(answer["usage"]), written)
        return Completion(made, usage + speculation_of(speculation(answer)))

    async def next_token(self, prompt_ids: Sequence[int], candidates: Sequence[int]) -> NextToken:
        """Return the log-probabilities of the candidates as the next token."""
        check_room(self, prompt_ids)
        begun, body = time.perf_counter(), {**self.body(prompt_ids), **scoring(candidates, chosen=self._chosen)}
        given, usage = await with_retries(lambda: self._score(body), self.options)
        found, other = pick(given, candidates, self.name, chosen=self._chosen)
        return NextToken(found, other, usage_since(begun, prompt_ids, cached_tokens(usage), 1))

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
            async with AsyncExitStack() as undo:  # closes the client again when a check below fails
                undo.push_async_callback(self.__aexit__)
                # httpx allows 100 connections by default; further calls would wait here instead of joining a batch.
                self.client = httpx.AsyncClient(
                    base_url=self._address, timeout=self.options.timeout_seconds,
                    limits=httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=60),
                )  # fmt: skip
                self.client.headers.update(authorization())
                await self._connect()
                await asyncio.to_thread(self.describe)  # hashing the weights takes long and would block the loop
                undo.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._users -= 1
        if self._users == 0:
            await self.client.aclose()

    def body(self, prompt_ids: Sequence[int]) -> dict[str, Any]:
        """The fields that all completion requests have in common."""
        # Sampling.stop_token_ids decides where a call ends; vLLM would also stop at the model's own end of sequence.
        return {"model": self.served_name, "prompt": list(prompt_ids), "return_token_ids": True, "ignore_eos": True}

    async def _connect(self) -> None:
        """Check that the server serves the model, and find out what it supports."""
        try:
            served = (await self._request("GET", "/v1/models"))["data"]
            shown = {name for card in served for name in (card["id"], card.get("root")) if name}
        except (KeyError, TypeError, AttributeError):  # it answered JSON of another form
            raise ConfigError(f"{self.url} is no vLLM server", hint="check the URL") from None
        except EngineError as error:
            hint = error.hint or "check the URL and that the server runs"
            raise ConfigError(f"{self.url} cannot be used: {cause(error)}", hint=hint) from error
        card = next((card for card in served if {self._model, self._path} & {card["id"], card.get("root")}), None)
        if card is None:
            wrong = f"{self.url} serves {', '.join(sorted(shown))}, not {self._model!r}"
            raise ConfigError(wrong, hint="name the model it serves")
        self.served_name, self.context = card["id"], card.get("max_model_len") or self.context
        with suppress(EngineError):  # a router may not pass /version on
            self._version = (await self._request("GET", "/version")).get("version", self._version)
        await self._probe()

    async def _probe(self) -> None:
        """Find out whether the server returns token ids, log-probabilities of chosen tokens, and counts."""
        prompt = self.vocabulary.encode("0")
        # A server that does not know logprob_token_ids returns its likeliest tokens; these letters are not among them.
        unlikely = sorted({self.vocabulary.encode(letter)[0] for letter in "qjxzkvQJXZ"})
        try:
            answer = await self._post({**self.body(prompt), **scoring(unlikely, chosen=True)})
            self._chosen = set(unlikely) <= set(logprobs(answer["choices"][0]))
        except (EngineRequestError, EngineDeadError):
            self._chosen = False
        if not self._chosen:
            answer = await self._probe_top(prompt)
        if "token_ids" not in answer["choices"][0]:
            raise ConfigError(f"{self.url} returns no token ids", hint="use vLLM 0.10.2 or later as the server")
        if (answer["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") is None:
            log.warning("%s does not count cached tokens: start it with --enable-prompt-tokens-details", self.name)
        if guesses := speculation(answer).get("num_spec_tokens"):
            # A server does not return the rest of its speculative_config.
            self._options = {"speculative": {"num_speculative_tokens": guesses}}

    async def _probe_top(self, prompt: list[int]) -> dict[str, Any]:
        hint = f"start the server with --max-logprobs {TOP} or more"
        body = {**self.body(prompt), **scoring(prompt, chosen=False)}
        try:  # vLLM with token-level speculation may drop the connection at the request before: retry this one
            answer = await with_retries(lambda: self._post(body), self.options)
        except EngineError as error:
            raise ConfigError(f"{self.url} gives no log-probabilities: {cause(error)}", hint=hint) from error
        if not logprobs(answer["choices"][0]):
            raise ConfigError(f"{self.url} gives no log-probabilities", hint=hint)
        log.warning("%s gives no log-probabilities of chosen tokens: the top %d are used", self.name, TOP)
        return answer

    async def _complete(self, body: dict[str, Any]) -> tuple[list[Generation], dict[str, Any]]:
        answer = await self._post(body)
        return [generation(choice, self.name) for choice in answer["choices"]], answer

    async def _score(self, body: dict[str, Any]) -> tuple[dict[int, float], dict[str, Any]]:
        answer = await self._post(body)
        return logprobs(answer["choices"][0]), answer["usage"]

    async def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self._request("POST", "/v1/completions", json=body)
        if not answer.get("choices") or "usage" not in answer:
            raise EngineDeadError(f"{self.name} answered without choices", engine=self.name, retryable=True)
        return answer

    async def _request(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        async with translating(self.name, self.options):
            response = await self.client.request(method, path, headers=self._headers(), **body)
            check(response, self.name)
            return dict(response.json())

    async def _stream(self, body: dict[str, Any], forwarder: TokenForwarder) -> tuple[list[Generation], dict[str, Any]]:
        """Make the call as a stream, and return the continuations and the event with the usage."""
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        ids: dict[int, list[int]] = {}
        ends: dict[int, dict[str, Any]] = {}
        last: dict[str, Any] = {"usage": {}}
        send = self.client.stream("POST", "/v1/completions", json=body, headers=self._headers())
        async with translating(self.name, self.options), send as response:
            if response.is_error:
                await response.aread()  # httpx does not read the body of a stream by itself; the message is in it
                check(response, self.name)
            async for event in events(response, self.name):
                last = event if event.get("usage") else last
                for choice in event["choices"]:
                    ids.setdefault(choice["index"], []).extend(choice.get("token_ids") or ())
                    if choice.get("finish_reason"):
                        ends[choice["index"]] = choice
                forwarder.tokens(ids.get(0, ()))
        if len(ends) < body["n"]:  # the connection closed without an error, but before the last event
            raise EngineDeadError(f"{self.name}: the stream broke off", engine=self.name, retryable=True)
        return [generation(ends[index], self.name, ids[index]) for index in sorted(ids)], last

    def _headers(self) -> dict[str, str]:
        session = SESSION.get()
        return {self.options.session_header: quote(session)} if session else {}
