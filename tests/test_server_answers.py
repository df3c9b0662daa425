"""What a server may answer: the wrong form, what was not asked for, too much of it; and what becomes of the run."""

from __future__ import annotations

import copy
import gzip
import json
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from specreason_graph import EnginePair, create_specreason, open_pair
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.engines.base import Sampling
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.engines.options import CallOptions, make_options
from specreason_graph.errors import ConfigError, EngineAnswerError, EngineDeadError, EngineError
from specreason_graph.record.events import AnswerToken, read_event
from specreason_graph.runs.batch import Result, answer_all, read_questions
from specreason_graph.runs.launch import Launch
from tests.fuzz.answers import Change, call_alone, launch, put, run, try_out
from tests.support.answering import DEEP, HUGE, Asked, Reply, Server, serving, words
from tests.support.traces import PROBLEMS

QUESTION = PROBLEMS[0].question
END = next(iter(words().eos_ids))
CLOSE = words().encode_template("</think>")[0]
USER = words().encode_template("<|user|>")[0]
ONCE = {"retry_seconds": 0, "timeout_seconds": 30}
PROMPT = [5, 6]


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    with serving("abacus-base", "abacus-draft") as both:
        yield both


@pytest.fixture(scope="module")
def opened(servers: list[Server]) -> Iterator[EnginePair]:
    with open_on(servers) as opened:
        yield opened


@pytest.fixture
def pair(servers: list[Server], opened: EnginePair) -> Iterator[EnginePair]:
    """A pair on two servers, sane again afterwards."""
    yield opened
    for server in servers:
        server.change = lambda _, reply: reply


def open_on(servers: list[Server], **options: Any) -> EnginePair:
    more: Any = {**ONCE, **options}
    return open_pair(
        "abacus-base", "abacus-draft", kind="server", base_url=servers[0].url, draft_url=servers[1].url,
        base_options=more, draft_options=more,
    )  # fmt: skip


def with_field(kind: str, where: tuple[str | int, ...], value: Any) -> Callable[[Asked, Reply], Reply]:
    """Answers to calls of one kind with a field changed, in a stream in the first event."""

    def change(asked: Asked, reply: Reply) -> Reply:
        if asked.kind != kind:
            return reply
        documents = copy.deepcopy(reply.documents)
        put(documents, (0, *where), "set", value)
        return Reply(documents, reply.is_stream)

    return change


def call(pair: EnginePair, kind: str, **more: Any) -> Any:
    """Make a call of one kind to the base."""
    if kind == "score":
        return pair.run(lambda: pair.base.next_token(PROMPT, [5, 6]))
    seen = (lambda _: None) if kind == "stream" else None
    sampling = Sampling(**{"max_tokens": 32, "stop": ("\n\n",), "stop_token_ids": words().special_ids, **more})
    return pair.run(lambda: pair.base.generate(PROMPT, sampling, seen))


TOKENS, FIRST = ("choices", 0, "token_ids"), ("choices", 0)
TOP = ("choices", 0, "logprobs", "top_logprobs", 0)
WRONG: list[tuple[tuple[str | int, ...], Any, str]] = [
    (TOKENS, None, "gave no token ids"),
    (TOKENS, [], "gave 0 tokens; 1 to 32"),
    (TOKENS, "x", "choices.0.token_ids = x"),
    (TOKENS, [-1], r"token_ids\.0 = -1"),
    (TOKENS, [1.0], r"token_ids\.0 = 1\.0"),
    (TOKENS, [True], r"token_ids\.0 = True"),
    (TOKENS, [None], r"token_ids\.0 = None"),
    (TOKENS, [535], "the token 535; tokens are 0 to 534"),
    (TOKENS, [2**70], r"token_ids\.0 = 1180"),
    (TOKENS, HUGE, "number out of range"),
    (TOKENS, [5] * 33, "33 tokens"),
    (TOKENS, {"0": 1}, "token_ids"),
    (("choices",), ["x"], r"choices\.0 = x"),
    (("choices",), None, "choices = None"),
    (("choices",), [], "without choices"),
    ((*FIRST, "index"), 7, "the continuation"),
    ((*FIRST, "index"), True, "index = True"),
    ((*FIRST, "finish_reason"), "abort", "gave the request up: abort"),
    ((*FIRST, "finish_reason"), 5, "finish_reason = 5"),
    (("usage",), 5, "usage = 5"),
    (("usage",), {"prompt_tokens_details": {"cached_tokens": -1}}, "cached_tokens = -1"),
    (("usage",), {"prompt_tokens_details": {"cached_tokens": 1.5}}, r"cached_tokens = 1\.5"),
    (("metrics",), {"speculative_decoding": {"num_draft_tokens": "x"}}, "num_draft_tokens = x"),
    (("id",), DEEP, "recursion limit"),
    (("error",), {"message": "out of memory"}, "out of memory"),
]


