"""`langgraph dev` serves the loop: run, stream, cancel, resume, fork, from a client in another process."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk import get_client

from specreason_graph.models.abacus.problems import held_out
from specreason_graph.record.events import Accepted, AnswerToken, Finished, read_event
from tests.support.counted_app import STEPS
from tests.support.modules import load
from tests.support.ports import free_port
from tests.support.scripts import ANSWER
from tests.support.waiting import until

ROOT = Path(__file__).parents[1]
QUESTION: Any = {"question": "How far?"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    graphs = {
        "specreason": str(ROOT / "specreason_graph/langgraph_app.py:make_graph"),
        "slow": f"{ROOT}/tests/support/counted_app.py:make_graph",
    }
    (folder / "langgraph.json").write_text(json.dumps({"dependencies": ["."], "graphs": graphs}))
    port = free_port()
    command = [sys.executable, "-m", "langgraph_cli", "dev", "--no-browser", "--no-reload", "--port", str(port)]
    environment = {**os.environ, "SPECREASON_TEST_FOLDER": str(folder), "PYTHONPATH": str(ROOT)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}"
        try:
            _wait(url, process, folder / "log")
            os.environ["SPECREASON_TEST_FOLDER"] = str(folder)
            yield url
        finally:
            process.terminate()
            process.wait(30)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{url}/ok").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture
async def client(server: str) -> AsyncIterator[Any]:
    async with get_client(url=server) as client:
        yield client


def running() -> int:
    """Running calls of both engines."""
    folder = Path(os.environ["SPECREASON_TEST_FOLDER"])
    return sum(int((folder / name).read_text()) for name in ("draft", "base"))


async def test_the_built_in_pair_answers(client: Any) -> None:
    problem = held_out()[4]
    outcome = await RemoteGraph("specreason", client=client).ainvoke({"question": problem.question})
    assert str(problem.answer) in outcome["answer"]
    assert outcome["trace"][0]["token_ids"]


async def test_the_example_of_a_remote_graph(server: str) -> None:
    assert await load(ROOT / "examples/remote.py").main(server) == "The answer is \\boxed{385}."


async def test_forms_are_in_the_schema(client: Any) -> None:
    assistant = next(each for each in await client.assistants.search() if each["graph_id"] == "specreason")
    schemas = await client.assistants.get_schemas(assistant["assistant_id"])
    assert {"question", "messages"} <= schemas["input_schema"]["properties"].keys()
    assert {"answer", "stop_reason", "trace", "trace_summary"} <= schemas["output_schema"]["properties"].keys()
    assert "threshold" in schemas["context_schema"]["properties"]


async def test_events_are_streamed(client: Any) -> None:
    graph = RemoteGraph("slow", client=client)
    events = [read_event(part) async for part in graph.astream(QUESTION, stream_mode="custom")]
    assert sum(isinstance(event, Accepted) for event in events) == STEPS
    assert "".join(event.text for event in events if isinstance(event, AnswerToken)) == ANSWER
    assert isinstance(events[-1], Finished)


async def test_a_call_has_settings_of_its_own(client: Any) -> None:
    outcome: Any = await client.runs.wait(None, "slow", input=QUESTION, context={"max_steps": 2})
    assert (outcome["stop_reason"], len(outcome["trace"])) == ("step_limit", 2)


async def test_cancel_on_disconnect_then_history_resume_and_fork(client: Any) -> None:
    thread = (await client.threads.create())["thread_id"]
    stream = client.runs.stream(thread, "slow", input=QUESTION, stream_mode="custom", on_disconnect="cancel")
    async for part in stream:
        if part.event == "custom" and part.data["event"] == "accepted" and part.data["step"]["index"] == 3:
            break
    await until(lambda: running() >= 1)
    await stream.aclose()
    await until(lambda: running() == 0)
    async with asyncio.timeout(20):
        while (await client.threads.get(thread))["status"] == "busy":
            await asyncio.sleep(0.02)
    cut: Any = await client.threads.get_state(thread)
    assert 3 <= cut["values"]["progress"]["steps"] < STEPS

    whole: Any = await client.runs.wait(thread, "slow", input=None)
    assert (whole["answer"], len(whole["trace"])) == (ANSWER, STEPS + 1)
    history: Any = await client.threads.get_history(thread, limit=1000)
    early = next(each for each in history if each["values"].get("progress", {}).get("steps") == 2)
    forked: Any = await client.runs.wait(thread, "slow", input=None, checkpoint_id=early["checkpoint"]["checkpoint_id"])
    assert [step["text"] for step in forked["trace"]] == [step["text"] for step in whole["trace"]]
