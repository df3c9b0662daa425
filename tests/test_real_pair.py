"""A real pair in vLLM gives what it gives alone. It needs vLLM and the folder of a pair in ``SPECREASON_REAL_PAIR``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool

from specreason_graph import ChatSpecReason, EnginePair, create_specreason, open_pair
from specreason_graph.bench.tasks import STEPS, read_task
from specreason_graph.config import make_config
from specreason_graph.engines.base import Sampling
from specreason_graph.engines.machine import computes_in
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.prompting.engine_prompts import EnginePrompts
from specreason_graph.record.records import Step
from specreason_graph.settings import EngineOptions

PAIR = os.environ.get("SPECREASON_REAL_PAIR", "")
SHARED = Path(os.environ.get("SPECREASON_SHARED", Path(__file__).parents[2] / "shared"))
QUESTIONS = SHARED / "data" / "gsm8k" / "test.jsonl"
OWN_CHAT = Path(__file__).parent / "support" / "own_chat.py"
pytestmark = pytest.mark.skipif(not PAIR, reason="SPECREASON_REAL_PAIR names no folder with a base and a draft model")
in_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
ALONE: Any = {"temperature": 0, "first_steps_by_base": 10_000, "repetition_limit": 1000}
"""Settings under which the base writes every step."""
TOKENS = 400
OPTIONS: EngineOptions = {"context": 4096, "sequences": 24}


@in_vllm
@pytest.mark.skipif(not QUESTIONS.exists(), reason=f"{QUESTIONS} is missing")
def test_a_plain_reply_through_the_graph_is_what_the_models_own_chat_gives(tmp_path: Path) -> None:
    """Token for token in float32, on the smaller model; where rounding decides between two tokens one may differ."""
    model, texts = f"{PAIR}/draft", [question.text for question in read_task(QUESTIONS).first(24).questions]
    (tmp_path / "asked.json").write_text(json.dumps(texts))
    command = [sys.executable, str(OWN_CHAT), model, str(tmp_path / "asked.json"), str(TOKENS)]
    own = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    options: EngineOptions = {**OPTIONS, "dtype": "float32"}
    with open_pair(model, model, kind="vllm", base_options=options, draft_options=options) as pair:
        graph = create_specreason(pair, **ALONE, answer_tokens=TOKENS).compile()
        with ThreadPoolExecutor(len(texts)) as pool:
            outcomes = list(pool.map(lambda text: graph.invoke({"question": text}), texts))
        ends = pair.base.vocabulary.eos_ids
    written = [[i for step in outcome["trace"] for i in step["token_ids"]] for outcome in outcomes]
    same = [ours == (theirs[:-1] if theirs[-1] in ends else theirs) for ours, theirs in zip(written, own, strict=True)]
    for index in [index for index, equal in enumerate(same) if not equal]:
        at = next(i for i, (one, other) in enumerate(zip(written[index], own[index], strict=False)) if one != other)
        print(f"question {index} differs at token {at} of {len(own[index])}")  # noqa: T201 - shown with -s
    assert sum(same) >= 23
    assert all(outcome["stop_reason"] in ("answered", "token_budget") for outcome in outcomes)


@in_vllm
def test_the_reference_base_through_the_graph_writes_what_it_writes_alone() -> None:
    problems = held_out()[:100]
    with open_pair("abacus-base", "abacus-draft", kind="vllm") as pair:
        engine, prompts = pair.base, EnginePrompts(pair.base.vocabulary, make_config())

        async def alone(question: str) -> list[int]:
            sampling = Sampling(max_tokens=500, stop_token_ids=engine.vocabulary.eos_ids)
            return (await engine.generate(prompts.question_ids(question), sampling)).generations[0].token_ids

        graph = create_specreason(pair, **ALONE).compile()
        with ThreadPoolExecutor(16) as pool:
            outcomes = list(pool.map(lambda p: graph.invoke({"question": p.question}), problems))
        for problem, outcome in zip(problems, outcomes, strict=True):
            whole = pair.run(lambda question=problem.question: alone(question))  # type: ignore[misc]
            steps = [i for step in map(Step.load, outcome["trace"]) for i in step.token_ids]
            text = engine.vocabulary.decode([*steps, *prompts.closing_ids()]) + outcome["answer"]
            assert text == engine.vocabulary.decode(whole[:-1])


@pytest.fixture(scope="module")
def real() -> Iterator[EnginePair]:
    models = f"{PAIR}/base", f"{PAIR}/draft"
    options: EngineOptions = {**OPTIONS, "dtype": "bfloat16"}
    with open_pair(*models, kind="vllm", base_options=options, draft_options=options) as pair:
        yield pair


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two whole numbers."""
    return a * b


@tool
def population(city: str) -> int:
    """Tell how many people live in a city."""
    return {"rome": 2_750_000, "paris": 2_100_000}.get(city.lower(), 0)


SYSTEM = (
    "You may call a tool once. When the tool has answered, tell the user the result in one full sentence, with the "
    "number, and call nothing more."
)
LOOPS = [
    ("What is 86 times 79?", "6794"), ("How many people live in Rome?", "2750000"),
    ("A crate holds 24 bottles. How many bottles are in 125 crates?", "3000"),
]  # fmt: skip


@in_vllm
def test_an_agent_ends_right_with_a_real_pair(real: EnginePair) -> None:
    right = 0
    for question, answer in LOOPS:
        chat = ChatSpecReason(real, temperature=0, answer_tokens=300)
        agent = create_agent(chat, tools=[multiply, population], system_prompt=SYSTEM)
        messages = agent.invoke({"messages": [HumanMessage(question)]}, {"recursion_limit": 12})["messages"]
        for message in messages:
            print(f"{message.type}: {message.text!r} {getattr(message, 'tool_calls', '')}")  # noqa: T201 - the transcript
        called = any(isinstance(message, ToolMessage) for message in messages)
        last = messages[-1]
        assert isinstance(last, AIMessage)
        right += called and answer in last.text.replace(",", "")
    assert right >= 2


@in_vllm
def test_a_real_pair_answers_with_steps_of_both_models(real: EnginePair) -> None:
    question = "A shop sells pens in boxes of 12. Ana buys 7 boxes and gives 20 pens away. How many pens are left?"
    saver_free = create_specreason(real, temperature=0, threshold=5, answer_tokens=400).compile()
    outcome = saver_free.invoke({"question": question + STEPS})
    steps = [Step.load(step) for step in outcome["trace"]]
    assert len(steps) > 1
    assert "".join(step.text for step in steps).strip() == outcome["answer"]
    assert outcome["stop_reason"] == "answered"
    assert isinstance(outcome["answer"], str)


@pytest.mark.skipif(not computes_in("bfloat16"), reason="the processor has no bfloat16, and float32 takes more")
def test_the_embedded_engine_takes_little_more_than_the_weights() -> None:
    """Three processes: this one, and one for each model. Measured in one of its own, as tests have loaded much."""
    done = subprocess.run([sys.executable, "-c", RESIDENT, PAIR], capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) <= 6.0


RESIDENT = """
import sys
import psutil
from specreason_graph import create_specreason, open_pair

with open_pair(f"{sys.argv[1]}/base", f"{sys.argv[1]}/draft", device="cpu") as pair:
    graph = create_specreason(pair, temperature=0, answer_tokens=60).compile()
    graph.invoke({"question": "Ana buys 7 boxes of 12 pens and gives 20 pens away. How many are left?"})
    me = psutil.Process()
    print(sum(each.memory_info().rss for each in [me, *me.children(recursive=True)]) / 1e9)
"""
