"""A small vLLM server that thinks a few steps about any problem, and whose answers a test may change."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from specreason_graph.engines import locate
from specreason_graph.engines.checkpoint import load_vocabulary
from specreason_graph.engines.vocabulary import HuggingFaceVocabulary

DEEP, SURROGATE, HUGE = "@deep@", "@surrogate@", "@huge@"
RAW = {DEEP: "[" * 5000 + "]" * 5000, SURROGATE: '"\\ud83d"', HUGE: "9" * 5000}
"""What `json.dumps` does not write, by the text that stands for it."""
STEPS = 1


@cache
def words() -> HuggingFaceVocabulary:
    """The vocabulary of both models of the reference pair."""
    return load_vocabulary(locate("abacus-base"))


@dataclass
class Reply:
    """What is sent."""

    documents: list[Any]
    """One, or the events of a stream."""
    is_stream: bool = False
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    """Sent instead of the documents."""
    pours: Callable[[], Iterator[bytes]] | None = None
    """Sent instead, without a length."""

    @property
    def body(self) -> bytes:
        if self.raw is not None:
            return self.raw
        texts = [written(document) for document in self.documents]
        return "".join(f"data: {text}\n\n" for text in [*texts, "[DONE]"]).encode() if self.is_stream else (
            texts[0].encode()
        )  # fmt: skip


def written(document: Any) -> str:
    text = json.dumps(document)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text


@dataclass(frozen=True)
class Asked:
    """What a server was asked."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def kind(self) -> str:
        """``models``, ``version``, ``likelihood``, ``score``, ``stream`` or ``plain``."""
        if self.path.startswith("/v1/completions"):
            if "prompt_logprobs" in self.body:
                return "likelihood"
            if "stop" not in self.body:
                return "score"
            return "stream" if self.body.get("stream") else "plain"
        return self.path.partition("?")[0].rpartition("/")[2]

    @property
    def text(self) -> str:
        return words().decode(self.body.get("prompt", []))


def tokens_of(prompt: str) -> list[int]:
    """What is written behind a prompt: some steps, the end of the thinking, an answer."""
    if "</think>" in prompt:
        return words().encode_template("The answer is 4.<|end|>")
    begun = prompt.rpartition("<think>")[2].count("\n\n")
    return words().encode_template("</think>") if begun >= STEPS else words().encode(f"Now {begun} + 1 is it.\n\n")


LOGPROB = -0.5
"""Of each token of a prompt, and of each generated one."""


def told_of(ids: list[int], top: int) -> dict[str, Any]:
    """The log-probabilities of generated tokens, each beside the likeliest ones."""
    names = [f"token_id:{token}" for token in ids]
    rows = [{name: LOGPROB, **{f"token_id:{token + place}": -3.0 for place in range(1, top)}}
            for name, token in zip(names, ids, strict=True)]  # fmt: skip
    return {"tokens": names, "token_logprobs": [LOGPROB] * len(ids), "top_logprobs": rows}


def likelihood(asked: Asked, common: dict[str, Any]) -> Reply:
    """The log-probabilities of a prompt's tokens, all of them computed, and of the one that follows."""
    prompt = asked.body["prompt"]
    ids = asked.body.get("allowed_token_ids", [5])
    rows: list[Any] = [
        None,
        *({str(token): {"logprob": LOGPROB, "rank": 1, "decoded_token": "a"}} for token in prompt[1:]),
    ]
    choice: dict[str, Any] = {"index": 0, "text": "9", "token_ids": ids, "finish_reason": "length"}
    choice["prompt_logprobs"] = rows
    if "logprobs" in asked.body:
        choice["logprobs"] = told_of(ids, asked.body["logprobs"])
    return Reply([{**common, "choices": [choice], "usage": {"prompt_tokens_details": {"cached_tokens": 0}}}])


