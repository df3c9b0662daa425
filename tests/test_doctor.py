"""What ``doctor`` says of a pair: how it thinks, whether its judge is able, what it does on the caller's questions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from specreason_graph import EnginePair
from specreason_graph.cli.diagnosis import CheckResult, Diagnosis, judged, verdict
from specreason_graph.cli.own_questions import is_answered, read_own_questions
from specreason_graph.config import make_config
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import QuestionError
from specreason_graph.judging.digit import read_digits
from specreason_graph.judging.labelled_steps import Labelled, auroc, built_in_pairs, shipped_pairs
from specreason_graph.models.abacus.problems import held_out_short
from specreason_graph.record.records import Usage

Command = Callable[..., Any]


def labelled(right: Sequence[Sequence[float]], wrong: Sequence[Sequence[float]]) -> list[Labelled]:
    """Steps with these ten probabilities, a right and a wrong one in turns."""
    both = [
        (label, masses)
        for pair in zip(right, wrong, strict=True)
        for label, masses in zip((True, False), pair, strict=True)
    ]
    return [
        Labelled("words", label, read_digits([math.log(max(m, 1e-30)) for m in masses], 1 - sum(masses), 9, Usage()))
        for label, masses in both
    ]  # fmt: skip


def sure(digit: int, mass: float = 1.0) -> list[float]:
    """All probability that digits have on one of them."""
    return [mass * (each == digit) for each in range(10)]


@pytest.mark.parametrize(
    ("right", "wrong", "status", "advice"),
    [
        ([9, 8, 9, 7], [1, 2, 3, 1], "ok", ""),
        ([9, 5, 6, 6], [6, 6, 5, 9], "warning", "the digit is no guide to right steps"),
        ([6, 6, 5, 6], [1, 2, 3, 1], "warning", "most right steps lie under the threshold: 6.0 would let in 75%"),
        ([6, 6, 6, 6], [6, 6, 6, 6], "failed", "the judge does not see the step"),
    ],
)
def test_a_judge_is_known_by_what_it_says_of_labelled_steps(
    right: list[int], wrong: list[int], status: str, advice: str
) -> None:
    found = judged(labelled(list(map(sure, right)), list(map(sure, wrong))), make_config())
    assert (found.status, advice in found.advice) == (status, True)
    assert "AUROC" in found.detail


def test_a_judge_that_seldom_answers_with_a_digit_is_known_by_that() -> None:
    found = judged(labelled([sure(9, 0.1)] * 3, [sure(1, 0.2)] * 3), make_config())
    assert (found.status, "change judge.prefill" in found.advice) == ("warning", True)


def test_labelled_steps_are_many_and_varied() -> None:
    pairs = shipped_pairs()
    assert 2 * len(pairs) >= 40
    assert {pair.kind for pair in pairs} == {"arithmetic", "words"}
    assert all(pair.right != pair.wrong for pair in (*pairs, *built_in_pairs()))
    lengths = [len(pair.right) for pair in pairs]
    assert max(lengths) > 3 * min(lengths)
    assert any(pair.before for pair in pairs)


def test_auroc() -> None:
    assert auroc([9, 5], [5, 1]) == 0.875
    assert math.isnan(auroc([], [1]))


@pytest.mark.parametrize(
    ("against", "own", "status", "says"),
    [
        ("", None, "ok", "speculation can pay: the judge is able, and drafting pays from 30%"),
        ("", "ok", "ok", "speculate: the loop took 1 s"),
        ("the judge does not see what it judges", "ok", "warning", "use the base alone: the judge does not see"),
        ("draft and score cost as much as the base", None, "warning", "use the base alone: draft and score"),
    ],
)
def test_the_verdict_follows_from_the_checks(against: str, own: str | None, status: str, says: str) -> None:
    results = [
        CheckResult(name="judge", status="ok", detail="", against=against),
        CheckResult(name="break-even", status="ok", detail="drafting pays from 30%"),
    ]
    results += [CheckResult(name="own time", status="ok", detail="the loop took 1 s")] if own else []
    found = verdict(results)
    assert (found.name, found.status, says in found.detail) == ("verdict", status, True)


def test_a_pair_of_models_that_do_not_know_right_from_wrong() -> None:
    engines = [FakeEngine(lambda _: "It is.\n\n", lambda _: 6, name=name, delay=0.001) for name in ("draft", "base")]
    with EnginePair(*engines) as pair:
        found = {result.name: result for result in pair.run(Diagnosis(pair, make_config()).results)}
    assert found["judge"].status == "failed"
    assert found["base thinking"].detail == "tags <think> ... </think> (the chat template opens it)"


def test_the_built_in_pair_on_questions_of_ones_own(here: Command, tmp_path: Path) -> None:
    lines = [{"question": p.question, "answer": str(p.answer), "id": 1} for p in held_out_short()[:2]]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = here("doctor", "-f", str(tmp_path / "q.jsonl"), "--set", "temperature=0")
    assert result.returncode == 0
    assert "2 of 2 right with the loop, 2 with the base alone" in result.stdout
    assert "proposals accepted" in result.stdout
    assert "the loop took" in result.stdout
    assert any(line.split()[1:2] == ["verdict"] for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("reply", "answer", "answered"),
    [
        ("It is \\boxed{1,200}.", "1200", True),
        ("It is 12.", "13", False),
        ("It is Rome.", "rome", True),
        ("No.", "3", False),
    ],
)
def test_whether_a_reply_gives_the_answer(reply: str, answer: str, answered: bool) -> None:
    assert is_answered(reply, answer) is answered


@pytest.mark.parametrize("text", ["", "{", "3", '{"q": "x"}', "[]"])
def test_a_file_without_questions_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(text)
    with pytest.raises(QuestionError, match=r"write \{\"question\": \"...\"\} lines"):
        read_own_questions(tmp_path / "q.jsonl")
    with pytest.raises(QuestionError, match="check the path"):
        read_own_questions(tmp_path / "missing.jsonl")
