"""kill -9 in the middle of somebody else's graph: it ends as it would have ended, on SQLite and on PostgreSQL."""

from __future__ import annotations

import multiprocessing
import random
import time
from typing import Any

from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from specreason_graph import EnginePair, create_specreason
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.record.records import Step
from specreason_graph.runs.find import find_runs
from tests.support.databases import opened
from tests.support.scripts import stepwise

INSTANTS = 10
STEPS = 25


class State(TypedDict, total=False):
    topic: str
    question: str
    answer: str
    stop_reason: str
    report: str


def app(engines: EnginePair, saver: Any) -> Any:
    graph = StateGraph(State)
    graph.add_node("plan", lambda state: {"question": f"What of {state['topic']}?"})
    graph.add_node("think", create_specreason(engines).compile())
    graph.add_node("report", lambda state: {"report": f"{state['question']} {state['answer']}"})
    for one, other in ((START, "plan"), ("plan", "think"), ("think", "report"), ("report", END)):
        graph.add_edge(one, other)
    return graph.compile(checkpointer=saver)


def work(place: str, thread: str, begun: Any = None) -> Any:
    """Start the graph, or go on with it; its final state and what was thought."""
    config: Any = {"configurable": {"thread_id": thread}}
    with opened(place) as saver, stepwise(STEPS, (2, 9, 9), draft=0.005, base=0.005) as engines:
        whole = app(engines, saver)
        if begun:
            begun.set()
        started = whole.get_state(config).created_at
        outcome = whole.invoke(None if started else {"topic": "foxes"}, config, durability="sync")
        (run,) = find_runs(saver, thread)
        assert verify(read_runs(saver, thread)[0]).ok
    return outcome, [kept(step) for step in run.steps]


def kept(step: Step) -> Any:
    """A step without the times, the work ahead that came to nothing in them, and its hash, which covers both."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: timeless(each) for name, each in value.items() if name not in ("started", "elapsed", "hash")}
        return [timeless(each) for each in value] if isinstance(value, list) else value

    costs = [cost for cost in step.costs if not cost.wasted]
    return timeless(step.model_copy(update={"costs": costs}).dump())


def test_a_parent_graph_killed_at_random_instants_ends_as_if_nothing_had_happened(place: str) -> None:
    start = time.monotonic()
    expected = work(place, "never-killed")
    seconds = time.monotonic() - start
    assert len(expected[1]) == STEPS + 1
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.test_resume_subgraph"])
    rng, reached = random.Random(7), []
    for instant in range(INSTANTS):
        begun = processes.Event()
        child = processes.Process(target=work, args=(place, f"killed-{instant}", begun))
        child.start()
        assert begun.wait(60)
        time.sleep(rng.uniform(0, 1.2 * seconds))
        child.kill()
        child.join()
        with opened(place) as saver:
            runs = find_runs(saver, f"killed-{instant}")
        before = [kept(step) for step in runs[0].steps] if runs else []
        reached.append(len(before))
        assert before == expected[1][: len(before)]
        assert work(place, f"killed-{instant}") == expected
    assert sum(0 < count < STEPS for count in reached) >= INSTANTS // 4, f"few kills fell into the middle: {reached}"
