"""Collected solutions and outcomes of a tuning, made up, and the page of one."""

from __future__ import annotations

from specreason_graph.judging.digit import read_digits
from specreason_graph.record.records import Score, Usage
from specreason_graph.tuning.choose import Choice, Outcome, replay_all, would_change
from specreason_graph.tuning.collect import PairCosts, Place, Solution
from specreason_graph.tuning.page import render_tuning
from specreason_graph.tuning.replay import Candidate
from specreason_graph.tuning.risk import control_risk
from specreason_graph.tuning.tune import Tuned

COSTS = PairCosts(
    concurrency=1, base=1.0, draft=0.1, base_together=1.2, draft_together=0.2, score={"digit": 3.0, "likelihood": 2.0},
    score_tokens=10, cached={"base": True, "draft": True},
)  # fmt: skip
"""A base of a second a token; a draft that is ten times as fast."""


def place(likelihood: float, *, harmful: bool | None = False, probe: str | None = None, right: bool = True) -> Place:
    """A step of ten tokens by either model, of which the likelihood and the confidence are the same."""
    digit = read_digits([-9.0] * 9 + [-0.1], 0.0, 9, Usage())
    score = digit.with_more(Score(base_logprobs=[likelihood], draft_logprobs=[likelihood], usage=Usage()))
    score = score.with_more(Score(draft_entropies=[0.5], found={"check": []}, usage=Usage()))
    return Place(
        base_tokens=10, draft_tokens=10, text="A step.", ends=False, score=score, harmful=harmful, probe=probe,
        probe_right=None if probe is None else right,
    )  # fmt: skip


def solution(*places: Place, right: bool = True, name: str = "q") -> Solution:
    return Solution(question=name, right=right, answer_tokens=5, places=list(places))


def outcome(name: str, faster: float, low: float, *, lost: int = 0, shown: bool = False) -> Outcome:
    bound = control_risk([(-1.0, [0.0] * 100)]) if shown else None
    return Outcome(
        candidate=Candidate(name=name, settings={"judge": "likelihood"}), faster=faster, low=low, high=faster + 0.1,
        questions=40, right=38 - lost, base_right=38, lost=lost, gained=0, bound=bound,
    )  # fmt: skip


def tuned_page(text: str) -> str:
    """The page of a tuning; ``text`` stands wherever somebody else's words do."""
    told = [solution(place(-0.1), place(-3), place(-40, harmful=True), name=str(number)) for number in range(30)]
    outcomes = [outcome(text, 1.5, 1.4, shown=True), outcome("likelihood -8, in turns", 1.2, 0.9)]
    replays = replay_all(told, COSTS, alpha=0.1, delta=0.1)
    change = would_change(replays.tried, told, COSTS)
    tuned = Tuned(
        task=text, questions=30, alpha=0.1, confidence=0.9, costs=COSTS, base_right=30, replays=replays,
        outcomes=outcomes, choice=Choice(chosen=outcomes[0], why=text, would_change=change),
    )  # fmt: skip
    return render_tuning(tuned, f"# {text}\n")
