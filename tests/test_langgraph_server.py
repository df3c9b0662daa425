"""`langgraph dev` serves the loop: run, stream, cancel, resume, fork, from clients in other processes.

Those in JavaScript, in ``tests/front_end``, are what front ends are made of: LangGraph's SDK, and ``useStream``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel.remote import RemoteException, RemoteGraph
from langgraph_sdk import get_client
from platformdirs import user_cache_path

from specreason_graph.models.abacus.problems import held_out
from specreason_graph.record.events import Accepted, AnswerToken, Finished, read_event
from tests.support.counted_app import STEPS
from tests.support.modules import load
from tests.support.ports import free_port
from tests.support.scripts import ANSWER
from tests.support.waiting import until

ROOT = Path(__file__).parents[1]
QUESTION: Any = {"question": "How far?"}
FRONT_END = ROOT / "tests/front_end"
BRIEFLY: Any = {"max_steps": 2}


def ask(text: str) -> Any:
    return {"messages": [{"role": "user", "content": text}]}


def steps(count: int) -> list[str]:
    return [f"Step {index} of the draft.\n\n" for index in range(count)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    graphs = {
        "specreason": str(ROOT / "specreason_graph/langgraph_app.py:make_graph"),
        "slow": f"{ROOT}/tests/support/counted_app.py:make_graph",
        "dead": f"{ROOT}/tests/support/counted_app.py:dead",
        "around": f"{ROOT}/tests/support/counted_app.py:around",
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


# The conversation


async def test_a_conversation_of_two_turns_behind_a_remote_graph(client: Any) -> None:
    graph = RemoteGraph("slow", client=client)
    config: Any = {"configurable": {"thread_id": (await client.threads.create())["thread_id"]}}
    for turn, text in enumerate(["How far?", "And then?"]):
        more: Any = {"stream_mode": "messages", "subgraphs": True, "context": BRIEFLY}
        chunks = [chunk async for _, (chunk, _) in graph.astream(ask(text), config, **more)]
        assert len({chunk["id"] for chunk in chunks}) == 1
        blocks = [block for chunk in chunks for block in chunk["content"]]
        assert [block["reasoning"] for block in blocks if block["type"] == "reasoning"] == steps(2)
        assert "".join(block["text"] for block in blocks if block["type"] == "text") == ANSWER
        messages = (await graph.aget_state(config)).values["messages"]
        assert [message["type"] for message in messages] == ["human", "ai"] * (turn + 1)
        assert messages[-1]["id"] == chunks[0]["id"]


async def test_an_event_stream_behind_a_remote_graph(client: Any) -> None:
    graph = RemoteGraph("slow", client=client)
    thread = (await client.threads.create())["thread_id"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        async with await graph.astream_events(
            ask("How far?"), {"configurable": {"thread_id": thread}}, version="v3"
        ) as run:
            (message,) = [message async for message in run.messages]
            text = "".join([piece async for piece in message.text])
    assert text == ANSWER
    assert str(await message.reasoning) == "".join(steps(STEPS))


async def test_the_loop_on_a_server_is_a_node_of_a_local_graph(client: Any) -> None:
    builder = StateGraph(MessagesState)
    builder.add_node("think", RemoteGraph("slow", client=client))
    builder.add_edge(START, "think")
    app: Any = builder.compile(checkpointer=InMemorySaver())
    outcome = await app.ainvoke(ask("How far?"), {"configurable": {"thread_id": str(uuid4())}})
    assert [(message.type, message.text) for message in outcome["messages"]] == [("human", "How far?"), ("ai", ANSWER)]


@pytest.mark.parametrize(
    ("graph", "asked", "context", "told"),
    [
        ("slow", ask("How far?"), {"treshold": 9}, "'ConfigError', 'message': \"unknown setting 'treshold'; known"),
        ("slow", ask("How far?"), {"threshold": 11}, "threshold = 11 is not allowed: the scale of the digit judge"),
        ("slow", {"quesiton": "How far?"}, {}, "write 'question' for 'quesiton'"),
        ("slow", {"messages": []}, {}, "the question is empty"),
        ("dead", ask("How far?"), {}, "'EngineDeadError', 'message': 'the base engine is gone; start it'"),
        ("around", ask("How far?"), {}, "'EngineDeadError', 'message': 'the base engine is gone; start it'"),
        ("specreason", ask("hi"), {}, "the built-in models only do arithmetic"),
        ("specreason", QUESTION, {"first_step_by_base": 1}, "unknown setting 'first_step_by_base'"),
    ],
)
async def test_errors_reach_the_client_in_our_words(
    client: Any, graph: str, asked: Any, context: Any, told: str
) -> None:
    with pytest.raises(RemoteException) as caught:
        await RemoteGraph(graph, client=client).ainvoke(asked, context=context)
    assert told in str(caught.value)


async def test_a_human_is_asked_through_the_client(client: Any) -> None:
    thread = (await client.threads.create())["thread_id"]
    settings: Any = {"review": {"low": 8, "high": 9}, "max_steps": 2}
    outcome: Any = await client.runs.wait(thread, "slow", input=ask("How far?"), context=settings)
    for index in range(2):
        (question,) = outcome["__interrupt__"]
        assert question["value"]["proposal"] == steps(2)[index]
        outcome = await client.runs.wait(thread, "slow", command={"resume": "accept"})
    assert [step["decision"]["reason"] for step in outcome["trace"]] == ["accepted_by_reviewer"] * 2
    assert [message["type"] for message in outcome["messages"]] == ["human", "ai"]


# Front ends in JavaScript


@pytest.fixture(scope="module")
def front_end() -> Path:
    """The programs of ``tests/front_end`` with what they need, installed once for each lock file."""
    for program in ("node", "npm"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    lock = (FRONT_END / "package-lock.json").read_bytes()
    folder = user_cache_path("specreason") / f"front_end-{hashlib.sha256(lock).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    for file in FRONT_END.glob("*.*"):
        shutil.copy(file, folder)
    if not (folder / "node_modules" / ".package-lock.json").exists():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, check=True, timeout=600)
    return folder


async def seen(front_end: Path, *command: str) -> Any:
    """What a program in JavaScript saw."""
    process = await asyncio.create_subprocess_exec(
        "node", *command, cwd=front_end, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(120):
        told, problems = await process.communicate()
    assert process.returncode == 0, problems.decode()
    return json.loads(told)


def kept(*turns: tuple[str, int]) -> list[tuple[str, str, list[str]]]:
    """The conversation of turns, each with what was asked and how many steps were thought."""
    asked_and_told = (
        [("human", text, []), ("ai", ANSWER, steps(count))] for text, count in turns
    )  # fmt: skip
    return [each for pair in asked_and_told for each in pair]


def conversation(found: Any) -> list[tuple[str, str, list[str]]]:
    return [(each["type"], each["text"], each["reasoning"]) for each in found["conversation"]]


async def test_two_turns_in_javascript(server: str, front_end: Path) -> None:
    found = await seen(front_end, "chat.mjs", server, "turns")
    for turn in found["turns"]:
        assert (turn["text"], turn["reasoning"], turn["errors"]) == (ANSWER, steps(2), [])
        assert turn["pieces"] > 5
        assert len(turn["ids"]) == 1
    assert conversation(found) == kept(("How far?", 2), ("And then?", 2))
    assert [each["ids"][0] for each in found["turns"]] == [each["id"] for each in found["conversation"][1::2]]
    assert found["lengths"] == [0, 1, 2, 3, 4], "what the checkpoints of the thread tell, in order"


async def test_cancel_and_resume_in_javascript(server: str, front_end: Path) -> None:
    found = await seen(front_end, "chat.mjs", server, "cancel")
    cut, whole = found["stopped"], found["resumed"]
    assert 3 <= len(cut["reasoning"]) < STEPS
    assert (cut["text"], [each["text"] for each in found["between"]]) == ("", ["How far?"])
    assert (whole["text"], whole["reasoning"]) == (ANSWER, steps(STEPS))
    assert whole["ids"] == cut["ids"]
    assert conversation(found) == kept(("How far?", STEPS))


async def test_the_event_stream_in_javascript(server: str, front_end: Path) -> None:
    found = await seen(front_end, "chat.mjs", server, "events")
    for turn in found["turns"]:
        assert (turn["text"], turn["reasoning"]) == (ANSWER, "".join(steps(STEPS)))
        assert turn["kinds"] == ["reasoning"] * STEPS + ["text"]
        assert turn["pieces"] > 5
    assert conversation(found) == kept(("How far?", STEPS), ("And then?", STEPS))
    assert [each["id"] for each in found["turns"]] == [each["id"] for each in found["conversation"][1::2]]


async def test_errors_in_javascript(server: str, front_end: Path) -> None:
    found = (await seen(front_end, "chat.mjs", server, "errors"))["errors"]
    assert [each["error"] for each in found] == [
        "ConfigError", "ConfigError", "ConfigError", "QuestionError", "EngineDeadError", "QuestionError",
    ]  # fmt: skip
    assert all("internal error" not in each["message"] for each in found)
    assert found[0]["message"].startswith("unknown setting 'treshold'; known settings: judge")


async def test_a_component_with_use_stream_shows_the_chat(server: str, front_end: Path) -> None:
    found = await seen(front_end, "use_stream.mjs", server)
    shown = [
        ("human", "How far?"),
        ("ai", "".join(steps(3)) + ANSWER),
        ("human", "And then?"),
        ("ai", "".join(steps(3)) + ANSWER),
    ]
    assert [tuple(each) for each in found["after"]] == shown
    for turn in found["turns"]:
        assert turn["error"] is None
        assert turn["pictures"] > 8, "the reply grows step by step, and its answer piece by piece"
        assert turn["grew"]
    later = [("human", "Why?"), ("human", "In short?"), ("ai", steps(1)[0] + ANSWER)]
    assert [tuple(each) for each in found["last"]] == [*shown, *later], "stopped by the user, and asked again"
    assert found["html"] == 7
    assert found["problem"].startswith("ConfigError: unknown setting 'treshold'")
