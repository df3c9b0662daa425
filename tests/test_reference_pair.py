"""The reference pair does what it is there for; the full table is `python -m training evaluate`."""

from __future__ import annotations

import json

import pytest
from safetensors import safe_open

from specreason_graph import EnginePair
from specreason_graph.models.abacus import FOLDER
from specreason_graph.models.abacus.problems import draw_problem, held_out, knows, parse_answer
from training.evaluate import evaluate


def test_a_sample_of_the_held_out_problems(abacus: EnginePair) -> None:
    table = evaluate(60, abacus)
    assert table.base_right >= 0.95
    assert 0.05 <= table.draft_right <= 0.5
    assert table.auroc >= 0.97
    assert table.pair_right >= table.base_right - 0.02  # one problem of the 60
    assert 0.5 <= table.from_draft < 0.95


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
    import random

    assert all(knows(draw_problem(random.Random(seed)).question) for seed in range(200))
    assert not knows("What is the capital of France, and in which year was it founded?")
    assert not knows("What is 2 plus 2?")


@pytest.mark.parametrize(
    ("text", "number"), [("The answer is \\boxed{12}.", 12), ("\\boxed{1} or \\boxed{-2}", -2), ("12", None)]
)
def test_answers_are_read_from_the_box(text: str, number: int | None) -> None:
    assert parse_answer(text) == number
