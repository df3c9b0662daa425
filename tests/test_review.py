"""A human in the uncertain band: asked in one process, answered in another."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from specreason_graph import create_specreason
from specreason_graph.errors import ConfigError
from specreason_graph.judging import DigitJudge
from specreason_graph.policies.acceptance import decide, decide_reviewed
from specreason_graph.record.events import Rejected, read_event
from specreason_graph.record.records import Decision, Review, Score
from tests.support import reviewed
from tests.support.reviewed import BAND, THREAD, pair
from tests.support.scripts import ANSWER

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", params=["root", "nested"])
def asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    """Where a run is, the database that another process left, and what it said: it waits for a human."""
    where, file = request.param, tmp_path_factory.mktemp("asked") / "runs.sqlite"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.support.reviewed", file, where, json.dumps({"question": "What?"})],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return where, file, json.loads(result.stdout)


EDIT = {"verdict": "edit", "text": "A human's thing.", "reviewer": "Ada", "note": "clearer"}


def test_what_is_asked_is_told_in_full(asked: tuple[str, Path, Any]) -> None:
    _, _, told = asked
    (question,) = told["interrupts"]
    assert (question["proposal"], question["before"], question["index"]) == (
        "Doubtful thing.\n\n", "Sure thing.\n\n", 1,
    )  # fmt: skip
    assert question["score"]["mean"] == pytest.approx(6)
    assert (told["answer"], len(told["steps"])) == (None, 1)


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
    asked: tuple[str, Path, Any], reply: Any, author: str, text: str, reason: str, tmp_path: Path
) -> None:
    where, file, told = asked
    done = reviewed.main(str(shutil.copy(file, tmp_path)), where, {"resume": reply})
    assert done["steps"][:1] == told["steps"]
    assert (done["answer"], [step["text"] for step in done["steps"]]) == (ANSWER, ["Sure thing.\n\n", text, ""])
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
    score = decide(Score.load(step["score"]), DigitJudge(threshold=7))
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
    assert graph.invoke(Command(resume="accept"), THREAD)["answer"] == ANSWER


async def test_a_score_outside_the_band_asks_nobody_and_a_rejection_is_told() -> None:
    graph = create_specreason(pair(), review={"low": 7, "high": 8}).compile(checkpointer=InMemorySaver())
    events = [read_event(part) async for part in graph.astream({"question": "What?"}, THREAD, stream_mode="custom")]
    reasons = [event.decision.reason for event in events if isinstance(event, Rejected)]
    assert reasons == ["score_below_threshold", "proposal_ends_thinking"]
    assert (await graph.aget_state(THREAD)).values["answer"] == ANSWER


def test_a_band_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"low = 8 is above high = 2; swap them"):
        create_specreason(pair(), review={"low": 8, "high": 2})
    with pytest.raises(ConfigError, match=r"review\.high = 11 is not allowed"):
        create_specreason(pair(), review={"low": 8, "high": 11})
