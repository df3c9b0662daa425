"""Real questions: how many a pair answers right alone, in vLLM's own chat, and under the loop at some thresholds."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specreason_graph import EnginePair, create_specreason
from specreason_graph.cli.own_questions import last_number
from specreason_graph.engines.base import Engine, Sampling
from specreason_graph.record.records import Step

ASKED = (
    "\n\nPlease reason step by step, put a blank line between the steps, and put your final answer within \\boxed{}."
)
LONGEST = 500
"""Most tokens of a reply."""


@dataclass(frozen=True)
class Question:
    """A question and its answer."""

    text: str
    """What is asked."""
    answer: float
    """The number that is right."""


@dataclass(frozen=True)
class Row:
    """How one way of answering went."""

    name: str
    """Which way."""
    right: int
    """Questions that were answered right."""
    asked: int
    """Questions."""
    accepted: float | None
    """Share of the committed tokens' steps that the draft wrote; None where nobody drafted."""
    base_tokens: int
    """Tokens that the base wrote, scores and rejected work included."""
    draft_tokens: int
    """Tokens that the draft wrote."""
    seconds: float
    """Wall-clock seconds for all questions."""


def read_questions(file: Path, count: int) -> list[Question]:
    """The first ``count`` questions of a JSONL file with the fields ``question`` and ``answer``."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:count]]
    return [Question(line["question"], float(str(line["answer"]).replace(",", ""))) for line in lines]


def said(text: str) -> float | None:
    r"""The number in the last ``\boxed{...}`` of a reply, else the last number in it."""
    boxes = re.findall(r"\\boxed\{([^}]*)\}", text)
    return last_number(boxes[-1] if boxes else text)


def measure(
    pair: EnginePair, questions: Sequence[Question], thresholds: Sequence[float], *, together: int, ways: Sequence[str]
) -> Iterator[Row]:
    """Answer the questions in each way, ``together`` at a time, at temperature 0; give a row when a way is done."""
    for name, role in (("base in its own chat", "base"), ("draft in its own chat", "draft")):
        if role in ways:
            yield _alone(name, pair.engine(role), questions, pair)  # type: ignore[arg-type]
    settings: dict[str, dict[str, Any]] = {"base through the graph": {"first_steps_by_base": 10_000}}
    settings = settings if "graph" in ways else {}
    settings |= {f"loop, threshold {threshold:g}": {"threshold": threshold} for threshold in thresholds}
    for name, more in settings.items():
        yield _through_graph(name, pair, questions, more, together)


def _alone(name: str, engine: Engine, questions: Sequence[Question], pair: EnginePair) -> Row:
    """A model's replies as its chat gives them: its template, one generation to the end of the turn."""
    vocabulary = engine.vocabulary

    async def reply(question: Question) -> list[int]:
        text = vocabulary.render([{"role": "user", "content": question.text + ASKED}])
        done = await engine.generate(
            vocabulary.encode_template(text), Sampling(max_tokens=LONGEST, stop_token_ids=vocabulary.eos_ids)
        )
        return done.generations[0].token_ids

    async def replies() -> list[list[int]]:
        return await asyncio.gather(*map(reply, questions))

    begun = time.perf_counter()
    written = pair.run(replies)
    right = sum(said(vocabulary.decode(ids)) == q.answer for ids, q in zip(written, questions, strict=True))
    tokens, is_draft = sum(map(len, written)), engine is pair.draft
    return Row(
        name, right, len(questions), None, 0 if is_draft else tokens, tokens if is_draft else 0,
        time.perf_counter() - begun,
    )  # fmt: skip


def _through_graph(
    name: str, pair: EnginePair, questions: Sequence[Question], more: Mapping[str, Any], together: int
) -> Row:
    graph = create_specreason(pair, temperature=0.0, answer_tokens=LONGEST, **more).compile()

    def run(question: Question) -> dict[str, Any]:
        outcome: dict[str, Any] = graph.invoke({"question": question.text + ASKED})
        return outcome

    begun = time.perf_counter()
    with ThreadPoolExecutor(together) as pool:
        outcomes = list(pool.map(run, questions))
    steps = [Step.load(step) for outcome in outcomes for step in outcome["trace"]]
    work = {
        role: sum(
            cost["usage"]["generated_tokens"]
            for outcome in outcomes
            for cost in outcome["trace_summary"]["costs"]
            if cost["engine"] == role
        )
        for role in ("base", "draft")
    }
    drafted = [step for step in steps if step.text]
    return Row(
        name, sum(said(o["answer"]) == q.answer for o, q in zip(outcomes, questions, strict=True)), len(questions),
        None if "first_steps_by_base" in more else sum(step.author == "draft" for step in drafted) / len(drafted),
        work["base"], work["draft"], time.perf_counter() - begun,
    )  # fmt: skip


def line(row: Row) -> str:
    """A row of the table, in Markdown."""
    accepted = "" if row.accepted is None else f"{row.accepted:.0%}"
    return (
        f"| {row.name} | {row.right} of {row.asked} | {accepted} | {row.base_tokens:,} | {row.draft_tokens:,} | "
        f"{row.seconds:,.0f} |"
    )