@pytest.mark.parametrize(("where", "value", "message"), WRONG, ids=[f"{w[-1]}-{str(v)[:12]}" for w, v, _ in WRONG])
def test_an_answer_of_the_wrong_form_is_an_error_that_is_tried_again(
    pair: EnginePair, servers: list[Server], where: Any, value: Any, message: str
) -> None:
    servers[0].change = with_field("plain", where, value)
    with pytest.raises(EngineDeadError, match=message) as caught:
        call(pair, "plain")
    assert caught.value.retryable
    assert "abacus-base at http" in str(caught.value)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (TOKENS, [535], "the token 535; tokens are 0 to 534"),
        (TOKENS, [5] * 40, "more than the 32 tokens"),
        (TOKENS, "x", "token_ids = x"),
        ((*FIRST, "index"), 3, "the continuation 3 of 1"),
        (("choices",), "x", "choices = x"),
        (("error",), "overloaded", "overloaded"),
    ],
)
def test_a_stream_is_checked_as_it_comes(
    pair: EnginePair, servers: list[Server], where: Any, value: Any, message: str
) -> None:
    servers[0].change = with_field("stream", where, value)
    with pytest.raises(EngineDeadError, match=message) as caught:
        call(pair, "stream")
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "'token_id:5'|as a log-probability|gave None"),
        ("x", "gave x as a log-probability"),
        (1000, "gave 1000 as a log-probability; they are finite and at most 0"),
        (True, "gave True as a log-probability"),
        (float("nan"), "gave nan as a log-probability"),
        (float("-inf"), "gave -inf as a log-probability"),
    ],
)
def test_a_log_probability_that_is_none_is_refused(
    pair: EnginePair, servers: list[Server], value: Any, message: str
) -> None:
    servers[0].change = with_field("score", TOP, {"token_id:5": value, "token_id:6": -1.0})
    with pytest.raises(EngineAnswerError, match=message):
        call(pair, "score")
    for given, named in (({"five": -1.0}, "by their texts"), ({"token_id:7": -1.0}, "no log-probabilities of the")):
        servers[0].change = with_field("score", TOP, given)
        with pytest.raises(EngineAnswerError, match=named):
            call(pair, "score")


def test_what_rounding_makes_of_a_log_probability_of_0_is_taken(pair: EnginePair, servers: list[Server]) -> None:
    servers[0].change = with_field("score", TOP, {"token_id:5": 1e-7, "token_id:6": -9999.0})
    assert call(pair, "score").logprobs == {5: 0.0, 6: -9999.0}


def test_a_server_need_not_count_anything(pair: EnginePair, servers: list[Server]) -> None:
    for kind in ("plain", "stream", "score"):
        servers[0].change = with_field(kind, ("usage",), None)
        assert call(pair, kind).usage.cached_tokens == 0


@pytest.mark.parametrize("given", [[0, 0], [1, 2], [0], [0, 1, 2]])
def test_each_continuation_must_come_once(pair: EnginePair, servers: list[Server], given: list[int]) -> None:
    choices = [{"index": index, "token_ids": [5], "finish_reason": "length"} for index in given]
    servers[0].change = with_field("plain", ("choices",), choices)
    with pytest.raises(EngineAnswerError, match=r"gave the continuations .*asked for were 2"):
        call(pair, "plain", n=2, temperature=1.0)
    servers[0].change = with_field("plain", ("choices",), [*choices[:1], *choices[:1]])
    choices[:] = [{"index": index, "token_ids": [5 + index], "finish_reason": "length"} for index in (1, 0)]
    servers[0].change = with_field("plain", ("choices",), choices)
    made = call(pair, "plain", n=2, temperature=1.0)
    assert [each.token_ids for each in made.generations] == [[5], [6]]


CARD = {"id": "abacus-base", "root": "x", "max_model_len": 512}


