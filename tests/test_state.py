"""What is checkpointed is plain, complete, and grows with the steps and not with their square."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Overwrite

from benchmarks.overhead import run_overhead
from specreason_graph import EnginePair, create_specreason
from specreason_graph.engines.fake import ByteVocabulary, FakeEngine
from specreason_graph.record.state import extend

CLOSE = "</think>"
CONFIG: Any = {"configurable": {"thread_id": "t"}}
QUESTION: Any = {"question": "What is it?"}

STRICT = """
import logging, sys
from langgraph.checkpoint.sqlite import SqliteSaver
from specreason_graph import EnginePair, create_specreason
from specreason_graph.engines.fake import FakeEngine
logging.basicConfig(level=logging.WARNING)
with EnginePair(FakeEngine(["one is fine.\\n\\n", "two is bad.\\n\\n", "</think>"]),
                FakeEngine(["TWO by base.\\n\\n", "</think>", "x"], [9, 2])) as pair, \\
        SqliteSaver.from_conn_string(sys.argv[1]) as saver:
    graph = create_specreason(pair).compile(checkpointer=saver)
    config = {"configurable": {"thread_id": "t"}}
    outcome = graph.invoke({"question": "What is it?"}, config)
    assert graph.get_state(config).values["trace"] == outcome["trace"]
    assert graph.get_state(config).values["manifest"]["question"] == "What is it?"
"""


def pair(rounds: int = 1) -> EnginePair:
    drafts = ["one is fine.\n\n", "two is bad.\n\n", CLOSE] * rounds
    return EnginePair(FakeEngine(drafts), FakeEngine(["TWO by base.\n\n", CLOSE, "x"] * rounds, [9, 2] * rounds))


def test_checkpoints_load_in_strict_mode_without_a_warning(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", STRICT, str(tmp_path / "strict.sqlite")], capture_output=True, text=True,
        env={**os.environ, "LANGGRAPH_STRICT_MSGPACK": "true"}, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")


def test_another_process_reads_what_was_written(tmp_path: Path) -> None:
    file = str(tmp_path / "runs.sqlite")
    with pair() as engines, SqliteSaver.from_conn_string(file) as saver:
        outcome = create_specreason(engines).compile(checkpointer=saver).invoke(QUESTION, CONFIG)
    with pair() as engines, SqliteSaver.from_conn_string(file) as saver:
        values = create_specreason(engines).compile(checkpointer=saver).get_state(CONFIG).values
    assert values["trace"] == outcome["trace"]
    assert values["manifest"]["engines"]["base"]["engine"] == "fake"
    assert "question" not in values


def test_every_step_commits_once_and_in_order() -> None:
    with pair() as engines:
        graph = create_specreason(engines).compile(checkpointer=InMemorySaver())
        graph.invoke(QUESTION, CONFIG)
        traces = [snapshot.values.get("trace", []) for snapshot in graph.get_state_history(CONFIG)][::-1]
    for before, after in pairwise(traces):
        assert after[: len(before)] == before
        assert len(after) - len(before) in (0, 1)


def test_a_crash_in_any_node_loses_no_step() -> None:
    class Failing(FakeEngine):
        """Fails once, at the given call."""

        left = 10**6

        async def generate(self, *arguments: Any, **named: Any) -> Any:
            self.count()
            return await super().generate(*arguments, **named)

        async def next_token(self, *arguments: Any, **named: Any) -> Any:
            self.count()
            return await super().next_token(*arguments, **named)

        async def likelihood(self, *arguments: Any, **named: Any) -> Any:
            self.count()
            return await super().likelihood(*arguments, **named)

        def count(self) -> None:
            self.left -= 1
            if self.left == -1:
                raise OSError("engine gone")

    for failing in range(5):
        base = Failing(["TWO by base.\n\n", CLOSE, "x"], [9, 2])
        base.left = failing
        with EnginePair(FakeEngine(["one is fine.\n\n", "two is bad.\n\n", CLOSE]), base) as engines:
            graph = create_specreason(engines).compile(checkpointer=InMemorySaver())
            with pytest.raises(OSError, match="engine gone"):
                graph.invoke(QUESTION, CONFIG)
            outcome = graph.invoke(None, CONFIG)
        assert [step["text"] for step in outcome["trace"]] == ["one is fine.\n\n", "TWO by base.\n\n", ""]
        assert outcome["answer"] == "x"


def test_the_reducer_is_pure_and_takes_batches() -> None:
    state: list[dict[str, Any]] = [{"n": 0}]
    one, two = [{"n": 1}], [{"n": 2}, {"n": 3}]
    assert extend(extend(state, [one]), [two]) == extend(state, [one, two]) == [{"n": i} for i in range(4)]
    assert state == [{"n": 0}]


def test_the_trace_can_be_overwritten_by_a_fork() -> None:
    with pair(2) as engines:
        graph = create_specreason(engines).compile(checkpointer=InMemorySaver())
        outcome = graph.invoke(QUESTION, CONFIG)
        fork: Any = {"configurable": {"thread_id": "fork"}}
        values = {**graph.get_state(CONFIG).values, "trace": Overwrite(outcome["trace"][:1])}
        graph.update_state(fork, values, as_node="accept")
        assert graph.get_state(fork).values["trace"] == outcome["trace"][:1]
        assert graph.get_state(CONFIG).values["trace"] == outcome["trace"]


def test_the_database_grows_with_the_steps() -> None:
    short, long = run_overhead(50, "sqlite"), run_overhead(200, "sqlite")
    assert long.stored_bytes / long.steps < 1.3 * short.stored_bytes / short.steps


def test_a_resumed_run_sends_the_prompt_it_began_with() -> None:
    class Dated(ByteVocabulary):
        """A template that tells the date, as those of Llama 3 do."""

        today = "Monday"

        def render(self, messages: Any, tools: Any = (), **_: Any) -> str:
            return f"<|system|>{self.today}<|end|>" + super().render(messages)

    draft = FakeEngine(["one is fine.\n\n", "two is bad.\n\n", CLOSE], vocabulary=Dated())
    base = FakeEngine(["TWO by base.\n\n", CLOSE, "x"], [9, 2], vocabulary=Dated())
    saver = InMemorySaver()
    with EnginePair(draft, base) as engines:
        graph = create_specreason(engines).compile(checkpointer=saver)
        walk: Any = graph.stream(QUESTION, CONFIG, durability="sync")
        while "accept" not in next(walk):
            pass
        walk.close()
        Dated.today = "Tuesday"
        create_specreason(engines).compile(checkpointer=saver).invoke(None, CONFIG)
    starts = {bytes(call.prompt_ids[1:7]) for engine in (draft, base) for call in engine.calls}
    assert starts == {b"Monday"}
