"""Tasks are read as they are published and refused with a line that says what to mend; graders give known verdicts."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from specreason_graph.bench.graders import Grader, last_boxed, make_grader
from specreason_graph.bench.tasks import LONGEST, STEPS, Question, Task, read_task
from specreason_graph.errors import ConfigError, QuestionError

MATH = [
    # reference, reply, right
    # whole and decimal numbers
    ("18", r"So she makes \boxed{18} dollars.", True),
    ("18", r"\boxed{18.0}", True),
    ("18", r"\boxed{19}", False),
    ("-3", r"\boxed{3}", False),
    ("-3", r"\boxed{-3}", True),
    ("1,234", r"\boxed{1234}", True),
    ("1234", r"\boxed{1,234}", True),
    ("1234", r"\boxed{1{,}234}", True),
    ("0.5", r"\boxed{.5}", True),
    ("0.333", r"\boxed{1/3}", False),
    ("70000", r"\boxed{\$70,000}", True),
    ("70000", "The profit is $70,000.", True),
    ("70000", r"\boxed{7000}", False),
    ("2.5\\times10^3", r"\boxed{2500}", True),
    ("1000", r"\boxed{10^3}", True),
    ("0", r"\boxed{0}", True),
    ("0", r"\boxed{}", False),
    ("5", "The final answer is $5$.", True),
    ("5", "First 3, then 4, so the answer is 5.", True),
    ("5", "I do not know.", False),
    # fractions
    ("\\frac{1}{2}", r"\boxed{\frac12}", True),
    ("\\frac{1}{2}", r"\boxed{0.5}", True),
    ("1/2", r"\boxed{\dfrac{1}{2}}", True),
    ("1/2", r"\boxed{\tfrac{2}{4}}", True),
    ("1/2", r"\boxed{\frac{1}{3}}", False),
    ("\\frac{3}{4}", r"\boxed{3/4}", True),
    ("-\\frac{3}{4}", r"\boxed{\frac{-3}{4}}", True),
    ("\\frac{3}{4}", r"\boxed{-\frac{3}{4}}", False),
    ("2 1/2", r"\boxed{2.5}", True),
    ("2\\frac{1}{2}", r"\boxed{\frac{5}{2}}", True),
    ("11 1/2", r"\boxed{11\frac{1}{2}}", True),
    ("11/2", r"\boxed{11\frac{1}{2}}", False),
    # per cent, units, money, degrees
    ("50%", r"\boxed{50\%}", True),
    ("50\\%", r"\boxed{0.5}", True),
    ("50%", r"\boxed{5\%}", False),
    ("3", r"\boxed{3\text{ km}}", True),
    ("3 \\text{ km}", r"\boxed{3}", True),
    ("3 \\text{ cm}", r"\boxed{4 \text{ cm}}", False),
    ("3\\text{ cm}^2", r"\boxed{3\text{ cm}^2}", True),
    ("90^\\circ", r"\boxed{90}", True),
    ("90", r"\boxed{90^\circ}", True),
    ("\\$18", r"\boxed{18}", True),
    ("18.50", r"\boxed{\$18.50}", True),
    ("18.50", r"\boxed{\$18.05}", False),
    # roots, powers, constants
    ("\\sqrt{2}/2", r"\boxed{\frac{1}{\sqrt{2}}}", True),
    ("2\\sqrt{3}", r"\boxed{\sqrt{12}}", True),
    ("2\\sqrt{3}", r"\boxed{3\sqrt{2}}", False),
    ("\\frac{\\pi}{4}", r"\boxed{\pi/4}", True),
    ("\\frac{\\pi}{4}", r"\boxed{\pi/2}", False),
    ("2^{10}", r"\boxed{1024}", True),
    ("e^2", r"\boxed{e^{2}}", True),
    ("3+4i", r"\boxed{4i+3}", True),
    ("3+4i", r"\boxed{3-4i}", False),
    ("\\log_2 8", r"\boxed{3}", True),
    ("5!", r"\boxed{120}", True),
    # expressions and equations
    ("x^2+2x+1", r"\boxed{(x+1)^2}", True),
    ("x^2+2x+1", r"\boxed{x^2+1}", False),
    ("x=3", r"\boxed{3}", True),
    ("3", r"\boxed{x=3}", True),
    ("3", r"\boxed{x=4}", False),
    ("y=2x+3", r"\boxed{y=3+2x}", True),
    ("y=2x+3", r"\boxed{y=2x-3}", False),
    ("\\frac{x}{2}", r"\boxed{0.5x}", True),
    ("a+b", r"\boxed{b+a}", True),
    ("x<3", r"\boxed{x<3}", True),
    ("x<3", r"\boxed{3>x}", True),
    ("x<3", r"\boxed{x>3}", False),
    # intervals, sets, tuples, matrices
    ("[2,3]", r"\boxed{[2,3]}", True),
    ("(2,3]", r"\boxed{[2,3]}", False),
    ("(-\\infty,3)", r"\boxed{(-\infty, 3)}", True),
    ("(-\\infty,3)", r"\boxed{(-\infty, 3]}", False),
    ("[0,1)\\cup(2,3]", r"\boxed{[0,1) \cup (2,3]}", True),
    ("[0,1)\\cup(2,3]", r"\boxed{[0,1] \cup (2,3]}", False),
    ("\\{1,2\\}", r"\boxed{\{2,1\}}", True),
    ("\\{1,2\\}", r"\boxed{\{1,2,3\}}", False),
    ("1, 2", r"\boxed{2, 1}", True),
    ("1, 2", r"\boxed{1, 3}", False),
    ("(1,2)", r"\boxed{(1,2)}", True),
    ("(1,2)", r"\boxed{(2,1)}", False),
    ("(1,2,3)", r"\boxed{(1, 2, 3)}", True),
    ("(1,2,3)", r"\boxed{(3,2,1)}", False),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", True),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", r"\boxed{\begin{pmatrix} 2 \\ 1 \end{pmatrix}}", False),
    # boxes within text
    ("2", r"First \boxed{1}, and then \boxed{2}.", True),
    ("1", r"First \boxed{1}, and then \boxed{2}.", False),
    ("\\frac{1}{2}", r"\boxed{\text{the answer is } \frac{1}{2}}", True),
    ("7", r"$\boxed{7}$", True),
    ("7", r"It is \boxed{7} and not \boxed{8", True),
    ("$7$", r"\boxed{7}", True),
    ("The answer is $\\boxed{7}$.", r"\boxed{7}", True),
    # words
    ("Evelyn", r"\boxed{\text{Evelyn}}", True),
    ("\\text{Evelyn}", r"\boxed{evelyn}", True),
    ("stop", r"\boxed{pots}", False),
    ("east", r"\boxed{west}", False),
    ("yes", r"\boxed{Yes.}", True),
]
OTHERS = [
    # grader, reference, reply, right
    ("number", "18", r"It takes 3 hours. \boxed{18}", True),
    ("number", "18", r"\boxed{$18.00}", True),
    ("number", "1800", "That is 1,800 in all.", True),
    ("number", "18", r"It is \boxed{17}, not 18.", False),
    ("number", "-4", "\\boxed{\N{MINUS SIGN}4}", True),
    ("number", "18", "I do not know.", False),
    ("exact", "Ada Lovelace", r"\boxed{Ada  Lovelace}", True),
    ("exact", "Ada Lovelace", "It was her.\n\nAnswer: Ada Lovelace.", True),
    ("exact", "Ada Lovelace", "Her name:\n\nAda Lovelace", True),
    ("exact", "Ada Lovelace", r"\boxed{Ada}", False),
    ("choice", "B", r"\boxed{B}", True),
    ("choice", "B", r"\boxed{\text{(B)}}", True),
    ("choice", "B", r"\boxed{B) blue}", True),
    ("choice", "B", r"\boxed{blue}", True),
    ("choice", "B", "The answer is (B).", True),
    ("choice", "B", "**Answer: B**", True),
    ("choice", "B", "A is wrong, C is wrong, so B", True),
    ("choice", "B", r"\boxed{C}", False),
    ("choice", "B", "The answer is a colour.", False),
    ("choice", "B", "None of them.", False),
]


def asked(reference: str | None, *, choices: bool = False) -> Question:
    shown = ["red", "blue", "green"] if choices else []
    return Question(id="1", text="What?", reference=reference, choices=shown)


@pytest.fixture(scope="module")
def mathematics() -> Iterator[Grader]:
    with make_grader("math", Task(name="t", questions=[asked("1")])) as grader:
        yield grader


def test_a_hundred_answers_get_the_verdicts_that_are_known(mathematics: Grader) -> None:
    assert len(MATH) + len(OTHERS) >= 100
    found = [(*each[:2], mathematics.grade(each[1], asked(each[0])).right) for each in MATH]
    assert found == MATH


@pytest.mark.parametrize(("kind", "reference", "reply", "right"), OTHERS)
def test_other_graders(kind: str, reference: str, reply: str, right: bool) -> None:
    question = asked(reference, choices=kind == "choice")
    with make_grader(kind, Task(name="t", questions=[question])) as grader:
        assert grader.grade(reply, question).right is right


def test_mathematics_works_in_threads_and_an_endless_comparison_is_wrong(
    mathematics: Grader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specreason_graph.bench.graders.SECONDS", 4)
    found: list[bool | None] = []
    for reference, reply in (("1", r"\boxed{9^{9^{9^{9^{9}}}}}"), ("1/2", r"\boxed{0.5}")):
        thread = threading.Thread(target=lambda: found.append(mathematics.grade(reply, asked(reference)).right))  # noqa: B023
        thread.start()
        thread.join()
    assert found == [False, True]


def test_a_function_of_the_callers_grades(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_grader.py").write_text(
        "def is_short(reply, question):\n    return len(reply) < question.extra['most']\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    question = Question(id="1", text="What?", extra={"most": 3})
    grader = make_grader("own_grader:is_short", Task(name="t", questions=[question]))
    assert [grader.grade(reply, question).right for reply in ("ab", "abcd")] == [True, False]
    for wrong in ("own_grader:missing", "nowhere:f", "sideways"):
        with pytest.raises(ConfigError, match="grader"):
            make_grader(wrong, Task(name="t", questions=[question]))


def test_without_references_the_base_alone_is_agreed_with() -> None:
    task = Task(name="t", questions=[asked(None)])
    with make_grader(None, task) as grader:
        assert grader.is_agreement
        assert grader.grade(r"\boxed{1}", asked("7")).right is None
        assert grader.grade(r"\boxed{1/2}", asked("7"), reference="0.5").right is True
        assert grader.grade(r"\boxed{1/2}", asked("7"), reference="7").right is False


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1\}} .", r"\{1\}"),
        (r"\boxed{1} \boxed{2", "1"),
        ("1", None),
    ],
)
def test_what_is_in_the_last_box(text: str, found: str | None) -> None:
    assert last_boxed(text) == found


def write(file: Path, *lines: Any) -> Path:
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return file


def test_data_sets_are_read_as_they_are_published(tmp_path: Path) -> None:
    gsm8k = {"question": "How many?", "answer": "3+4=7, so 7.\n#### 7", "level": 2}
    task = read_task(write(tmp_path / "gsm.jsonl", gsm8k))
    (question,) = task.questions
    assert (question.id, question.text, question.reference, question.extra) == (
        "1",
        "How many?" + STEPS,
        "7",
        {"level": 2},
    )
    assert any("####" in note for note in task.notes)
    math = {"problem": "x?", "solution": r"So \boxed{2}", "answer": "2", "unique_id": "a/1.json"}
    (question,) = read_task(write(tmp_path / "math.jsonl", math)).questions
    assert (question.id, question.reference, question.extra) == ("a/1.json", "2", {"solution": r"So \boxed{2}"})
    nested = {"prompt": "What?", "more": {"truth": 5}, "id": 3}
    task = read_task(
        write(tmp_path / "n.jsonl", nested), answer_key="more.truth", template="Q: {prompt} ({more.truth})"
    )
    assert (task.questions[0].text, task.questions[0].reference) == ("Q: What? (5)", "5")
    (bare,) = read_task(write(tmp_path / "b.jsonl", {"question": "Why?"})).questions
    assert bare.reference is None


TEXTS = ["red", "blue", "green"]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ({"question": "Q", "choices": ["red", "blue", "green"], "answer": 1}, None),
        (
            {
                "question": "Q",
                "choices": {"text": ["red", "blue", "green"], "label": ["1", "2", "3"]},
                "answerKey": "2",
            },
            None,
        ),
        ({"question": "Q", "options": {"A": "red", "B": "blue", "C": "green"}, "answer": "B"}, None),
        (
            {"question": "Q", "options": {"A": "red", "B": "blue", "C": "green"}, "answer": "blue", "answer_idx": "B"},
            None,
        ),
        ({"Question": "Q", "Correct": "blue", "W1": "red", "W2": "green"}, "Correct,W1,W2"),
    ],
)
def test_choices_are_shuffled_and_the_shuffle_is_recorded(line: Any, key: str | None, tmp_path: Path) -> None:
    names: dict[str, Any] = {"question_key": "Question", "answer_key": "Correct"} if key else {}
    file = write(tmp_path / "c.jsonl", *({**line, "id": str(number)} for number in range(20)))
    questions = read_task(file, choices_key=key, **names).questions
    published = ["blue", "red", "green"] if key else TEXTS
    for each in questions:
        assert each.choices == [published[place] for place in each.order]
        assert each.choices["ABC".index(str(each.reference))] == "blue"
        assert f"{each.reference}) blue\n" in each.text + "\n"
    assert len({each.reference for each in questions}) == 3
    again = read_task(file, choices_key=key, **names)
    assert [each.order for each in again.questions] == [each.order for each in questions]
    assert read_task(file, choices_key=key, seed=1, **names).digest != again.digest


GOOD = {"question": "What?", "answer": "7", "id": "a"}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([GOOD, {"answer": "7", "id": "b"}], "line 2: there is no key 'question'"),
        ([{"text": "What?"}], "line 1: there is none of the keys"),
        ([GOOD, {"question": "What?", "id": "b"}], "line 2: there is no key 'answer'"),
        ([GOOD, {**GOOD, "id": "b", "answer": ["7"]}], 'line 2: answer = ["7"] is not allowed'),
        ([GOOD, {**GOOD, "id": "b", "answer": True}], "line 2: answer = true is not allowed"),
        ([GOOD, {**GOOD, "id": "b", "answer": " "}], "line 2: answer is empty"),
        ([{**GOOD, "question": 3}], "line 1: question = 3 is not allowed"),
        ([{**GOOD, "question": " "}], "line 1: question"),
        ([GOOD, "", GOOD], "line 3: id 'a' is that of"),
        ([], "holds no question"),
        (["", " "], "holds no question"),
        ([GOOD, "{"], "line 2: it is not JSON"),
        ([[GOOD]], "line 1: it is no object but a list"),
        (["[" * 100_000], "line 1: it is nested too deep"),
        ([GOOD, {**GOOD, "id": "b", "n": 2**70}], "line 2: it.n is an integer beyond 64 bits"),
        ([{**GOOD, "choices": ["one"]}], "line 1: choices ="),
        ([{**GOOD, "choices": ["one", "two"]}], "is none of the choices A, B"),
    ],
)
def test_a_bad_task_is_refused_with_its_line(lines: list[Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(QuestionError) as refused:
        read_task(write(tmp_path / "bad.jsonl", *lines))
    assert said in str(refused.value)
    assert refused.value.hint


def test_bytes_that_are_no_text_and_lines_without_end_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(json.dumps(GOOD).encode() + b'\n{"question": "\xff"}\n')
    with pytest.raises(QuestionError, match="line 2: it is not UTF-8 text"):
        read_task(file)
    with file.open("wb") as opened:
        opened.truncate(100 * 2**20)
    with pytest.raises(QuestionError, match=f"line 1: it is longer than {LONGEST:,} bytes"):
        read_task(file)
    with pytest.raises(QuestionError, match="No such file"):
        read_task(tmp_path / "missing.jsonl")
    with pytest.raises(QuestionError, match="has no key 'qestion'"):
        read_task(write(file, GOOD), template="{qestion}")
    with pytest.raises(QuestionError, match="in it"):
        read_task(write(file, GOOD), template="Well?")


def test_built_in_tasks() -> None:
    long, short = read_task("abacus"), read_task("abacus-short")
    assert (len(long.questions), len(short.questions)) == (500, 200)
    assert long.has_references
    assert len(long.first(3).questions) == 3