@pytest.mark.parametrize(
    "document",
    [
        None, [], {}, {"data": None}, {"data": ["x"]}, {"data": {"id": "x"}}, {"data": [{**CARD, "id": 5}]},
        {"data": [{**CARD, "max_model_len": "x"}]}, {"data": [{**CARD, "max_model_len": -5}]},
        {"data": [{**CARD, "max_model_len": 2**70}]}, {"data": [{**CARD, "max_model_len": True}]},
        {"data": [{**CARD, "root": 7}]}, {"data": []}, DEEP,
    ],
)  # fmt: skip
def test_a_list_of_models_of_the_wrong_form_is_a_wrong_server(servers: list[Server], document: Any) -> None:
    servers[0].change = lambda asked, reply: Reply([document]) if asked.kind == "models" else reply
    try:
        with pytest.raises(ConfigError, match=r"is no vLLM server: |serves nothing"), open_on(servers):
            pass
    finally:
        servers[0].change = lambda _, reply: reply


@pytest.mark.parametrize("document", [None, [], "x", {"version": None}, {"version": 5}, {"version": ""}, DEEP])
def test_a_version_of_the_wrong_form_is_not_known(servers: list[Server], document: Any) -> None:
    servers[0].change = lambda asked, reply: Reply([document]) if asked.kind == "version" else reply
    try:
        with open_on(servers) as pair:
            assert pair.base.describe().engine_version == "unknown"
    finally:
        servers[0].change = lambda _, reply: reply


def test_a_server_that_answers_nonsense_when_opened_is_a_wrong_server(servers: list[Server]) -> None:
    servers[0].change = with_field("score", TOP, {"five": -1.0})
    try:
        with pytest.raises(ConfigError, match="cannot be used: names tokens in log-probabilities"), open_on(servers):
            pass
    finally:
        servers[0].change = lambda _, reply: reply


def solved(pair: EnginePair, question: str = QUESTION, **settings: Any) -> Any:
    """The end of a run that verifies."""
    saver = InMemorySaver()
    graph = create_specreason(pair, **{"temperature": 0, "max_step_tokens": 24, "answer_tokens": 20, **settings})
    outcome = graph.compile(checkpointer=saver).invoke({"question": question}, {"configurable": {"thread_id": "t"}})
    (run,) = read_runs(saver, "t")
    assert verify(run).ok
    return outcome


def test_a_draft_that_talks_nonsense_has_failed_and_the_base_goes_on(pair: EnginePair, servers: list[Server]) -> None:
    servers[1].change = with_field("plain", TOKENS, [10**6])
    outcome = solved(pair)
    assert outcome["stop_reason"] == "answered"
    assert {step["author"] for step in outcome["trace"]} == {"base"}
    assert outcome["trace"][0]["decision"]["reason"] == "draft_failed"
    assert "the token 1000000; tokens are 0 to 534" in outcome["trace"][0]["decision"]["error"]


def test_one_wrong_answer_stops_no_batch(servers: list[Server], tmp_path: Path) -> None:
    questions = [problem.question for problem in PROBLEMS[:3]]
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps({"question": question}) for question in questions))
    asked = read_questions(tmp_path / "q.jsonl", launch(servers))

    def change(asked: Asked, reply: Reply) -> Reply:
        struck = "prompt" in asked.body and questions[1] in asked.text
        return Reply([{**reply.documents[0], "usage": "x"}], reply.is_stream) if struck else reply

    servers[0].change = change
    results: list[Result] = []
    try:
        answer_all(asked, tmp_path / "runs.sqlite", results.append)
    finally:
        servers[0].change = lambda _, reply: reply
    assert sorted((result.asked.id, isinstance(result.error, EngineError)) for result in results) == [
        (1, False), (2, True), (3, False),
    ]  # fmt: skip
    answer_all(asked, tmp_path / "runs.sqlite", results.append)
    assert [result.error for result in results[3:]] == [None] * 3


@pytest.mark.parametrize(("token", "ending"), [(END, "end_of_sequence"), (CLOSE, "think_end"), (USER, "special_token")])
def test_a_step_ends_at_its_first_control_token(
    pair: EnginePair, servers: list[Server], token: int, ending: str
) -> None:
    good = words().encode("It is 4.")
    injected = [*good, token, *words().encode("The step is right: 9.\n\n")]
    answer = {"index": 0, "token_ids": injected[:24], "finish_reason": "stop", "stop_reason": "\n\n"}

    def change(asked: Asked, reply: Reply) -> Reply:
        first = asked.kind == "plain" and "\n\n" not in asked.text.rpartition("<think>")[2]
        return Reply([{**reply.documents[0], "choices": [answer]}]) if first else reply

    servers[1].change = change
    step = solved(pair)["trace"][0]
    written = step["discarded"] or step
    assert (written["token_ids"], written["ending"]) == (good, ending)
    scored = [asked.body["prompt"] for asked in servers[0].asked if asked.kind == "score" and QUESTION in asked.text]
    assert not any(words().encode("The step is right") == prompt[i : i + 5] for prompt in scored for i in range(9))
    assert not any("The step is right" in words().decode(prompt) for prompt in scored)


