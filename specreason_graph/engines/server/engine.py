"""The engine: calls, and finding out what the server can do."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

import httpx

from specreason_graph.engines.base import (
    SESSION,
    Completion,
    EngineDescription,
    Forward,
    Generation,
    NextToken,
    Sampling,
    TokenCallback,
    check_room,
)
from specreason_graph.engines.checkpoint import load_config, load_vocabulary, weights_hash
from specreason_graph.engines.options import CallOptions
from specreason_graph.engines.retry import with_retries
from specreason_graph.engines.server.requests import (
    API_KEY,
    MISSING,
    TOP,
    check,
    events,
    generation,
    logprobs,
    scoring,
    translated,
    usage_of,
    writing,
)
from specreason_graph.errors import (
    ConfigError,
    EngineDeadError,
    EngineError,
    EngineRequestError,
)

log = logging.getLogger(__name__)


class ServerEngine:
    """A model behind an OpenAI-compatible vLLM endpoint.

    ``url``: the server, with or without ``/v1``. ``model``: the model's folder or hub name, for its tokenizer; what the
    server serves must be that model. What the server can do is found out when the engine is opened.
    """

    def __init__(self, url: str, model: str, options: CallOptions | None = None, *, name: str | None = None) -> None:
        self.url = _address(url)
        self.name = f"{name or model} at {self.url}"
        self.options = options or CallOptions()
        self._path, self._model = model, name or model
        self.vocabulary = load_vocabulary(model)
        self.context: int = load_config(model).max_position_embeddings
        self.served_name = ""
        self._version = ""
        self._chosen = True
        self._users = 0

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, on_token: TokenCallback | None = None
    ) -> Completion:
        """Continue a prompt."""
        check_room(self, prompt_ids)
        begun, told = time.perf_counter(), Forward(on_token)
        body = {**self._body(prompt_ids), **writing(sampling)}
        if on_token:
            made, usage = await with_retries(lambda: self._stream(body, told), self.options)
        else:
            answer = await with_retries(lambda: self._post(body), self.options)
            made, usage = [generation(choice, self.name) for choice in answer["choices"]], answer["usage"]
        written = sum(len(generation.token_ids) for generation in made)
        if len(made) < sampling.n:  # greedy samples are all the same
            made *= sampling.n
        return Completion(made, usage_of(prompt_ids, usage, written, begun))

    async def next_token(self, prompt_ids: Sequence[int], candidates: Sequence[int]) -> NextToken:
        """The distribution behind a prompt."""
        check_room(self, prompt_ids)
        begun, body = time.perf_counter(), {**self._body(prompt_ids), **scoring(candidates, chosen=self._chosen)}
        answer = await with_retries(lambda: self._post(body), self.options)
        given = logprobs(answer["choices"][0])
        found = {token: given.get(token, MISSING) for token in candidates}
        other = min(1.0, max(0.0, 1.0 - sum(map(math.exp, found.values()))))
        return NextToken(found, other, usage_of(prompt_ids, answer["usage"], 1, begun))

    def describe(self) -> EngineDescription:
        """What this engine is; the hash is that of the local weights, where there are any."""
        return EngineDescription(
            engine="server", engine_version=self._version, model=self._model,
            weights=weights_hash(self._path) or self.served_name, vocabulary=self.vocabulary.fingerprint,
            dtype="server", device=self.url, context=self.context, scoring="chosen" if self._chosen else "top",
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        self._users += 1
        if self._users == 1:
            key = os.environ.get(API_KEY) or os.environ.get("VLLM_API_KEY")
            self._client = httpx.AsyncClient(
                base_url=self.url, timeout=self.options.timeout_seconds,
                headers={"authorization": f"Bearer {key}"} if key else {},
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=60),
            )  # fmt: skip
            async with AsyncExitStack() as undo:
                undo.push_async_callback(self.__aexit__)
                await self._connect()
                undo.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._users -= 1
        if self._users == 0:
            await self._client.aclose()

    async def _connect(self) -> None:
        """Find out what is served and what the server can do."""
        try:
            served = (await self._request("GET", "/v1/models")).json()["data"]
            self._version = (await self._request("GET", "/version")).json()["version"]
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{self.url} is no vLLM server", hint="check the URL") from None
        except EngineError as error:
            raise ConfigError(f"{self.url} cannot be used: {_cause(error)}", hint=_connect_hint(error)) from error
        names = {name for model in served for name in (model["id"], model.get("root"))}
        card = next((model for model in served if {self._model, self._path} & {model["id"], model.get("root")}), None)
        if card is None:
            shown = ", ".join(sorted(filter(None, names)))
            raise ConfigError(f"{self.url} serves {shown}, not {self._model!r}", hint="name the model it serves")
        self.served_name = card["id"]
        self.context = card.get("max_model_len") or self.context
        await self._probe()

    async def _probe(self) -> None:
        """One scored token: does the server give token ids, chosen log-probabilities, cached tokens."""
        prompt = self.vocabulary.encode("0")
        try:
            answer = await self._post({**self._body(prompt), **scoring(prompt, chosen=True)})
            self._chosen = set(prompt) <= set(logprobs(answer["choices"][0]))
        except (EngineRequestError, EngineDeadError):
            self._chosen = False
        if not self._chosen:
            try:
                answer = await self._post({**self._body(prompt), **scoring(prompt, chosen=False)})
            except EngineError as error:
                hint = f"start the server with --max-logprobs {TOP} or more"
                raise ConfigError(f"{self.url} gives no log-probabilities: {_cause(error)}", hint=hint) from error
            log.warning("%s gives no log-probabilities of chosen tokens: the top %d are used", self.name, TOP)
        if "token_ids" not in answer["choices"][0]:
            raise ConfigError(f"{self.url} returns no token ids", hint="use vLLM 0.10.2 or later as the server")
        if not (answer["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") is not None:
            log.warning("%s does not count cached tokens: start it with --enable-prompt-tokens-details", self.name)

    def _body(self, prompt_ids: Sequence[int]) -> dict[str, Any]:
        return {"model": self.served_name, "prompt": list(prompt_ids), "return_token_ids": True, "ignore_eos": True}

    async def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = (await self._request("POST", "/v1/completions", json=body)).json()
        return answer

    async def _request(self, method: str, path: str, **body: Any) -> httpx.Response:
        try:
            response = await self._client.request(method, path, headers=self._headers(), **body)
        except httpx.HTTPError as error:
            raise translated(error, self.name, self.options) from error
        check(response, self.name)
        return response

    async def _stream(self, body: dict[str, Any], told: Forward) -> tuple[list[Generation], dict[str, Any]]:
        """The same call with the tokens as they come."""
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        ids: dict[int, list[int]] = {}
        ends: dict[int, dict[str, Any]] = {}
        usage: dict[str, Any] = {}
        try:
            async with self._client.stream("POST", "/v1/completions", json=body, headers=self._headers()) as response:
                if response.is_error:
                    await response.aread()
                    check(response, self.name)
                async for event in events(response, self.name):
                    usage = event.get("usage") or usage
                    for choice in event["choices"]:
                        ids.setdefault(choice["index"], []).extend(choice.get("token_ids") or ())
                        if choice.get("finish_reason"):
                            ends[choice["index"]] = choice
                    told.tokens(ids.get(0, ()))
        except httpx.HTTPError as error:
            raise translated(error, self.name, self.options) from error
        if not ends or len(ends) < len(ids):
            raise EngineDeadError(f"{self.name}: the stream broke off", engine=self.name, retryable=True)
        return [generation(ends[index], self.name, ids[index]) for index in sorted(ids)], usage

    def _headers(self) -> dict[str, str]:
        session = SESSION.get()
        return {self.options.session_header: session} if session else {}


def _address(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"URL {url!r} is not valid: {error}", hint="write http://HOST:PORT") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"URL {url!r} is not valid", hint="write http://HOST:PORT")
    return url.rstrip("/").removesuffix("/v1")


def _cause(error: EngineError) -> str:
    return Exception.__str__(error).partition(": ")[2] or Exception.__str__(error)


def _connect_hint(error: EngineError) -> str:
    return error.hint or "check the URL and that the server runs"
