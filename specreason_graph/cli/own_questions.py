"""``specreason doctor -f FILE``: what a pair does on the caller's own questions, the loop beside the base alone."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specreason_graph.cli.diagnosis import CheckResult
from specreason_graph.config import SpecReasonConfig
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import QuestionError
from specreason_graph.graph import create_specreason
from specreason_graph.record.summary import Summary

MOST = 12
"""Questions that are tried; more would take long and say little more."""


@dataclass(frozen=True)
class OwnQuestion:
    """A line of the file."""

    question: str
    """What is asked."""
    answer: str | None
    """What is right, where the line says so."""


def read_own_questions(file: Path) -> list[OwnQuestion]:
    """The first questions of a JSONL file, with fields ``question`` and perhaps ``answer``; others are ignored."""
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        found = [OwnQuestion(str(line["question"]), None if line.get("answer") is None else str(line["answer"]))
                 for line in lines[:MOST]]  # fmt: skip
    except OSError as error:
        raise QuestionError(f"cannot read {file}: {error.strerror}", hint="check the path") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise QuestionError(
            f"{file} holds a line that is no question", hint='write {"question": "..."} lines'
        ) from None
    if not found:
        raise QuestionError(f"{file} holds no questions", hint='write {"question": "..."} lines')
    return found


def is_answered(reply: str, answer: str) -> bool:
    """Whether a reply gives an answer: its last number where the answer is one, else its words."""
    try:
        right = float(answer.replace(",", ""))
    except ValueError:
        return answer.strip().lower() in reply.lower()
    return last_number(reply) == right


def last_number(text: str) -> float | None:
    """The last number in a text, with or without commas between thousands."""
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def try_own_questions(pair: EnginePair, config: SpecReasonConfig, asked: Sequence[OwnQuestion]) -> list[CheckResult]:
    """Answer the questions with the loop and with the base alone, one at a time, and compare time and answers."""
    loop, seconds = _answers(pair, config, asked)
    alone, seconds_alone = _answers(pair, config.model_copy(update={"first_steps_by_base": config.max_steps}), asked)
    totals = [Summary.load(outcome["trace_summary"]) for outcome in loop]
    drafted, accepted = sum(each.proposals for each in totals), sum(each.accepted for each in totals)
    share, ratio = accepted / drafted if drafted else 0.0, seconds / seconds_alone
    detail = f"{accepted} of {drafted} proposals accepted ({share:.0%}) on {len(asked)} questions"
    found = [CheckResult(name="own accepted", status="ok", detail=detail)]
    detail = f"the loop took {seconds:.1f} s, the base alone {seconds_alone:.1f} s ({ratio:.2f} times as long)"
    slow = "on these questions the loop is no faster: use the base alone, or a lower threshold"
    against = f"it is {ratio:.2f} times as fast as the loop on your questions"
    found.append(
        CheckResult(name="own time", status="ok", detail=detail)
        if ratio < 1
        else CheckResult(name="own time", status="warning", detail=detail, advice=slow, against=against)
    )
    labelled = [index for index, each in enumerate(asked) if each.answer is not None]
    if labelled:
        right = [
            sum(is_answered(outcomes[i]["answer"], str(asked[i].answer)) for i in labelled)
            for outcomes in (loop, alone)
        ]
        detail = f"{right[0]} of {len(labelled)} right with the loop, {right[1]} with the base alone"
        worse = "the loop costs answers: raise the threshold" if right[0] < right[1] else ""
        found.append(CheckResult(name="own answers", status="warning" if worse else "ok", detail=detail, advice=worse))
    return found


def _answers(
    pair: EnginePair, config: SpecReasonConfig, asked: Sequence[OwnQuestion]
) -> tuple[list[dict[str, Any]], float]:
    graph, begun = create_specreason(pair, config=config).compile(), time.perf_counter()
    outcomes: list[dict[str, Any]] = [graph.invoke({"question": each.question}) for each in asked]
    return outcomes, time.perf_counter() - begun