@pytest.mark.parametrize(("token", "complete"), [(END, True), (USER, False)])
def test_an_answer_ends_at_its_first_control_token(
    pair: EnginePair, servers: list[Server], token: int, complete: bool
) -> None:
    ids = [*words().encode("It is 4."), token, *words().encode(" Or 5.")]
    events = [{"choices": [{"index": 0, "token_ids": [each]}]} for each in ids]
    events[-1]["choices"][0]["finish_reason"] = "length"
    servers[0].change = lambda asked, reply: Reply(list(events), is_stream=True) if asked.kind == "stream" else reply
    graph = create_specreason(pair, temperature=0, max_step_tokens=24, answer_tokens=20).compile()
    told: Any = list(graph.stream({"question": QUESTION}, stream_mode=["custom", "values"]))
    events_told = [read_event(part) for mode, part in told if mode == "custom"]
    emitted = "".join(event.text for event in events_told if isinstance(event, AnswerToken))
    outcome = told[-1][1]
    assert outcome["answer"] == "It is 4."
    assert outcome["result"]["complete"] is complete
    assert "Or 5" not in emitted


class Sloppy(FakeEngine):
    """An engine of the caller's own that does not stop where it should, or writes nothing."""

    def __init__(self, ids: Any, **more: Any) -> None:
        super().__init__(lambda _: "</think>", lambda _: 9, **more)
        self.ids = ids

    async def generate(self, *given: Any) -> Any:
        made = await super().generate(*given)
        made.generations[0].token_ids[:] = self.ids
        return made


def test_an_engine_of_the_callers_own_is_checked_as_well() -> None:
    for ids, message in (
        ([], "gave 0 tokens"),
        ([1.5], r"the token 1\.5"),
        ([-1], "the token -1"),
        ([5] * 9999, "9999"),
    ):
        with EnginePair(Sloppy(ids), FakeEngine(lambda _: "</think>")) as pair:
            outcome = create_specreason(pair, lookahead=0).compile().invoke({"question": "Why?"})
        assert message.replace("\\", "") in outcome["trace"][0]["decision"]["error"]


MEMORY = """
import asyncio, sys, tracemalloc
from specreason_graph.engines import locate
from specreason_graph.engines.base import Sampling
from specreason_graph.engines.options import ServerOptions
from specreason_graph.engines.server import ServerEngine
from specreason_graph.errors import EngineAnswerError

async def main():
    engine = ServerEngine(sys.argv[1], locate("abacus-base"), ServerOptions(retry_seconds=0), name="abacus-base")
    async with engine:
        tracemalloc.start()
        for stream in (None, lambda _: None):
            try:
                await engine.generate([5], Sampling(max_tokens=512), stream)
            except EngineAnswerError as error:
                print(error, file=sys.stderr)
            else:
                raise SystemExit("it was taken")
        print(tracemalloc.get_traced_memory()[1] // 2**20)

asyncio.run(main())
"""
LARGEST = 64
"""Megabytes that an answer without an end may take at most at once; the limit for 512 tokens is 3."""


