"""The bound on lost answers: it holds in simulation, and says how many questions it takes."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from specreason_graph.errors import ConfigError
from specreason_graph.tuning.risk import control_risk, p_value, questions_needed

ALPHA, DELTA, DRAWS = 0.1, 0.1, 1000
TRIALS = [1 - tenth / 20 for tenth in range(20)]


def losses_of(worst: Sequence[float]) -> list[tuple[float, list[float]]]:
    """For each threshold whether a question is lost: its worst harmful step has the number that is given."""
    return [(threshold, [float(number >= threshold) for number in worst]) for threshold in TRIALS]


@pytest.mark.parametrize("questions", [25, 60, 200])
def test_in_a_thousand_draws_the_bound_is_violated_at_most_as_often_as_it_says(questions: int) -> None:
    chance, violated, chosen = random.Random(questions), 0, 0
    for _ in range(DRAWS):
        # the number of a question's worst harmful step is drawn evenly from 0 to 1: a threshold t loses 1 - t in truth
        bound = control_risk(losses_of([chance.random() for _ in range(questions)]), alpha=ALPHA, delta=DELTA)
        chosen += bound.threshold is not None
        violated += bound.threshold is not None and 1 - bound.threshold > ALPHA + 1e-9
    assert violated <= DELTA * DRAWS
    assert chosen > 0.5 * DRAWS  # it is no bound that is never shown


def test_several_judges_share_the_error_probability() -> None:
    chance, violated = random.Random(7), 0
    for _ in range(DRAWS):
        bounds = [
            control_risk(losses_of([chance.random() for _ in range(60)]), alpha=ALPHA, delta=DELTA / 4)
            for _ in range(4)
        ]
        violated += any(bound.threshold is not None and 1 - bound.threshold > ALPHA + 1e-9 for bound in bounds)
    assert violated <= DELTA * DRAWS


def test_losses_between_none_and_all_are_bounded_as_well() -> None:
    chance, violated = random.Random(3), 0
    for _ in range(DRAWS):
        # each question loses half or nothing; a threshold t loses (1 - t) / 2 in truth
        worst = [chance.random() for _ in range(60)]
        losses = [(threshold, [loss / 2 for loss in lost]) for threshold, lost in losses_of(worst)]
        bound = control_risk(losses, alpha=ALPHA, delta=DELTA)
        violated += bound.threshold is not None and (1 - bound.threshold) / 2 > ALPHA + 1e-9
    assert violated <= DELTA * DRAWS


def test_the_p_value_is_the_exact_tail_where_a_question_is_lost_or_not() -> None:
    assert p_value([0.0] * 22, 0.1) == pytest.approx(0.9**22)
    assert p_value([1.0] + [0.0] * 9, 0.1) == pytest.approx(0.9**10 + 10 * 0.1 * 0.9**9)
    assert p_value([], 0.1) == 1
    assert p_value([0.5] * 10, 0.1) == 1


def test_a_sample_that_is_too_small_says_how_many_questions_are_needed() -> None:
    bound = control_risk([(0.9, [0.0] * 10), (0.5, [0.0] * 10)], alpha=0.1, delta=0.1)
    assert (bound.threshold, bound.needed, bound.questions) == (None, 22, 10)
    assert control_risk([(0.9, [0.0] * 22)], alpha=0.1, delta=0.1).threshold == 0.9
    needed = questions_needed(0.1, 0.1, lost=0.05)
    assert needed is not None
    assert needed > 22
    assert questions_needed(0.1, 0.1, lost=0.1) is None
    assert questions_needed(0.1, 0.1, lost=0.0999) is None


def test_later_thresholds_are_not_looked_at_once_one_is_not_shown() -> None:
    lost, none = [1.0] * 40, [0.0] * 40
    bound = control_risk([(3.0, none), (2.0, lost), (1.0, none)])
    assert [each.threshold for each in bound.tested] == [3.0, 2.0]
    assert (bound.threshold, bound.lost) == (3.0, 0.0)


@pytest.mark.parametrize("shares", [{"alpha": 0}, {"alpha": 1}, {"delta": 1.5}])
def test_shares_out_of_range_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="write a share between 0 and 1"):
        control_risk([], **shares)
