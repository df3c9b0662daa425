"""Which judge tells steps that harm from others, on a pair and questions of one's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.gsm8k import ASKED, said
from specreason_graph import EnginePair
from specreason_graph.bench.judged_steps import Asked, Collector, Discernment, JudgedStep


def read_asked(file: Path) -> list[Asked]:
    """All questions of a JSONL file with the fields ``question`` and ``answer``."""
    asked = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines()):
        told = json.loads(line)
        answer = float(str(told["answer"]).replace(",", ""))
        name = str(told.get("id", number))
        asked.append(Asked(name, told["question"] + ASKED, partial(_says, answer)))
    return asked


def _says(answer: float, reply: str) -> bool:
    return said(reply) == answer


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
