"""Finding the runs of a thread, whatever graph they ran in and whether they ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from specreason_graph import EnginePair, create_specreason
from specreason_graph.errors import EngineError
from specreason_graph.runs.find import afind_runs, find_runs
from tests.support.parents import WRAPS, parent
from tests.support.scripts import ANSWER, stepwise

THREAD: Any = {"configurable": {"thread_id": "t"}}
STEPS = ["Step 0 of the draft.\n\n", "Step 1 of the draft.\n\n"]


@pytest.fixture
def pair() -> Iterator[EnginePair]:
    with stepwise(2) as pair:
        yield pair


@pytest.mark.parametrize("way", WRAPS)
def test_finished_runs_are_found_at_any_depth(pair: EnginePair, way: str, tmp_path: Path) -> None:
    wrap, questions = WRAPS[way]
    with SqliteSaver.from_conn_string(str(tmp_path / "runs.sqlite")) as saver:
        wrap(create_specreason(pair).compile(), saver).invoke({"question": "What?"}, THREAD)
        runs = find_runs(saver, "t")
    assert len({run.run for run in runs}) == len(runs)
    assert sorted(run.question for run in runs) == questions
    for run in runs:
        assert (run.stop_reason, run.answer, run.next) == ("answered", ANSWER, [])
        assert [step.text for step in run.steps] == [*STEPS, ""]
        assert run.namespace.startswith("think:")


async def test_runs_of_a_thread_that_is_used_again_are_told_apart(pair: EnginePair, tmp_path: Path) -> None:
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "runs.sqlite")) as saver:
        graph = create_specreason(pair).compile(checkpointer=saver)
        for question in ("First?", "Second?"):
            await graph.ainvoke({"question": question}, THREAD)
        runs = await afind_runs(saver, "t")
    assert [(run.question, run.namespace, len(run.steps)) for run in runs] == [("Second?", "", 3), ("First?", "", 3)]


def test_a_run_that_broke_off_in_a_subgraph_is_found_and_goes_on(pair: EnginePair) -> None:
    saver = InMemorySaver()
    failing: Any = pair.draft
    calls = iter(range(100))
    failing.failure = lambda _: EngineError("gone", engine="draft") if next(calls) == 1 else None
    app = parent(create_specreason(pair, continue_without_draft=False, lookahead=0).compile()).compile(
        checkpointer=saver
    )
    with pytest.raises(EngineError, match="gone"):
        app.invoke({"question": "What?"}, THREAD)
    (run,) = find_runs(saver, "t")
    assert (run.stop_reason, run.answer, run.next) == (None, None, ["draft"])
    assert [step.text for step in run.steps] == STEPS[:1]
    assert app.invoke(None, THREAD)["answer"] == ANSWER
    (again,) = find_runs(saver, "t")
    assert (again.run, again.stop_reason, len(again.steps)) == (run.run, "answered", 3)


def test_a_question_that_waits_is_not_taken_for_the_run_before(pair: EnginePair) -> None:
    saver = InMemorySaver()
    graph = create_specreason(pair).compile(checkpointer=saver, interrupt_before=["prepare"])
    graph.invoke({"question": "First?"}, THREAD)
    assert find_runs(saver, "t") == []
    graph.invoke(None, THREAD)
    graph.invoke({"question": "Second?"}, THREAD)
    (run,) = find_runs(saver, "t")
    assert (run.question, run.stop_reason, run.next) == ("First?", "answered", [])


def test_keys_like_ours_are_no_run() -> None:
    class Mine(TypedDict):
        progress: dict[str, str]
        manifest: dict[str, int]

    saver = InMemorySaver()
    graph = StateGraph(Mine)
    graph.add_node("n", lambda _: {"progress": {"run": "a"}, "manifest": {"x": 1}})
    graph.add_edge(START, "n")
    graph.compile(checkpointer=saver).invoke({"progress": {}, "manifest": {}}, THREAD)
    assert find_runs(saver, "t") == []


def test_a_thread_of_something_else_holds_no_runs(pair: EnginePair) -> None:
    saver = InMemorySaver()
    parent(lambda _: {"answer": "x"}).compile(checkpointer=saver).invoke({"question": "?"}, THREAD)
    assert find_runs(saver, "t") == find_runs(saver, "nothing") == []