def sane(model: str, asked: Asked) -> Reply:
    """The answer of a server that works."""
    if asked.kind == "models":
        return Reply([{"object": "list", "data": [{"id": model, "root": model, "max_model_len": 1024}]}])
    if asked.kind == "version":
        return Reply([{"version": "0.32.0"}])
    if asked.kind in ("pooling", "classify"):
        entry = {"data": [[0.5, 0.5]]} if asked.kind == "pooling" else {"label": "good", "probs": [0.5, 0.5]}
        return Reply([{"object": "list", "model": model, "data": [{"index": 0, **entry}]}])
    prompt, common = asked.body["prompt"], {"id": "cmpl-1", "object": "text_completion", "model": model}
    counts = {"prompt_tokens": len(prompt), "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 0}}
    if asked.kind == "likelihood":
        return likelihood(asked, common)
    if asked.kind == "score":
        wanted = asked.body.get("logprob_token_ids", [5])
        top = {f"token_id:{token}": -0.1 if token == wanted[-1] else -5.0 for token in wanted}
        choice = {"index": 0, "text": "9", "token_ids": [wanted[-1]], "finish_reason": "length", "stop_reason": None}
        return Reply([{**common, "choices": [{**choice, "logprobs": {"top_logprobs": [top]}}], "usage": counts}])
    ids = tokens_of(asked.text)[: asked.body["max_tokens"]]
    stopped = ids[-1] in asked.body["stop_token_ids"] or words().decode(ids).endswith("\n\n")
    stop = None if not stopped or ids[-1] in asked.body["stop_token_ids"] else "\n\n"
    asked_for = asked.body.get("logprobs")
    end = {"finish_reason": "stop" if stopped else "length", "stop_reason": stop}
    if asked.kind == "plain":
        told = None if asked_for is None else told_of(ids, asked_for)
        choice = {"index": 0, "text": words().decode(ids), "logprobs": told, "token_ids": ids, **end}
        return Reply([{**common, "choices": [choice], "usage": counts}])
    parts: list[dict[str, Any]] = [
        {"index": 0, "text": "", "token_ids": [token], **(end if place == len(ids) - 1 else {"finish_reason": None})}
        for place, token in enumerate(ids)
    ]
    if asked_for is not None:
        parts = [{**part, "logprobs": told_of([token], asked_for)} for part, token in zip(parts, ids, strict=True)]
    events = [{**common, "choices": [part], "usage": None} for part in parts]
    return Reply([*events, {**common, "choices": [], "usage": counts}], is_stream=True)


class Server:
    """Serves one model on this machine; ``change`` gets each question and the sane reply, and says what is sent."""

    def __init__(self, model: str, change: Callable[[Asked, Reply], Reply] = lambda _, reply: reply) -> None:
        self.model, self.change = model, change
        self.asked: list[Asked] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self.answer({})

            def do_POST(self) -> None:
                self.answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

            def answer(self, body: dict[str, Any]) -> None:
                asked = Asked(self.path, body, {name.lower(): value for name, value in self.headers.items()})
                outer.asked.append(asked)
                outer.send(self, outer.change(asked, sane(outer.model, asked)))

            def log_message(self, *_: Any) -> None:
                return

        class Listening(ThreadingHTTPServer):
            daemon_threads, block_on_close, request_queue_size = True, False, 128

            def handle_error(self, *_: Any) -> None:  # a client may leave at any moment
                return

        self._http = Listening(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._http.server_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def send(self, to: BaseHTTPRequestHandler, reply: Reply) -> None:
        kind = "text/event-stream" if reply.is_stream else "application/json"
        headers = {"content-type": kind, **reply.headers}
        body = b"" if reply.pours else reply.body
        headers |= {"connection": "close"} if reply.pours else {"content-length": str(len(body))}
        try:
            to.send_response(reply.status)
            for name, value in headers.items():
                to.send_header(name, value)
            to.end_headers()
            to.wfile.write(body)
            for part in reply.pours() if reply.pours else ():
                to.wfile.write(part)
            to.wfile.flush()
        except OSError:  # the client has left
            to.close_connection = True
        to.close_connection = to.close_connection or bool(reply.pours)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@contextmanager
def serving(*models: str) -> Iterator[list[Server]]:
    """A server for each model."""
    servers = [Server(model) for model in models]
    try:
        yield servers
    finally:
        for server in servers:
            server.close()
