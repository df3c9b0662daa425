"""The table of targets on the 500 held-out problems, and the model card it goes into."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from langgraph.graph.state import CompiledStateGraph
from transformers import AutoModelForCausalLM, AutoTokenizer

from specreason_graph import EnginePair, create_specreason, open_pair
from specreason_graph.config import make_config
from specreason_graph.engines.base import Sampling
from specreason_graph.judging import labelled_steps
from specreason_graph.models.abacus import FOLDER
from specreason_graph.models.abacus.problems import Problem, held_out, held_out_short, parse_answer
from specreason_graph.prompting.engine_prompts import EnginePrompts
from specreason_graph.record.records import Engine as Role
from specreason_graph.record.records import Proposal, Step
from training.documents import Writer
from training.play import share_right


@dataclass(frozen=True)
class Judged:
    """A step that the draft wrote, with the base's opinion."""

    right: bool
    """Whether it is the right one in its own context."""
    score: float
    """Mean score."""


@dataclass(frozen=True)
class Table:
    """The figures; shares are 0 to 1."""

    problems: int
    """How many problems."""
    base_right: float
    """Answers right, base alone."""
    draft_right: float
    """Answers right, draft alone."""
    auroc: float
    """Mean score of the base, right against wrong steps that the draft wrote."""
    judged: int
    """Steps behind that figure."""
    judged_wrong: int
    """Of which wrong."""
    pair_right: float
    """Answers right, SpecReason at the default threshold."""
    from_draft: float
    """Share of committed steps, the empty closing one aside, that the draft wrote."""
    short: int
    """How many short problems."""
    short_base_right: float
    """Of those, answers right, base alone."""
    short_pair_right: float
    """Answers right, SpecReason at the default threshold."""


def evaluate(
    count: int | None = None, pair: EnginePair | None = None, *, temperature: float = 0.0, concurrency: int = 1
) -> Table:
    """Each model alone, and SpecReason; the first ``count`` held-out problems, ``concurrency`` of them together."""
    problems, short = held_out()[:count], held_out_short()[:count]
    with pair or open_pair("abacus-base", "abacus-draft") as both, ThreadPoolExecutor(concurrency) as pool:
        loop = create_specreason(both, temperature=temperature).compile()
        runs = list(pool.map(partial(play, loop), problems))
        short_runs = list(pool.map(partial(play, loop), short))
        judged = [
            verdict for problem, (_, steps) in zip(problems, runs, strict=True) for verdict in _verdicts(problem, steps)
        ]
        steps = [step for _, trace in runs for step in trace if step.text]
        return Table(
            problems=len(problems),
            base_right=_alone(both, "base", problems, temperature),
            draft_right=_alone(both, "draft", problems, temperature),
            auroc=auroc(judged), judged=len(judged), judged_wrong=sum(not verdict.right for verdict in judged),
            pair_right=_right(problems, [answer for answer, _ in runs]),
            from_draft=sum(step.author == "draft" for step in steps) / len(steps),
            short=len(short), short_base_right=_alone(both, "base", short, temperature),
            short_pair_right=_right(short, [answer for answer, _ in short_runs]),
        )  # fmt: skip


def play(graph: CompiledStateGraph[Any, Any, Any, Any], problem: Problem) -> tuple[int | None, list[Step]]:
    """The number a graph answers, and its trace."""
    outcome = graph.invoke({"question": problem.question}, {"recursion_limit": 10_000})
    return parse_answer(outcome["answer"]), [Step.load(step) for step in outcome["trace"]]


def _alone(both: EnginePair, role: Role, problems: Sequence[Problem], temperature: float) -> float:
    """Share of problems that one model alone answers right: in batches where the engine is the embedded one."""
    engine = both.engine(role)
    if engine.describe().engine == "transformers" and temperature == 0:
        writer = Writer(AutoTokenizer.from_pretrained(FOLDER / role))
        model = AutoModelForCausalLM.from_pretrained(FOLDER / role, dtype=torch.float32)
        batches = [list(problems[start : start + 100]) for start in range(0, len(problems), 100)]
        return sum(share_right(model, writer, batch) * len(batch) for batch in batches) / len(problems)
    prompts = EnginePrompts(engine.vocabulary, make_config())
    eos = engine.vocabulary.eos_ids

    async def answer(problem: Problem, seed: int) -> int | None:
        sampling = Sampling(
            max_tokens=300, temperature=temperature, top_p=0.95, seed=seed, stop_token_ids=frozenset(eos)
        )
        completion = await engine.generate(prompts.question_ids(problem.question), sampling)
        return parse_answer(engine.vocabulary.decode(completion.generations[0].token_ids))

    async def answers() -> list[int | None]:
        return await asyncio.gather(*(answer(problem, seed) for seed, problem in enumerate(problems)))

    return _right(problems, both.run(answers))


def _right(problems: Sequence[Problem], answers: Sequence[int | None]) -> float:
    return sum(p.answer == a for p, a in zip(problems, answers, strict=True)) / len(problems)


def _verdicts(problem: Problem, steps: list[Step]) -> Iterable[Judged]:
    """Each scored proposal, labelled by the arithmetic in its own context."""
    written: list[str] = []
    for step in steps:
        if step.score:
            proposal: Step | Proposal = step.discarded or step
            yield Judged(problem.is_right(proposal.text, written), step.score.mean or 0.0)
        written.append(step.text)


def auroc(judged: Sequence[Judged]) -> float:
    """Probability that a right step outscores a wrong one, ties counting half."""
    scores = {label: [verdict.score for verdict in judged if verdict.right == label] for label in (True, False)}
    return labelled_steps.auroc(scores[True], scores[False])


def rows(table: Table) -> list[tuple[str, str, str, bool]]:
    """What, target, figure, met."""
    judged = f"{table.judged} steps the draft wrote, {table.judged_wrong} of them wrong"
    pair_met = table.pair_right >= table.base_right - 0.01
    return [
        ("base alone, answers right", "at least 95%", f"{table.base_right:.1%}", table.base_right >= 0.95),
        ("draft alone, answers right", "5 to 50%", f"{table.draft_right:.1%}", 0.05 <= table.draft_right <= 0.5),
        (f"judge: AUROC of the mean score on {judged}", "at least 0.97", f"{table.auroc:.4f}", table.auroc >= 0.97),
        ("SpecReason at threshold 7, answers right", "at least base - 1 point", f"{table.pair_right:.1%}", pair_met),
        ("steps taken from the draft", "at least 50%", f"{table.from_draft:.1%}", table.from_draft >= 0.5),
        (f"{table.short} short problems: base alone, answers right", "at least 97%", f"{table.short_base_right:.1%}",
         table.short_base_right >= 0.97),
        (f"{table.short} short problems: SpecReason, answers right", "at least 96%", f"{table.short_pair_right:.1%}",
         table.short_pair_right >= 0.96),
    ]  # fmt: skip


def markdown(table: Table, temperature: float = 0.0) -> str:
    """The table as it stands in the model card."""
    head = f"| on {table.problems} held-out problems, temperature {temperature:g} | target | figure |\n|---|---|---|\n"
    return head + "".join(f"| {what} | {target} | {figure} |\n" for what, target, figure, _ in rows(table))


def write_card(table: Table, card: Path = FOLDER / "README.md") -> None:
    """Put the table between the marks of the model card."""
    begin, end = "<!-- table -->\n", "<!-- /table -->"
    before, _, rest = card.read_text().partition(begin)
    card.write_text(before + begin + markdown(table) + end + rest.partition(end)[2])
