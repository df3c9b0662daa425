"""`specreason serve`: OpenAI's own client, LangChain's and an agent framework's over scripted and real pairs."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.sqlite import SqliteSaver
from openai import AsyncOpenAI, OpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from specreason_graph import EnginePair
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.cli.app import run as run_command
from specreason_graph.config import make_config
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import ConfigError, EngineDeadError
from specreason_graph.serving import ServeOptions, create_app
from tests.support.api_server import ASKED, STOCK, ask, asking, client_of, killed, metrics_of, serving, stream, thought
from tests.support.counting import idle, slow_pair
from tests.support.scripts import ANSWER, CLOSE, done, is_closed, stepwise
from tests.support.waiting import until

ROOT = Path(__file__).parents[1]
CALL = '<tool_call>\n{"name": "stock", "arguments": {"item": "pens"}}\n</tool_call>'
FORM = {"type": "object", "properties": {"pens": {"type": "integer"}}, "required": ["pens"]}


def thinking(prompt: str) -> str:
    return CLOSE if prompt.rpartition("<think>")[2].count("\n\n") else "The stock is looked up.\n\n"


def calling(prompt: str) -> str:
    """A base that calls the tool it is given, and then says what the tool said."""
    if not is_closed(prompt):
        return CLOSE
    if prompt.endswith('"arguments": '):  # a call that is forced has begun
        return CALL.partition('"arguments": ')[2]
    if told := re.findall(r"<tool_response>\n(\d+)", prompt):
        return f"There are {told[-1]}."
    return CALL if "Tools: " in prompt else "There are some."


def caller() -> EnginePair:
    return EnginePair(FakeEngine(thinking, name="draft"), FakeEngine(calling, lambda _: 9, name="base"))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served") / "runs.sqlite"


@pytest.fixture(scope="module")
def server(database: Path) -> Iterator[str]:
    """A scripted pair that calls tools."""
    with caller() as pair, serving(pair, database=database) as url:
        yield url


@pytest.fixture
def client(server: str) -> Iterator[OpenAI]:
    with client_of(server) as client:
        yield client


def test_a_reply_and_its_stream_say_the_same(client: OpenAI) -> None:
    message = ask(client).choices[0].message
    assert (message.content, message.role) == ("There are some.", "assistant")
    assert thought(message) == ("The stock is looked up.\n\n",) * 2
    pieces = stream(client)
    deltas = [choice.delta for piece in pieces for choice in piece.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == message.content
    for name in (0, 1):
        assert "".join(thought(delta)[name] or "" for delta in deltas) == thought(message)[name]
    first_word = next(number for number, delta in enumerate(deltas) if delta.content)
    last_step = max(number for number, delta in enumerate(deltas) if thought(delta)[0])
    assert last_step < first_word
    assert [choice.finish_reason for piece in pieces for choice in piece.choices if choice.finish_reason] == ["stop"]


def test_what_is_written_at_once_is_not_sent_an_event_a_token() -> None:
    answer = "There are " + "many, " * 100 + "many."
    draft, base = FakeEngine(["Counted.\n\n", "</think>"]), FakeEngine(["</think>", answer], [9], name="base")
    with asking(EnginePair(draft, base)) as client:
        pieces = [choice.delta.content for piece in stream(client) for choice in piece.choices if choice.delta.content]
    assert "".join(pieces) == answer
    assert len(pieces) < len(answer) / 10


def test_usage_tells_the_thinking_and_the_work_of_each_model(client: OpenAI) -> None:
    usage = ask(client).usage
    assert usage
    assert usage.completion_tokens_details
    assert usage.completion_tokens_details.reasoning_tokens == len("The stock is looked up.\n\n")
    assert usage.completion_tokens == len("The stock is looked up.\n\n" + "There are some.") + 1  # and its end
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.model_extra
    work = usage.model_extra["by_model"]
    assert work["draft"]["generated_tokens"] >= usage.completion_tokens_details.reasoning_tokens
    assert work["base"]["calls"] >= 2  # the score and the answer
    assert not any(piece.usage for piece in stream(client))
    *_, last = stream(client, stream_options={"include_usage": True})
    assert (last.choices, last.usage and last.usage.completion_tokens) == ([], usage.completion_tokens)


def test_the_thread_of_a_reply_can_be_audited(
    client: OpenAI, database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = client.chat.completions.with_raw_response.create(model="base", messages=ASKED)
    whole: Any = raw.parse()
    assert raw.headers["x-specreason-thread"] == whole.thread_id == whole._request_id  # noqa: SLF001 - documented
    pieces = stream(client)
    (thread,) = {piece.model_extra["thread_id"] for piece in pieces if piece.model_extra}
    for each in (thread, whole.thread_id):
        assert run_command(["audit", "verify", each, "--db", str(database)]) == 0
        assert run_command(["audit", "show", each, "--db", str(database)]) == 0
        assert "The stock is looked up." in capsys.readouterr().out


def test_the_pair_is_a_model(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, client.models.retrieve("base").id) == ("base", "base")
    assert model.model_extra
    assert model.model_extra["draft"] == "draft"


def test_earlier_thinking_reaches_the_models_under_either_name() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "stock", "arguments": '{"item": "pens"}'}}]
    told: Any = {"role": "tool", "tool_call_id": "c1", "content": "14"}
    pair = caller()
    with asking(pair) as client:
        for name in ("reasoning", "reasoning_content"):
            before: Any = {"role": "assistant", "content": None, "tool_calls": calls, name: "As I thought."}
            reply = ask(client, messages=[*ASKED, before, told], tools=[STOCK])
            assert reply.choices[0].message.content == "There are 14."
    base: Any = pair.base
    assert any("stock" in pair.base.vocabulary.decode(call.prompt_ids) for call in base.calls)


def test_a_tool_loop_of_the_openai_client(client: OpenAI) -> None:
    messages, replies = [*ASKED], list[Any]()
    while not replies or replies[-1].tool_calls:
        (choice,) = ask(client, messages=messages, tools=[STOCK]).choices
        replies.append(choice.message)
        messages.append(choice.message.model_dump(exclude_none=True))
        for call in choice.message.tool_calls or ():
            assert call.type == "function"
            assert (choice.finish_reason, json.loads(call.function.arguments)) == ("tool_calls", {"item": "pens"})
            messages.append({"role": "tool", "tool_call_id": call.id, "content": "14"})
    assert [reply.content for reply in replies] == [None, "There are 14."]


def test_calls_are_streamed_and_forced(client: OpenAI) -> None:
    for choice in ("auto", "required", {"type": "function", "function": {"name": "stock"}}):
        pieces = stream(client, tools=[STOCK], tool_choice=choice)
        called = [call for piece in pieces for each in piece.choices for call in each.delta.tool_calls or ()]
        assert [(call.index, call.function.name) for call in called if call.function] == [(0, "stock")]
        assert pieces[-1].choices[0].finish_reason == "tool_calls"
    assert ask(client, tools=[STOCK], tool_choice="none").choices[0].message.tool_calls is None


def test_of_several_calls_the_first_is_taken_where_one_is_wanted() -> None:
    base = FakeEngine(lambda prompt: CALL * 2 if is_closed(prompt) else CLOSE, lambda _: 9, name="base")
    with asking(EnginePair(FakeEngine(thinking), base)) as client:
        for several in (True, False):
            calls = ask(client, tools=[STOCK], parallel_tool_calls=several).choices[0].message.tool_calls
            assert len(calls or ()) == 1 + several


def test_a_call_that_cannot_be_read_is_text() -> None:
    written = '<tool_call>\n{"name": "jump", "arguments": {}}\n</tool_call>'
    base = FakeEngine(lambda prompt: written if is_closed(prompt) else CLOSE, lambda _: 9, name="base")
    with asking(EnginePair(FakeEngine(thinking), base)) as client:
        whole = ask(client, tools=[STOCK]).choices[0]
        pieces = stream(client, tools=[STOCK])
    assert whole.message.content
    assert "jump" in whole.message.content
    assert (whole.message.tool_calls, whole.finish_reason) == (None, "stop")
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole.message.content


def test_langchain_works_through_its_tools(server: str) -> None:
    @tool
    def stock(item: str) -> int:
        """How many of an item are there."""
        return {"pens": 14}[item]

    chat = ChatOpenAI(model="base", base_url=server, api_key="none", max_retries=0, include_response_headers=True)
    outcome = create_agent(chat, tools=[stock]).invoke({"messages": [HumanMessage("How many pens?")]})
    assert [message.type for message in outcome["messages"]] == ["human", "ai", "tool", "ai"]
    assert outcome["messages"][-1].text == "There are 14."
    assert outcome["messages"][-1].usage_metadata["output_token_details"]["reasoning"] > 0
    assert re.fullmatch(r"\w{16}", outcome["messages"][-1].response_metadata["headers"]["x-specreason-thread"])
    chunks = list(chat.stream("How many pens?"))
    assert "".join(chunk.text for chunk in chunks) == "There are some."
    with pytest.raises(openai.BadRequestError, match="logprobs cannot be honoured"):
        chat.bind(logprobs=True).invoke("How many?")


async def test_pydantic_ai_works_through_its_tools(server: str) -> None:
    def stock(item: str) -> int:
        """How many of an item are there."""
        return {"pens": 14}[item]

    async with AsyncOpenAI(base_url=server, api_key="none") as client:
        model = OpenAIChatModel("base", provider=OpenAIProvider(openai_client=client))
        result = await Agent(model, tools=[stock]).run("How many pens?")
    assert result.output == "There are 14."
    kinds = [part.part_kind for message in result.all_messages() for part in message.parts]
    assert kinds == ["user-prompt", "thinking", "tool-call", "tool-return", "thinking", "text"]
    assert result.usage.details["reasoning_tokens"] > 0


@pytest.mark.parametrize("how", [["stream"], []])
async def test_a_client_that_is_killed_while_it_waits_is_forgotten(how: list[str]) -> None:
    pair = slow_pair(steps=400, draft=0.1, base=0.1)  # the first is at work until the second is there
    with asking(pair, concurrency=1) as client:
        pieces: Any = ask(client, stream=True)
        assert next(pieces)

        def waiting() -> bool:
            return "specreason_waiting 1.0" in metrics_of(client)

        await killed(client, "How many?", how, waiting)
        await until(lambda: not waiting(), 1)
        pieces.close()
        assert idle(pair)
        await until(lambda: 'specreason_runs_total{end="left"} 2.0' in metrics_of(client), 1)


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"logprobs": True}, "logprobs", "logprobs cannot be honoured; it can only be false"),
    ({"n": 2}, "n", "n cannot be honoured; it can only be 1"),
    ({"frequency_penalty": 0.5}, "frequency_penalty", "can only be 0"),
    ({"logit_bias": {"5": 1}}, "logit_bias", "it can only be {}"),
    ({"reasoning_effort": "low"}, "reasoning_effort", "thinking_tokens"),
    ({"extra_body": {"functions": []}}, "functions", "write tools"),
    ({"extra_body": {"top_k": 5}}, "top_k", "unknown parameter top_k"),
    ({"messages": []}, "messages", "at least 1"),
    ({"messages": [{"role": "function", "content": "x"}]}, "messages.0.role", "'user'"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages", "message 0 lacks 'tool_call_id'"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "valid string"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages", "message 0"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "messages", "the question is empty"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "only text can be read"),
    ({"temperature": 3}, "", "temperature = 3.0 is not allowed"),
    ({"seed": -1}, "", "seed = -1 is not allowed"),
    ({"extra_body": {"seed": True}}, "seed", "valid integer"),
    ({"stop": [""]}, "", "stop"),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"max_completion_tokens": 1}, "max_completion_tokens", "allow 2 or more"),
    ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
    ({"tools": [STOCK], "tool_choice": "jump"}, "", "tool_choice 'jump' is no tool; tools: stock"),
    ({"tools": [STOCK], "tool_choice": {"type": "function", "function": {"name": "jump"}}}, "", "is no tool"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "", "a tool is named 'a b'"),
    ({"tools": [{"type": "function", "function": [1]}]}, "tools.0.function", ""),
    ({"response_format": {"type": "json_schema"}}, "", "response_format = "),
    ({"response_format": {"type": "grammar"}}, "", "is not understood"),
    ({"extra_body": {"specreason": {"treshold": 7}}}, "", "specreason.treshold cannot be chosen"),
    ({"extra_body": {"specreason": {"judge": {"kind": "reward", "url": "http://a"}}}}, "", "specreason.judge cannot"),
    ({"extra_body": {"specreason": {"threshold": 70}}}, "", "threshold = 70 is not allowed"),
]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("more", "param", "message"), BAD)
def test_bad_requests_are_openai_errors(
    client: OpenAI, more: dict[str, Any], param: str, message: str, *, streamed: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, stream=streamed, **more)
    assert caught.value.type == "invalid_request_error"
    assert message in caught.value.message
    assert (caught.value.param or "") == param


def test_what_is_no_request_is_an_openai_error(client: OpenAI, server: str) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4o' here; write 'base'") as caught:
        ask(client, model="gpt-4o")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="there is no POST /v1/responses"):
        client.responses.create(model="base", input="Hi")
    url = f"{server}/chat/completions"
    json_type = {"content-type": "application/json"}
    half = b'{"model": "base", "messages": [{"role": "user", "content": "\\ud800"}]}'
    bodies = [(body, json_type) for body in (b"{", b"[]", b"", b"\xff", b'"a"', b"[" * 100_000, half)]
    for body, headers in [*bodies, (json.dumps({"model": "base", "messages": ASKED}).encode(), {})]:
        response = httpx.post(url, content=body, headers=headers)
        assert response.status_code == 400, body[:20]
        assert response.json()["error"]["type"] == "invalid_request_error"
    assert httpx.get(url).status_code == 405
    assert "error" in httpx.get(url).json()


def test_a_conversation_that_does_not_fit_has_openais_code() -> None:
    draft, base = FakeEngine(thinking, context=200), FakeEngine(calling, lambda _: 9, name="base", context=200)
    with asking(EnginePair(draft, base)) as client, pytest.raises(openai.BadRequestError) as caught:
        ask(client, messages=[{"role": "user", "content": "pens " * 100}])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


def test_the_key_the_host_and_the_size_of_a_request(tmp_path: Path) -> None:
    with caller() as pair, serving(pair, api_key="sesame", body_bytes=2000) as url:
        with client_of(url) as stranger, pytest.raises(openai.AuthenticationError) as caught:
            ask(stranger)
        assert caught.value.code == "invalid_api_key"
        assert "sesame" not in caught.value.message
        assert httpx.get(f"{url}/models").status_code == 401
        root = url.removesuffix("/v1")
        assert httpx.get(f"{root}/health").json() == {"status": "ok"}
        assert "specreason_running 0.0" in httpx.get(f"{root}/metrics").text
        assert httpx.get(f"{root}/health", headers={"host": "evil.example"}).status_code == 421
        with client_of(url, api_key="sesame") as client:
            assert ask(client).choices[0].message.content
            with pytest.raises(openai.APIStatusError) as caught_size:
                ask(client, messages=[{"role": "user", "content": "pens " * 1000}])
            assert (caught_size.value.status_code, caught_size.value.code) == (413, "request_too_large")
        headers = {"authorization": "Bearer sesame", "content-type": "application/json"}
        unsaid = httpx.post(f"{url}/chat/completions", content=iter([b" " * 1500] * 2), headers=headers)
        assert (unsaid.status_code, unsaid.json()["error"]["code"]) == (413, "request_too_large")


def test_more_requests_than_may_wait_are_refused() -> None:
    pair = slow_pair(steps=400)
    with asking(pair, concurrency=1, queue=0) as client:
        pieces: Any = ask(client, stream=True)
        assert next(pieces)
        with pytest.raises(openai.RateLimitError, match="1 requests are worked on and 0 wait") as caught:
            ask(client)
        assert caught.value.response.headers["retry-after"]
        pieces.close()
        assert idle(pair)


@pytest.mark.parametrize("durability", ["exit", "async", "sync"])
async def test_runs_that_were_left_or_failed_are_kept(durability: str, tmp_path: Path) -> None:
    pair, file = slow_pair(), tmp_path / "runs.sqlite"
    with asking(pair, database=file, durability=durability) as client:
        pieces: Any = ask(client, stream=True)
        left = [next(pieces) for _ in range(4)][-1].thread_id
        pieces.close()
        await until(lambda: 'specreason_runs_total{end="left"} 1.0' in metrics_of(client))
        pair.base.failure = lambda prompt: EngineDeadError("gone", engine="base") if done(prompt) > 3 else None  # type: ignore[attr-defined]
        with pytest.raises(openai.InternalServerError) as caught:
            ask(client)
    failed = caught.value.response.headers["x-specreason-thread"]
    with SqliteSaver.from_conn_string(str(file)) as saver:
        for thread in (left, failed):  # the last step that was told may not have been kept yet
            (run,) = read_runs(saver, thread)
            assert verify(run).ok
            assert (len(run.steps) >= 2, run.stop_reason) == (True, None)


def test_an_engine_that_fails() -> None:
    def dies(prompt: str) -> Exception | None:
        return EngineDeadError("it is gone", engine="base") if done(prompt) >= 3 else None

    pair = stepwise(6)
    pair.base.failure = dies  # type: ignore[attr-defined]
    with asking(pair) as client:
        with pytest.raises(openai.InternalServerError, match="it is gone") as caught:
            ask(client)
        assert caught.value.response.headers["x-specreason-thread"]
        assert caught.value.type == "server_error"
        pieces: Any = ask(client, stream=True)
        seen = []
        with pytest.raises(openai.APIError, match="it is gone"):
            seen.extend(pieces)
        assert seen
        assert 'specreason_runs_total{end="failed"} 2.0' in metrics_of(client)


def test_an_error_that_nobody_foresaw_is_not_told() -> None:
    pair = stepwise(2)
    pair.base.failure = lambda _: RuntimeError("secret path")  # type: ignore[attr-defined]
    with asking(pair) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            ask(client)
        assert "secret" not in caught.value.message


def test_the_form_of_an_answer_is_asked_of_the_engine() -> None:
    def base(prompt: str) -> str:
        return '{"pens": 14}' if is_closed(prompt) else CLOSE

    schema: Any = {"type": "json_schema", "json_schema": {"name": "Pens", "schema": FORM, "strict": True}}
    asked: Any = [(schema, FORM), ({"type": "json_object"}, {"type": "object"}), ({"type": "text"}, None)]
    writer = FakeEngine(base, lambda _: 9, name="base")
    with asking(EnginePair(FakeEngine(thinking), writer)) as client:
        for given, form in asked:
            assert ask(client, response_format=given).choices[0].message.content == '{"pens": 14}'
            sampling = writer.calls[-1].sampling
            assert sampling
            assert (json.loads(sampling.json_schema) if sampling.json_schema else None) == form
        with pytest.raises(openai.BadRequestError, match="wants a call, and answer_schema an answer"):
            ask(client, response_format=schema, tools=[STOCK], tool_choice="required")


@pytest.mark.parametrize("most", [2, 7, 40, 100, 333])
def test_a_limit_holds_for_thinking_and_answer_together(most: int) -> None:
    pair = stepwise(30)
    with asking(pair) as client:
        for name in ("max_tokens", "max_completion_tokens"):
            reply = ask(client, **{name: most})
            assert reply.usage
            assert 0 < reply.usage.completion_tokens <= most
        assert reply.choices[0].message.content
    whole = len(ANSWER)
    assert (reply.choices[0].finish_reason == "length") == (most // 4 < whole)


def test_settings_of_a_request_are_put_over_those_of_the_server() -> None:
    pair = stepwise(4, (8,))
    with asking(pair, make_config(threshold=7)) as client:
        usual = ask(client).model_extra or {}
        strict = ask(client, extra_body={"specreason": {"threshold": 9}}).model_extra or {}
        cut = ask(client, stop="answer", seed=5, temperature=0.5, top_p=0.5)
    assert (usual["specreason"]["acceptance"], strict["specreason"]["acceptance"]) == (1.0, 0.0)
    assert cut.choices[0].message.content == "The"
    sampling = pair.base.calls[-1].sampling  # type: ignore[attr-defined]
    assert (sampling.temperature, sampling.top_p) == (0.5, 0.5)


def test_a_server_asks_no_human() -> None:
    with stepwise(1) as pair, pytest.raises(ConfigError, match="a server cannot ask a human"):
        create_app(pair, config=make_config(review={"low": 4, "high": 6}))
    with pytest.raises(ConfigError, match="concurrency = 0 is not allowed"):
        ServeOptions(concurrency=0)


def test_figures_for_prometheus() -> None:
    with asking(stepwise(4, (9, 9, 2, 9))) as client:
        usages = [ask(client).usage, stream(client, stream_options={"include_usage": True})[-1].usage]
        metrics = metrics_of(client)
    told = dict(re.findall(r"^(\w+(?:{.*?})?) (\S+)$", metrics, re.MULTILINE))
    assert told['specreason_responses_total{status="200"}'] == "2.0"
    assert told['specreason_runs_total{end="answered"}'] == "2.0"
    assert told["specreason_run_seconds_count"] == told["specreason_first_piece_seconds_count"] == "2.0"
    generated = sum(
        usage.model_extra["by_model"]["base"]["generated_tokens"] for usage in usages if usage and usage.model_extra
    )
    assert float(told['specreason_tokens_total{kind="generated",model="base"}']) == generated > 0
    assert float(told['specreason_steps_total{author="base"}']) > 0


def test_what_the_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.delenv("SPECREASON_API_KEY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, message in [
            (["--host", "0.0.0.0"], "0.0.0.0 can be reached from other machines, and there is no API key"),  # noqa: S104
            (["--port", port, "--no-keep"], f"cannot listen on 127.0.0.1 port {port}: "),
            (["--durability", "never"], "durability = 'never' is not allowed; write sync, async, exit"),
            (["--set", 'review={"low": 4, "high": 6}'], "review is set"),
            (["--db", str(tmp_path)], "it is no file"),
        ]:
            assert run_command(["serve", *arguments]) == 2
            assert message in capsys.readouterr().err
