"""vLLM servers: a real pair under the supervisor, and what is said of servers that cannot do what is needed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph.checkpoint.sqlite import SqliteSaver

from specreason_graph import EnginePair, create_specreason, open_pair
from specreason_graph.engines import locate
from specreason_graph.engines.base import SESSION, Sampling
from specreason_graph.engines.options import LONG, CallOptions
from specreason_graph.engines.vllm.supervisor import Server, check_free, flags
from specreason_graph.errors import (
    ConfigError,
    EngineDeadError,
    EngineError,
    EngineRequestError,
    EngineTimeoutError,
)
from tests.support.served import Served, serve
from tests.support.traces import NGRAM, PROBLEMS, STAGES, Struck, around, assert_same, counted, solve, tokens

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    served = serve()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECREASON_API_KEY", "sesame")
        yield served
    assert served.stop() == 0


@needs_vllm
def test_traces_and_scores_are_those_of_the_embedded_engine(served: Served, abacus: EnginePair) -> None:
    with served.open_pair() as pair:
        for problem in PROBLEMS:
            assert_same(solve(pair, problem.question), solve(abacus, problem.question))
        assert pair.base.describe().scoring == "chosen"


@needs_vllm
def test_tokens_arrive_as_they_come(served: Served) -> None:
    with served.open_pair() as pair:
        prompt = pair.base.vocabulary.encode(PROBLEMS[0].question)
        seen: list[int] = []
        stop = Sampling(max_tokens=40, stop=("\n\n",))
        streamed = pair.run(lambda: pair.base.generate(prompt, stop, seen.append))
        whole = pair.run(lambda: pair.base.generate(prompt, stop))
        assert streamed.generations == whole.generations
        assert seen == whole.generations[0].token_ids
        assert whole.usage.cached_tokens > 0


@needs_vllm
@pytest.mark.parametrize(
    ("key", "settings", "message"),
    [
        ("wrong", {}, "401 Unauthorized; set SPECREASON_API_KEY to the server's key"),
        ("sesame", {"base": "abacus-draft"}, "serves .*abacus-base.*, not 'abacus-draft'; name the model it serves"),
    ],
)
def test_a_server_that_is_not_ours(
    served: Served, key: str, settings: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECREASON_API_KEY", key)
    with pytest.raises(ConfigError, match=message), served.open_pair(**settings):
        pass


def recommending(role: str, folder: Path) -> str:
    """A model of the reference pair whose makers recommend to sample in a way that changes every text."""
    shutil.copytree(locate(f"abacus-{role}"), folder)
    file = folder / "generation_config.json"
    wanted = {"do_sample": True, "repetition_penalty": 1.3, "temperature": 0.9, "top_k": 20, "top_p": 0.8, "min_p": 0.1}
    file.write_text(json.dumps({**json.loads(file.read_text()), **wanted}))
    return str(folder)


@needs_vllm
@pytest.mark.parametrize("server", ["vllm", "auto"])  # as our servers start, and as those of others do
def test_what_the_makers_of_a_model_recommend_changes_no_token(
    server: str, tmp_path: Path, abacus: EnginePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECREASON_API_KEY", "sesame")
    models = {role: recommending(role, tmp_path / role) for role in ("base", "draft")}
    options = [f"{role}.arguments={json.dumps({'generation_config': server})}" for role in models]
    names = [part for role in models for part in (f"--{role}", models[role])]
    served = serve(*names, *(part for option in options for part in ("--option", option)))
    try:
        with served.open_pair(**models) as pair:
            for problem in PROBLEMS[:3]:
                assert_same(solve(pair, problem.question), solve(abacus, problem.question))
    finally:
        served.stop()


@needs_vllm
def test_a_refused_request_and_a_slow_one(served: Served) -> None:
    with served.open_pair(base_options={"timeout_seconds": 0.4, "retry_seconds": 0}) as pair:
        with pytest.raises(EngineRequestError, match="400"):
            pair.run(lambda: pair.base.generate([10**9], Sampling(max_tokens=1)))
        with pytest.raises(EngineTimeoutError, match=r"within 0\.4 s"):
            pair.run(lambda: pair.base.generate([5], Sampling(max_tokens=LONG, n=8, temperature=1.0)))


@needs_vllm
def test_an_answer_may_take_longer_than_the_limit_while_its_tokens_come(served: Served) -> None:
    with served.open_pair(base_options={"timeout_seconds": 0.4, "retry_seconds": 0}) as pair:
        answer = pair.run(lambda: pair.base.generate([5], Sampling(max_tokens=1000, n=8, temperature=1.0)))
        assert [len(each.token_ids) for each in answer.generations] == [1000] * 8
        assert answer.usage.seconds > 0.4


@needs_vllm
@pytest.mark.parametrize(("role", "method"), STAGES)
def test_an_engine_killed_at_work_comes_back_and_the_trace_is_the_same(
    served: Served, abacus: EnginePair, role: Any, method: str
) -> None:
    question = PROBLEMS[4].question
    with served.open_pair() as pair:
        struck = Struck(pair.engine(role), method, lambda: os.kill(served.core(role), signal.SIGKILL))
        assert_same(solve(around(pair, **{role: struck}), question), solve(abacus, question))


@needs_vllm
@pytest.mark.smollm2
@pytest.mark.parametrize("role", ["base", "draft"])
def test_a_real_chat_model_is_served(smollm2: Path, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECREASON_API_KEY", "sesame")
    served = serve(f"--{role}", str(smollm2), "--option", f"{role}.context=1024", "--option", f"{role}.sequences=4")
    try:
        with served.open_pair(**{role: str(smollm2)}) as pair:
            settings = {"max_steps": 3, "max_step_tokens": 40, "answer_tokens": 20, "threshold": 5}
            outcome = solve(pair, PROBLEMS[0].question, **settings)
        assert outcome["answer"]
        assert pair.engine(role).context == 1024  # type: ignore[arg-type]
        assert any(step["score"] for step in outcome["trace"])
    finally:
        served.stop()


@needs_vllm
@pytest.mark.usefixtures("intel_threads")
def test_speculation_inside_a_served_base_is_counted(abacus: EnginePair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECREASON_API_KEY", "sesame")
    served = serve("--option", f"base.speculative={json.dumps(NGRAM)}")
    try:
        with served.open_pair() as pair:
            outcomes = [solve(pair, problem.question) for problem in PROBLEMS[:8]]
            told = pair.base.describe()
    finally:
        served.stop()
    for problem, outcome in zip(PROBLEMS, outcomes, strict=False):
        assert tokens(outcome) == tokens(solve(abacus, problem.question))
    assert sum(counted(outcome)[1] for outcome in outcomes) > 0
    assert told.options == {"speculative": {"num_speculative_tokens": NGRAM["num_speculative_tokens"]}}
    assert told.scoring == "top"


@needs_vllm
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_servers_do_not_outlive_their_supervisor(number: signal.Signals) -> None:
    import psutil

    served = serve()
    children = psutil.Process(served.process.pid).children(recursive=True)
    assert len(children) >= 4
    served.process.send_signal(number)
    served.process.wait(15)
    if served.process.stdout:
        served.process.stdout.close()
    assert psutil.wait_procs(children, timeout=5)[1] == []


class Stub(BaseHTTPRequestHandler):
    """A server that lacks what ``lacks`` names, and tells of its speculation what ``speculation`` holds."""

    lacks: frozenset[str] = frozenset()
    speculation: dict[str, int] | None = None

    def do_GET(self) -> None:
        card = {"id": "abacus-base", "root": "somewhere", "max_model_len": 512}
        self.answer({"data": [card], "version": "1"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        top = {f"token_id:{token}": -1.0 for token in body.get("logprob_token_ids", [])}
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "length",
            "token_ids": [5],
            "logprobs": {"top_logprobs": [top]},
        }
        if "chosen" in self.lacks:
            choice["logprobs"] = {"top_logprobs": [{"token_id:5": -0.5}]}
        if "logprobs" in self.lacks:
            self.answer({"error": {"message": "logprobs must be at most 0"}}, 400)
            return
        if "token_ids" in self.lacks:
            del choice["token_ids"]
        told = {"usage": {"prompt_tokens": 2}, "metrics": {"speculative_decoding": self.speculation}}
        self.answer({"choices": [choice], **told}, stream=body.get("stream", False))

    def answer(self, document: Any, status: int = 200, *, stream: bool = False) -> None:
        raw = json.dumps(document).encode()
        raw = b"data: " + raw + b"\n\ndata: [DONE]\n\n" if stream else raw
        self.send_response(status)
        self.send_header("content-type", "text/event-stream" if stream else "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        return


def open_stub(*lacks: str, **more: Any) -> EnginePair:
    """A pair on a stub; the socket is closed with the process's other daemon threads."""
    stub = type("Lacking", (Stub,), {"lacks": frozenset(lacks), **more})
    server = ThreadingHTTPServer(("127.0.0.1", 0), stub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return open_pair("abacus-base", "abacus-draft", kind="server", base_url=f"http://127.0.0.1:{server.server_port}/v1")


@pytest.mark.parametrize(
    ("lacks", "message"),
    [
        ("logprobs", "gives no log-probabilities: .*at most 0; start the server with --max-logprobs 20"),
        ("token_ids", "returns no token ids; use vLLM"),
    ],
)
def test_a_server_without_what_is_needed(lacks: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message), open_stub(lacks):
        pass


def test_a_server_without_chosen_logprobs_is_asked_for_the_top_ones() -> None:
    with open_stub("chosen") as pair:
        found = pair.run(lambda: pair.base.next_token([1, 2], [5, 6]))
        assert found.logprobs == {5: -0.5, 6: -100.0}
        assert pair.base.describe().scoring == "top"
        assert pair.base.context == 512


def test_an_adapter_is_named_as_its_server_knows_it() -> None:
    asked: list[str] = []

    class Adapting(Stub):
        def do_GET(self) -> None:
            adapter = {"id": "mine", "root": "/somewhere/mine", "parent": "abacus-base"}
            self.answer({"data": [{"id": "abacus-base", "max_model_len": 512}, adapter], "version": "1"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(body["model"])
            choice = {"index": 0, "finish_reason": "length", "token_ids": [5]}
            top = {f"token_id:{token}": -1.0 for token in body.get("logprob_token_ids", [])}
            self.answer({"choices": [{**choice, "logprobs": {"top_logprobs": [top]}}]})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Adapting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    where: Any = {"kind": "server", "base_url": f"http://127.0.0.1:{server.server_port}"}
    with open_pair("abacus-base", base_options={"lora": "mine"}, **where) as pair:
        assert set(asked) == {"mine"}
        assert pair.base.context == 512  # a server tells the length of the model below only
        assert pair.base.describe().options == {"lora": "mine"}  # a run is not resumed with another adapter
    with open_pair("abacus-base", **where) as pair:
        assert asked[-1] == "abacus-base"
        assert pair.base.describe().options == {}
    with (
        pytest.raises(ConfigError, match=r"serves .*mine.*, not 'yours'; start it with --lora-modules NAME=FOLDER"),
        open_pair("abacus-base", base_options={"lora": "yours"}, **where),
    ):
        pass


def test_what_a_server_tells_of_its_speculation_is_kept() -> None:
    told = {"num_draft_tokens": 12, "num_accepted_draft_tokens": 5, "num_spec_tokens": 3}
    for given, options, counts in (
        (told, {"speculative": {"num_speculative_tokens": 3}}, (12, 5)),
        (None, {}, (0, 0)),
    ):
        with open_stub("chosen", speculation=given) as pair:
            assert pair.base.describe().options == options
            for stream in (None, lambda _: None):
                call = partial(pair.base.generate, [1, 2], Sampling(max_tokens=1), stream)
                usage = pair.run(call).usage
                assert (usage.speculated_tokens, usage.speculated_accepted) == counts


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000", "URL 'localhost:8000' is not valid; write http://HOST:PORT"),
        ("http://127.0.0.1:9", "cannot be used: .*check that the server runs"),
        (None, "needs the URL of the base model; give --base-url"),
    ],
)
def test_a_wrong_url(url: str | None, message: str) -> None:
    with (
        pytest.raises(ConfigError, match=message),
        open_pair("abacus-base", "abacus-draft", kind="server", base_url=url),
    ):
        pass


@pytest.mark.parametrize(
    ("page", "message"), [("<html>", "answered what is no completion"), ('{"choices": []}', "answered without choices")]
)
def test_a_proxy_that_answers_something_else_is_tried_again(page: str, message: str) -> None:
    with open_stub() as pair:
        engine: Any = pair.base
        answers = iter([httpx.Response(200, text=page)])
        plain = engine.client.request

        async def request(*arguments: Any, **more: Any) -> httpx.Response:
            return next(answers, None) or await plain(*arguments, **more)

        engine.client.request = request
        assert pair.run(lambda: pair.base.next_token([1, 2], [5, 6])).logprobs == {5: -1.0, 6: -1.0}
        engine.options = CallOptions(retry_seconds=0)
        answers = iter([httpx.Response(200, text=page)])
        with pytest.raises(EngineDeadError, match=message):
            pair.run(lambda: pair.base.next_token([1, 2], [5, 6]))


NEUTRAL = {
    "temperature": 0, "top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1, "presence_penalty": 0,
    "frequency_penalty": 0,
}  # fmt: skip
"""What a request must say, because the server may go by what the model's makers recommend."""


def test_every_request_names_every_sampling_field() -> None:
    bodies: list[Any] = []

    async def note(request: httpx.Request) -> None:
        bodies.append(json.loads(request.content))

    with open_stub() as pair:
        engine: Any = pair.base
        engine.client.event_hooks["request"] = [note]
        pair.run(lambda: pair.base.next_token([1, 2], [5, 6]))
        pair.run(lambda: pair.base.generate([1, 2], Sampling(max_tokens=1, temperature=0.6, top_p=0.9)))
    scored, written = bodies
    assert {name: scored[name] for name in NEUTRAL} == {**NEUTRAL, "temperature": 0, "top_p": 1}
    assert {name: written[name] for name in NEUTRAL} == {**NEUTRAL, "temperature": 0.6, "top_p": 0.9}


def test_a_run_names_itself_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECREASON_API_KEY", "secret \n")
    seen: list[Any] = []
    with open_stub() as pair:
        engine: Any = pair.base
        engine.client.event_hooks["request"] = [_noting(seen)]
        SESSION.set("Анна\n1")
        pair.run(lambda: pair.base.next_token([1, 2], [5, 6]))
        SESSION.set(None)
    assert seen[0]["x-session-id"] == "%D0%90%D0%BD%D0%BD%D0%B0%0A1"
    assert seen[0]["authorization"] == "Bearer secret"


def _noting(seen: list[Any]) -> Any:
    async def note(request: httpx.Request) -> None:
        seen.append(request.headers)

    return note


def test_the_key_is_in_no_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPECREASON_API_KEY", "sk-topsecret")
    file = tmp_path / "runs.sqlite"
    with open_stub() as pair, SqliteSaver.from_conn_string(str(file)) as saver:
        graph = create_specreason(pair, max_steps=2, max_step_tokens=1, answer_tokens=1).compile(checkpointer=saver)
        graph.invoke({"question": PROBLEMS[0].question}, {"configurable": {"thread_id": "t"}})
        saver.conn.execute("pragma wal_checkpoint(truncate)")
    stored = file.read_bytes()
    assert PROBLEMS[0].question.encode() in stored
    assert b"topsecret" not in stored


def test_a_key_that_no_header_can_hold_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECREASON_API_KEY", "geh\neim")
    with pytest.raises(ConfigError, match="the key in SPECREASON_API_KEY holds") as caught, open_stub():
        pass
    assert "eim" not in str(caught.value)


def test_arguments_become_flags_as_vllm_reads_them() -> None:
    given = {
        "max_model_len": 5,
        "enforce_eager": True,
        "async_scheduling": False,
        "x": None,
        "sizes": [1, 2],
        "c": {"a": 1},
    }
    assert list(flags(given)) == [
        "--max-model-len", "5", "--enforce-eager", "--no-async-scheduling", "--sizes", "1", "2", "--c", '{"a": 1}',
    ]  # fmt: skip


def test_a_taken_port_is_refused() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is taken; choose another with --base-port"):
            check_free([Server("base", [], {}, f"http://127.0.0.1:{port}")])
    pair = [Server(role, [], {}, f"http://127.0.0.1:{port}") for role in ("base", "draft")]
    with pytest.raises(ConfigError, match="the same port"):
        check_free(pair)


def test_every_error_of_httpx_has_a_name_here() -> None:
    from specreason_graph.engines.server.connection import translated

    def below(kind: type[httpx.HTTPError]) -> Iterator[type[httpx.HTTPError]]:
        for each in kind.__subclasses__():
            yield each
            yield from below(each)

    classes = set(below(httpx.HTTPError))
    assert len(classes) > 15
    for each in classes:
        error = each.__new__(each)
        Exception.__init__(error, "cause")
        found = translated(error, "e", CallOptions())
        assert isinstance(found, EngineError)
        gone = issubclass(each, httpx.NetworkError | httpx.RemoteProtocolError | httpx.ProxyError)
        slow = issubclass(each, httpx.TimeoutException)
        assert found.retryable is (gone or slow)
        assert isinstance(found, EngineDeadError) is gone
        assert isinstance(found, EngineTimeoutError) is slow
