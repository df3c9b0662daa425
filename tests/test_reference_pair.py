"""The reference pair does what it is there for; the full table is `python -m training evaluate`."""

from __future__ import annotations

import json
import random
import re

import pytest
from safetensors import safe_open

from specreason_graph import ChatSpecReason, EnginePair, create_specreason
from specreason_graph.errors import QuestionError
from specreason_graph.models.abacus import FOLDER
from specreason_graph.models.abacus.problems import (
    beyond,
    draw_problem,
    draw_short_problem,
    draw_training_problem,
    held_out,
    held_out_short,
    knows,
    parse_answer,
)
from training.evaluate import evaluate


def test_a_sample_of_the_held_out_problems(abacus: EnginePair) -> None:
    table = evaluate(60, abacus)
    assert table.base_right >= 0.95
    assert 0.05 <= table.draft_right <= 0.5
    assert table.auroc >= 0.97
    assert table.pair_right >= table.base_right - 0.02  # one problem of the 60
    assert 0.5 <= table.from_draft < 0.95
    assert table.short_base_right >= 0.95  # a sample of 60
    assert table.short_pair_right >= 0.95


@pytest.mark.parametrize("role", ["base", "draft"])
def test_weights_are_what_the_configuration_says(role: str) -> None:
    config = json.loads((FOLDER / role / "config.json").read_text())
    with safe_open(FOLDER / role / "model.safetensors", "pt") as weights:
        formats = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118 - no mapping
    assert config["dtype"] == "bfloat16"
    assert formats == {"BF16"}


def test_steps_are_judged_in_their_own_context() -> None:
    problem = held_out()[4]
    gold = problem.steps
    assert all(problem.is_right(step, gold[:index]) for index, step in enumerate(gold))
    wrong = gold[0].replace("=450", "=440")
    assert not problem.is_right(wrong, [])
    assert problem.expected_step([wrong]) == "Zoe sells: 440-65=375.\n\n"
    assert problem.expected_step(gold) is None


def test_held_out_problems_are_fixed_and_varied() -> None:
    problems = held_out()
    assert len({problem.question for problem in problems}) == 500
    assert {len(problem.operations) for problem in problems} == set(range(2, 10))
    assert {operation.sign for problem in problems for operation in problem.operations} == set("+-*=")
    assert all(0 < result < 10_000 for problem in problems for result in problem.results)


def test_it_knows_its_own_kind_of_question() -> None:
    assert all(knows(draw_problem(random.Random(seed)).question) for seed in range(200))
    assert all(knows(problem.question) for problem in held_out_short())
    assert knows("What is 2+2?")
    assert knows("Zoe has 2 pens. Zoe buys 6 pens.")
    assert not knows("What is the capital of France, and in which year was it founded?")
    assert not knows("hi")
    assert not any(knows(bare) for bare in ("12", "3 4 5", "2+2", "?"))
    assert not knows("How old is a 3 year old horse in human years?")


def test_it_knows_which_numbers_it_learnt() -> None:
    drawn = [draw(random.Random(seed)).question for seed in range(500) for draw in (draw_problem, draw_short_problem)]
    held = [problem.question for problem in (*held_out(), *held_out_short())]
    assert [question for question in drawn + held if beyond(question)] == []


NUMBERS = [
    ("Zoe has 14 crates with 22 pens in each crate. Zoe sells 58 pens. Zoe buys 120 more pens.", "120", "99"),
    ("Zoe has 5000 pens. Zoe buys 12 more pens.", "5000", "400"),
    (f"Zoe has {'9' * 6000} pens. Zoe buys 12 more pens.", "9" * 20, "400"),
    ("Zoe has 30 boxes with 12 pens in each box.", "30", "25"), ("What is 300 minus 12?", "300", "20"),
    ("What is 12 times 34?", "34", "20"), ("Zoe has 2.5 pens. Zoe buys 3 pens.", "2.5", "whole numbers"),
    ("Zoe has 1,200 pens. Zoe buys 3 pens.", "1,200", "whole numbers"), ("What is -3 + 5?", "-3", "whole numbers"),
]  # fmt: skip


@pytest.mark.parametrize(("question", "number", "known"), NUMBERS)
def test_numbers_that_it_never_learnt_are_refused(abacus: EnginePair, question: str, number: str, known: str) -> None:
    with pytest.raises(QuestionError, match=f"never learnt to calculate with {re.escape(number)}, and .*{known}"):
        create_specreason(abacus).compile().invoke({"question": question})


def test_a_system_message_would_spoil_its_answer_and_is_refused(abacus: EnginePair) -> None:
    with pytest.raises(QuestionError, match="the built-in models know no system message"):
        ChatSpecReason(abacus).invoke([("system", "You are a helpful assistant."), ("user", "What is 2+2?")])


def test_what_it_never_learnt_is_refused_at_every_door(abacus: EnginePair) -> None:
    told = "the built-in models only do arithmetic word problems"
    with pytest.raises(QuestionError, match=r"have no such words as ann, apples; ask of Mia, .* buy and sell pens, "):
        create_specreason(abacus).compile().invoke({"question": "Ann has 12 apples. Ann sells 7 apples."})
    with pytest.raises(QuestionError, match=told):
        create_specreason(abacus).compile().invoke({"question": "Who wrote Faust?"})
    with pytest.raises(QuestionError, match=told):
        ChatSpecReason(abacus).invoke([("user", "What is 2+2?"), ("assistant", "4"), ("user", "hi")])


def test_short_problems_are_fixed_and_short() -> None:
    problems = held_out_short()
    assert len({problem.question for problem in problems}) == 200
    assert {len(problem.operations) for problem in problems} == {1, 2, 3}
    numbers = [int(n) for problem in problems for n in re.findall(r"\d+", problem.question)]
    assert max(numbers) <= 20
    drawn = {draw_training_problem(random.Random(seed), short=1.0).question for seed in range(2000)}
    assert not drawn & {problem.question for problem in problems}


@pytest.mark.parametrize(
    ("text", "number"), [("The answer is \\boxed{12}.", 12), ("\\boxed{1} or \\boxed{-2}", -2), ("12", None)]
)
def test_answers_are_read_from_the_box(text: str, number: int | None) -> None:
    assert parse_answer(text) == number