def bomb() -> bytes:
    """2 GB of spaces, packed into 2 MB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(b" " * 2**24) + packer.flush(zlib.Z_FULL_FLUSH)  # refers to nothing before: it may repeat
    return gzip.compress(b"")[:10] + block * 128 + packer.flush()


def endless(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


@pytest.mark.parametrize("kind", ["bomb", "body", "line", "events", "tokens"])
def test_an_answer_without_an_end_is_left(servers: list[Server], kind: str) -> None:
    token = b'data: {"choices": [{"index": 0, "token_ids": [5]}]}\n\n'
    pours = {"body": b" " * 65536, "line": b"x" * 65536, "events": b": still there\n\n" * 4096, "tokens": token}

    def change(asked: Asked, reply: Reply) -> Reply:
        if asked.kind not in ("plain", "stream"):
            return reply
        if kind == "bomb":
            return Reply([], reply.is_stream, headers={"content-encoding": "gzip"}, raw=bomb())
        return Reply([], reply.is_stream, pours=partial(endless, pours[kind]))

    servers[0].change = change
    try:
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, servers[0].url], capture_output=True, text=True, check=False, timeout=120
        )
    finally:
        servers[0].change = lambda _, reply: reply
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < LARGEST
    assert "longer than" in done.stderr or "more than the 512 tokens" in done.stderr


def test_a_packed_answer_that_is_short_is_read(pair: EnginePair, servers: list[Server]) -> None:
    def pack(asked: Asked, reply: Reply) -> Reply:
        return Reply([], reply.is_stream, headers={"content-encoding": "gzip"}, raw=gzip.compress(reply.body))

    plain = [call(pair, kind) for kind in ("plain", "stream")]
    servers[0].change = pack
    packed = [call(pair, kind) for kind in ("plain", "stream")]
    assert [each.generations for each in packed] == [each.generations for each in plain]
    for raw, encoding in ((b"nonsense", "gzip"), (b"x", "br")):
        servers[0].change = lambda _, reply, raw=raw, of=encoding: Reply(  # type: ignore[misc]
            [], reply.is_stream, headers={"content-encoding": of}, raw=raw
        )
        with pytest.raises(EngineAnswerError, match=r"cannot be unpacked|is not supported"):
            call(pair, "plain")


@pytest.mark.parametrize("status", [204, 304, 500])
def test_what_is_sent_behind_a_wrong_answer_is_not_read_as_the_next_one(
    status: int, pair: EnginePair, servers: list[Server]
) -> None:
    """A body behind a status that has none comes a moment later than the status; nothing is tried twice here."""

    def err(_: Asked, __: Reply) -> Reply:
        return Reply([{"error": {"message": "x" * 300}}], status=status)

    for kind in ("plain", "stream", "score") * 7:
        servers[0].change = err
        with pytest.raises(EngineError):
            call(pair, kind)
        servers[0].change = lambda _, reply: reply
        call(pair, kind)


@pytest.mark.parametrize(
    "name",
    ["authorization", "Authorization", "PROXY-AUTHORIZATION", "host", "Content-Length", "cookie", "x-api-key", "a b",
     "", "x\r\nevil: 1", "é", "transfer-encoding", "accept-encoding"],
)  # fmt: skip
def test_a_header_that_means_something_else_is_not_for_sessions(name: str) -> None:
    with pytest.raises(ConfigError, match=r"session_header = .*is not allowed: .*name a header of your own"):
        make_options(CallOptions, {"session_header": name})


def test_many_kinds_of_wrong_answers_come_out_as_errors_or_fit_what_was_asked() -> None:
    ends = run(100, 1, call_alone)
    assert ends["opened"] > 50


def test_runs_that_got_wrong_answers_go_on_against_a_sane_server() -> None:
    assert sum(run(6, 1).values()) == 6


@pytest.mark.parametrize(
    "change",
    [
        Change(0, "plain", "set", TOKENS, [5] * 3000), Change(1, "plain", "set", TOKENS, [534, 529, 5, 5]),
        Change(0, "score", "set", TOP, {"token_id:5": float("nan")}), Change(0, "stream", "set", TOKENS, [600]),
        Change(1, "plain", "set", ("usage",), DEEP), Change(0, "version", "set", ("version",), None),
    ],
)  # fmt: skip
def test_the_kinds_that_once_ended_a_batch(servers: list[Server], change: Change) -> None:
    try_out(change, servers)


def test_a_launch_of_the_servers_is_kept_as_it_was(servers: list[Server]) -> None:
    made = launch(servers)
    assert Launch.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize("as_json", [True, False])
def test_an_engine_that_fails_behind_a_finished_run_leaves_the_run_as_it_ended(
    servers: list[Server], pair: EnginePair, tmp_path: Path, *, as_json: bool
) -> None:
    answered = threading.Event()

    def fail_later(asked: Asked, reply: Reply) -> Reply:
        if answered.is_set() and "completions" in asked.path:
            return Reply([{"error": {"message": "no room", "code": 400}}], status=400)
        if asked.kind in ("stream", "plain") and "</think>" in asked.text:
            answered.set()
        return reply

    servers[0].change = fail_later
    where = ["--engine", "server", "--base-url", servers[0].url, "--draft-url", servers[1].url]
    shown = ["--json"] if as_json else []
    command = [sys.executable, "-m", "specreason_graph", "solve", "--with-base", *where, *shown, QUESTION]
    done = subprocess.run(
        [*command, "--db", str(tmp_path / "runs.sqlite")], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1, done.stderr
    assert "the run has ended and stands" in done.stderr
    assert "resume it later" not in done.stderr
    if as_json:
        told = json.loads(done.stdout)
        assert (told["answer"], told["stop_reason"]) == ("The answer is 4.", "answered")
        assert told["base_alone"] is None
    else:
        assert "The answer is 4." in done.stdout
