"""Which judge tells steps that harm from others, on a pair and questions of one's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from specreason_graph import EnginePair
from specreason_graph.bench.graders import NumberGrader
from specreason_graph.bench.judged_steps import Asked, Collector, Discernment, JudgedStep
from specreason_graph.bench.tasks import Question, read_task


def read_asked(file: Path) -> list[Asked]:
    """All questions of a JSONL file whose answers are numbers."""
    return [Asked(each.id, each.text, partial(_is_right, each)) for each in read_task(file).questions]


def _is_right(question: Question, reply: str) -> bool:
    return bool(NumberGrader().grade(reply, question).right)


def collect(pair: EnginePair, questions: list[Asked], steps: int, together: int, output: Path) -> list[JudgedStep]:
    """Labelled steps, written to ``output`` as they come; what is there already is read and not asked again."""
    found = [JudgedStep.load(json.loads(line)) for line in output.read_text().splitlines()] if output.exists() else []
    done = {step.question for step in found}
    left = questions
    if found:  # the last question may be incomplete, and those without steps are not in the file
        last = max(place for place, asked in enumerate(questions) if asked.name in done)
        found = [step for step in found if step.question != questions[last].name]
        left = questions[last:]

    async def more() -> list[JudgedStep]:
        new = []
        with output.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(step.dump()) + "\n" for step in found)
            async for step in Collector(pair).collect(left, steps=steps - len(found), together=together):
                new.append(step)
                print(f"{len(found) + len(new)} steps", end="\r", flush=True)
                await asyncio.to_thread(file.write, json.dumps(step.dump()) + "\n")
                file.flush()
        return new

    return found + pair.run(more) if len(found) < steps else found


def table(found: list[Discernment]) -> Iterator[str]:
    """The lines of the table, in Markdown."""
    yield "| judge | AUROC | 95% interval | median of its numbers |"
    yield "|---|---|---|---|"
    for each in found:
        low, high = each.interval
        yield f"| {each.judge} | {each.auroc:.2f} | {low:.2f} to {high:.2f} | {each.median:.2f} |"
