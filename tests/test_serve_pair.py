"""`specreason serve` over the reference pair, embedded and in vLLM, for OpenAI's client and LangChain's."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, OpenAI

from specreason_graph import EnginePair, open_pair
from specreason_graph.cli.app import run as run_command
from specreason_graph.config import make_config
from specreason_graph.models.abacus.problems import held_out, held_out_short, parse_answer
from tests.support.api_server import STOCK, ask, client_of, killed, metrics_of, serving
from tests.support.counting import Counted, idle
from tests.support.traces import around
from tests.support.waiting import until

ROOT = Path(__file__).parents[1]
PROBLEM = held_out()[4]
QUESTION: Any = [{"role": "user", "content": PROBLEM.question}]


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def pair(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The reference pair, whose calls are counted."""
    if request.param == "transformers":
        yield _counted(request.getfixturevalue("abacus"))
        return
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    with open_pair("abacus-base", "abacus-draft", kind="vllm") as pair:
        yield _counted(pair)


def _counted(pair: EnginePair) -> Any:
    return around(pair, base=Counted(pair.base), draft=Counted(pair.draft))


@pytest.fixture(scope="module")
def url(pair: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    file = tmp_path_factory.mktemp("reference") / "runs.sqlite"
    with serving(pair, make_config(temperature=0, reproducible=True), model_name="abacus", database=file) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with client_of(url) as client:
        yield client


@pytest.fixture
async def aclient(url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=300) as client:
        yield client


async def test_64_at_once(aclient: AsyncOpenAI, pair: Any) -> None:
    """Whole replies and streams by turns, and each is that of its own question."""
    problems = [held_out_short()[number % 16] for number in range(64)]

    async def answer(number: int) -> str:
        asked: Any = {"model": "abacus", "messages": [{"role": "user", "content": problems[number].question}]}
        if number // 16 % 2:
            return (await aclient.chat.completions.create(**asked)).choices[0].message.content or ""
        pieces = await aclient.chat.completions.create(**asked, stream=True)
        return "".join([piece.choices[0].delta.content or "" async for piece in pieces])

    answers = await asyncio.gather(*map(answer, range(64)))
    right = [parse_answer(answers[number]) == problems[number].answer for number in range(64)]
    assert sum(right) >= 52
    if pair.base.describe().engine == "transformers":  # it computes the same, whatever else it is asked
        assert all(len(set(answers[number::16])) == 1 for number in range(16))


def test_langchain_reads_the_stream(url: str) -> None:
    chat = ChatOpenAI(model="abacus", base_url=url, api_key="none", stream_usage=True)
    chunks = list(chat.stream(PROBLEM.question))
    assert str(PROBLEM.answer) in "".join(chunk.text for chunk in chunks)
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) > 0


def test_the_client_of_the_page(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (ROOT / "docs/serve.md").read_text(encoding="utf-8").splitlines()
    first = lines.index("    from openai import OpenAI")
    last = next(number for number, line in enumerate(lines) if number > first and line.startswith("Each reply"))
    written = "\n".join(line.removeprefix("    ") for line in lines[first:last])
    names: dict[str, Any] = {}
    exec(written.replace("http://127.0.0.1:8000/v1", url), names)  # noqa: S102 - our own page
    names["client"].close()
    printed = capsys.readouterr().out
    assert printed.count("The answer is \\boxed{385}.") == 2
    assert re.search(r"^\w{16}$", printed, re.MULTILINE)
    assert "'draft': {'calls'" in printed


@pytest.mark.parametrize("how", [["stream"], []])
async def test_a_client_that_is_killed_leaves_both_engines_idle(how: list[str], client: OpenAI, pair: Any) -> None:
    def left() -> float:
        return float((re.findall(r'specreason_runs_total{end="left"} (\S+)', metrics_of(client)) or ["0"])[0])

    before = left()
    at_work = lambda: bool(pair.base.running or pair.draft.running)  # noqa: E731
    await killed(client, PROBLEM.question, how, at_work, pieces=3 * len(how))
    assert idle(pair)
    await until(lambda: left() == before + 1)  # counted when the last checkpoint is written


def test_engines_that_cannot_constrain_refuse_a_schema(client: OpenAI, pair: Any) -> None:
    if pair.base.supports_json_schema:
        reply = ask(client, model="abacus", response_format={"type": "json_object"}, messages=QUESTION, max_tokens=400)
        assert (reply.choices[0].message.content or "{").startswith("{")
        return
    with pytest.raises(openai.BadRequestError, match="cannot make an answer follow a JSON schema"):
        ask(client, model="abacus", response_format={"type": "json_object"}, messages=QUESTION)


def test_models_that_cannot_call_tools_refuse_them(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="has no place for tools"):
        ask(client, model="abacus", tools=[STOCK], messages=QUESTION)


def test_models_that_know_nothing_else_say_so(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="only do arithmetic word problems"):
        ask(client, model="abacus", messages=[{"role": "user", "content": "Hi!"}])


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "runs.sqlite"
    command = [sys.executable, "-m", "specreason_graph", "serve", "--port", "0", "--db", str(file)]
    environment = {**os.environ, "SPECREASON_API_KEY": "sesame"}
    with subprocess.Popen(
        [*command, "--model-name", "pair", "--set", "temperature=0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environment,
    ) as process:  # fmt: skip
        assert process.stdout
        ready = process.stdout.readline()
        found = re.fullmatch(r"ready: (http://127\.0\.0\.1:\d+/v1)   model pair   runs are kept in (.+)\n", ready)
        assert found
        assert found[2] == str(file)
        with client_of(found[1], api_key="sesame") as client:
            reply = ask(client, model="pair", messages=QUESTION)
        assert str(PROBLEM.answer) in (reply.choices[0].message.content or "")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert run_command(["audit", "verify", str((reply.model_extra or {})["thread_id"]), "--db", str(file)]) == 0
