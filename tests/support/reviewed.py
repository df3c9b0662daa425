"""A pair that a human has to look at, and a process that asks, or goes on with the answer: ``FILE WHERE ASKED``."""

from __future__ import annotations

import json
import sys
from typing import Any

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Command

from specreason_graph import EnginePair, create_specreason, find_runs
from specreason_graph.engines.fake import FakeEngine
from tests.support.parents import parent
from tests.support.scripts import ANSWER, CLOSE, done, is_closed

BAND = {"low": 4, "high": 7.5}
THREAD: Any = {"configurable": {"thread_id": "t"}}


def pair() -> EnginePair:
    """Two steps, of which the judge doubts the second."""

    def think(prompt: str) -> str:
        return ("Sure thing.\n\n", "Doubtful thing.\n\n", CLOSE)[min(2, done(prompt))]

    def base(prompt: str) -> str:
        if is_closed(prompt):
            return ANSWER
        return CLOSE if done(prompt) > 1 else "Better thing.\n\n"

    def judge(prompt: str) -> int:
        return 6 if "Doubtful" in prompt else 9

    return EnginePair(FakeEngine(think, name="draft"), FakeEngine(base, judge, name="base"))


def main(file: str, where: str, asked: Any) -> dict[str, Any]:
    """Ask, in the thread or in a subgraph of it, and tell what came of it."""
    with pair() as engines, SqliteSaver.from_conn_string(file) as saver:
        loop = create_specreason(engines, review=BAND)
        nested = where == "nested"
        app: Any = parent(loop.compile()).compile(checkpointer=saver) if nested else loop.compile(checkpointer=saver)
        outcome = app.invoke(Command(resume=asked["resume"]) if "resume" in asked else asked, THREAD)
        (run,) = find_runs(saver, "t")
    interrupts = [each.value for each in outcome.pop("__interrupt__", [])]
    return {"interrupts": interrupts, "answer": run.answer, "steps": [step.dump() for step in run.steps]}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))))  # noqa: T201 - read by the test
