"""What the draft really writes: proposals for the judge to learn from."""

from __future__ import annotations

import random
from collections.abc import Iterator

from transformers import PreTrainedModel

from specreason_graph.models.abacus.problems import Problem, draw_training_problem
from training.documents import Writer
from training.play import next_steps

TEMPERATURES = (0.0, 0.6, 1.0)
Proposed = tuple[Problem, list[str | None]]


def draft_pool(
    draft: PreTrainedModel, writer: Writer, rng: random.Random, problems: int, short: float = 0.0
) -> list[Proposed]:
    """For each of ``problems`` fresh problems and each of its gold steps, what the draft writes in its place.

    ``short``: the share of short ones.
    """
    pool: list[Proposed] = []
    for _ in range(0, problems, 64):
        batch = [draw_training_problem(rng, short) for _ in range(64)]
        contexts = [(problem, problem.steps[:index]) for problem in batch for index in range(len(problem.steps))]
        written: Iterator[str | None] = iter(next_steps(draft, writer, contexts, rng.choice(TEMPERATURES)))
        pool += [(problem, [next(written) for _ in problem.steps]) for problem in batch]
    return pool
