"""A human in the uncertain band: asked in one process, answered in another."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from specreason_graph import EnginePair, create_specreason
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import ConfigError
from specreason_graph.policies.acceptance import decide, decide_reviewed
from specreason_graph.record.events import Rejected, read_event
from specreason_graph.record.records import Decision, Review, Score

CLOSE = "</think>"
BAND = {"low": 4, "high": 7.5}
THREAD: Any = {"configurable": {"thread_id": "t"}}
PROCESS = textwrap.dedent("""
    import json, sys
    from langgraph.checkpoint.sqlite import SqliteSaver
    from langgraph.types import Command
    from specreason_graph import create_specreason
    from tests.test_review import BAND, THREAD, pair
    from tests.test_subgraph import parent
    file, nested, asked = sys.argv[1], sys.argv[2] == "nested", json.loads(sys.argv[3])
    with pair() as engines, SqliteSaver.from_conn_string(file) as saver:
        loop = create_specreason(engines, review=BAND)
        app = parent(loop.compile()).compile(checkpointer=saver) if nested else loop.compile(checkpointer=saver)
        outcome = app.invoke(Command(resume=asked["resume"]) if "resume" in asked else asked, THREAD)
        interrupts = [each.value for each in outcome.pop("__interrupt__", [])]
        state = app.get_state(THREAD, subgraphs=True)
        from specreason_graph.runs.find import find_runs
        (run,) = find_runs(saver, "t")
    print(json.dumps({"interrupts": interrupts, "answer": run.answer, "steps": [s.dump() for s in run.steps]}))
""")


def pair() -> EnginePair:
    def think(prompt: str) -> str:
        return ("Sure thing.\n\n", "Doubtful thing.\n\n", CLOSE)[
            min(2, prompt.rpartition("<think>\n")[2].count("\n\n"))
        ]

    def base(prompt: str) -> str:
        thinking = prompt.rpartition("<think>\n")[2]
        if CLOSE in thinking:
            return "So."
        return CLOSE if thinking.count("\n\n") > 1 else "Better thing.\n\n"

    def judge(prompt: str) -> int:
        return 6 if "Doubtful" in prompt else 9

    return EnginePair(FakeEngine(think, name="draft"), FakeEngine(base, judge, name="base"))


def process(file: Path, where: str, asked: Any) -> Any:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROCESS, str(file), where, json.dumps(asked)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


EDIT = {"verdict": "edit", "text": "A human's thing.", "reviewer": "Ada", "note": "clearer"}


@pytest.mark.parametrize("where", ["root", "nested"])
@pytest.mark.parametrize(
    ("reply", "author", "text", "reason"),
    [
        ("accept", "draft", "Doubtful thing.\n\n", "accepted_by_reviewer"),
        ({"verdict": "reject", "reviewer": "Ada"}, "base", "Better thing.\n\n", "rejected_by_reviewer"),
        (EDIT, "human", "A human's thing.\n\n", "written_by_reviewer"),
    ],
    ids=["accept", "reject", "edit"],
)
def test_asked_in_one_process_and_answered_in_another(
    tmp_path: Path, where: str, reply: Any, author: str, text: str, reason: str
) -> None:
    file = tmp_path / "runs.sqlite"
    asked = process(file, where, {"question": "What?"})
    (question,) = asked["interrupts"]
    assert (question["proposal"], question["before"], question["index"]) == (
        "Doubtful thing.\n\n",
        "Sure thing.\n\n",
        1,
    )
    assert question["score"]["mean"] == pytest.approx(6)
    assert (asked["answer"], len(asked["steps"])) == (None, 1)
    done = process(file, where, {"resume": reply})
    assert (done["answer"], [step["text"] for step in done["steps"]]) == ("So.", ["Sure thing.\n\n", text, ""])
    step = done["steps"][1]
    assert (step["author"], step["decision"]["reason"]) == (author, reason)
    assert (step["discarded"] is None) is (author == "draft")
    review = step["decision"]["review"]
    assert review == {
        "text": None,
        "reviewer": None,
        "note": None,
        **({"verdict": reply} if reply == "accept" else reply),
    }


def test_a_reviewed_decision_can_be_computed_again() -> None:
    graph = create_specreason(pair(), review=BAND).compile(checkpointer=InMemorySaver())
    graph.invoke({"question": "What?"}, THREAD)
    step = graph.invoke(Command(resume=EDIT), THREAD)["trace"][1]
    score = decide(Score.load(step["score"]), threshold=7, score_reduction="mean")
    assert decide_reviewed(score, Review.load(EDIT)) == Decision.load(step["decision"])


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ("perhaps", "verdict: Input should be 'accept', 'reject' or 'edit'"),
        ({"verdict": "edit"}, 'a text belongs to "edit"'),
        ({"verdict": "accept", "text": "x"}, 'a text belongs to "edit"'),
        (7, "the answer: Input should be a valid dictionary"),
        ({"verdict": "edit", "text": "long " * 30_000}, "tokens too long"),
    ],
)
def test_an_answer_that_cannot_be_read_is_asked_for_again(reply: Any, problem: str) -> None:
    graph = create_specreason(pair(), review=BAND).compile(checkpointer=InMemorySaver())
    graph.invoke({"question": "What?"}, THREAD)
    (asked,) = graph.invoke(Command(resume=reply), THREAD)["__interrupt__"]
    assert problem in asked.value["problem"]
    assert graph.invoke(Command(resume="accept"), THREAD)["answer"] == "So."


async def test_a_score_outside_the_band_asks_nobody_and_a_rejection_is_told() -> None:
    graph = create_specreason(pair(), review={"low": 7, "high": 8}).compile(checkpointer=InMemorySaver())
    events = [read_event(part) async for part in graph.astream({"question": "What?"}, THREAD, stream_mode="custom")]
    reasons = [event.decision.reason for event in events if isinstance(event, Rejected)]
    assert reasons == ["score_below_threshold", "proposal_ends_thinking"]
    assert (await graph.aget_state(THREAD)).values["answer"] == "So."


def test_a_band_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"low = 8 is above high = 2; swap them"):
        create_specreason(pair(), review={"low": 8, "high": 2})
    with pytest.raises(ConfigError, match=r"review\.high = 11 is not allowed"):
        create_specreason(pair(), review={"low": 8, "high": 11})
