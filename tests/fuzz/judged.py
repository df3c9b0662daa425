"""Same traces with and without work ahead, and of runs that were left, by judge: ``python -m tests.fuzz.judged``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver

from specreason_graph import EnginePair, create_specreason, open_pair
from specreason_graph.models.abacus.problems import held_out

LIKELY = {"kind": "likelihood", "threshold": -1.0}
CONFIDENT = {"kind": "confidence", "threshold": -0.3}
JUDGES: dict[str, Any] = {
    "digit": "digit",
    "likelihood": LIKELY,
    "difference": {"kind": "likelihood", "reduction": "difference", "threshold": -1.0},
    "confidence": CONFIDENT,
    "entropy": {"kind": "entropy", "threshold": -0.1},
    "calibrated": {
        "kind": "calibrated",
        "weights": {"base_lowest": 1.0, "draft_sum": 1.0, "digit_mean": 1.0},
        "bias": -6,
    },
    "cascade": {"kind": "cascade", "first": "confidence", "low": -3.0, "high": -0.01, "then": LIKELY},
    "all_of": {"kind": "all_of", "judges": [CONFIDENT, LIKELY]},
    "any_of": {"kind": "any_of", "judges": [CONFIDENT, "digit"]},
}


def traced(outcome: dict[str, Any]) -> Any:
    """Answer, and who wrote which tokens."""
    return outcome["answer"], [(step["author"], step["token_ids"]) for step in outcome["trace"]]


def differing(pair: EnginePair, judge: Any, questions: Sequence[str]) -> Iterator[str]:
    """Questions whose trace depends on the lookahead, or on whether the run was left and went on."""
    settings = {"judge": judge, "temperature": 0.7}
    whole = [create_specreason(pair, lookahead=0, **settings).compile().invoke({"question": q}) for q in questions]
    for lookahead in (4, None):
        graph = create_specreason(pair, lookahead=lookahead, **settings).compile()
        for question, expected in zip(questions, whole, strict=True):
            if traced(graph.invoke({"question": question})) != traced(expected):
                yield f"lookahead {lookahead}: {question}"
    saver = InMemorySaver()
    graph = create_specreason(pair, **settings).compile(checkpointer=saver)
    for number, (question, expected) in enumerate(zip(questions, whole, strict=True)):
        thread: Any = {"configurable": {"thread_id": f"{judge}-{number}"}}
        stream: Any = graph.stream({"question": question}, thread, stream_mode="updates")
        for _ in range(2 + number % 5):
            if next(stream, None) is None:
                break
        stream.close()
        if traced(graph.invoke(None, thread)) != traced(expected):
            yield f"left and gone on with: {question}"


def main() -> None:
    """Compare the traces of some problems; exit with 1 where one differs."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--count", type=int, default=100)
    count, bad = parser.parse_args().count, 0
    with open_pair("abacus-base", "abacus-draft") as pair:
        for name, judge in JUDGES.items():
            found = list(differing(pair, judge, [problem.question for problem in held_out()[:count]]))
            print(f"{name}: {len(found)} of {3 * count} runs differ", *found[:3], sep="\n    ", flush=True)
            bad += bool(found)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
