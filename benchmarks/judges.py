"""Which judge tells steps that harm from others, on a pair and questions of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from specreason_graph.bench.graders import default_grader, make_grader
from specreason_graph.bench.judged_steps import Discernment, JudgedStep
from specreason_graph.bench.tasks import read_task
from specreason_graph.runs.launch import Launch
from specreason_graph.tuning.choose import labelled
from specreason_graph.tuning.tune import Tuning


def collect(launch: Launch, task: str, questions: int, output: Path) -> list[JudgedStep]:
    """Labelled steps with all evidence; what the folder ``output`` holds already is not asked again."""
    whole = read_task(task)
    asked, grader = whole.first(questions), default_grader(whole)
    with make_grader(grader, asked) as graded:
        tuning = Tuning(
            task=asked, digest=whole.digest, grader=graded, grader_name=grader, launch=launch, folder=output,
            own_versions=True, tell=lambda line: print(line, end="\r", flush=True),
        )  # fmt: skip
        _, solutions = tuning.collect()
    return labelled(solutions)


def table(found: list[Discernment]) -> Iterator[str]:
    """The lines of the table, in Markdown."""
    yield "| judge | AUROC | 95% interval | median of its numbers |"
    yield "|---|---|---|---|"
    for each in found:
        low, high = each.interval
        yield f"| {each.judge} | {each.auroc:.2f} | {low:.2f} to {high:.2f} | {each.median:.2f} |"
