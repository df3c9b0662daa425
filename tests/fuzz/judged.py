"""Same traces with and without work ahead, and of runs that were left or killed: ``python -m tests.fuzz.judged``."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver

from specreason_graph import EnginePair, create_specreason, open_pair
from specreason_graph.audit.check.recompute import recompute
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.models.abacus.problems import held_out
from tests.fuzz.interruptions import config, killed
from tests.support.databases import opened
from tests.support.races import PROCESSES

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


STRATEGIES: dict[str, dict[str, Any]] = {
    **{name: {"judge": judge} for name, judge in JUDGES.items()},
    "rollback": {"judge": LIKELY, "rollback": {"kind": "collapse", "drop": 1.0, "in_a_row": 1}},
}


def traced(outcome: dict[str, Any]) -> Any:
    """Answer, who wrote which tokens, and what was taken back."""
    steps = [(step["author"], step["token_ids"], step["decision"].get("taken_back")) for step in outcome["trace"]]
    return outcome["answer"], steps


def differing(pair: EnginePair, strategy: dict[str, Any], questions: Sequence[str]) -> Iterator[str]:
    """Questions whose trace depends on the lookahead, or on whether the run was left and went on."""
    settings = {**strategy, "temperature": 0.7}
    whole = [create_specreason(pair, lookahead=0, **settings).compile().invoke({"question": q}) for q in questions]
    for lookahead in (4, None):
        graph = create_specreason(pair, lookahead=lookahead, **settings).compile()
        for question, expected in zip(questions, whole, strict=True):
            if traced(graph.invoke({"question": question})) != traced(expected):
                yield f"lookahead {lookahead}: {question}"
    saver = InMemorySaver()
    graph = create_specreason(pair, **settings).compile(checkpointer=saver)
    for number, (question, expected) in enumerate(zip(questions, whole, strict=True)):
        thread: Any = {"configurable": {"thread_id": f"{strategy}-{number}"}}
        stream: Any = graph.stream({"question": question}, thread, stream_mode="updates")
        for _ in range(2 + number % 5):
            if next(stream, None) is None:
                break
        stream.close()
        if traced(graph.invoke(None, thread)) != traced(expected):
            yield f"left and gone on with: {question}"


def work(place: str, thread: str, strategy: dict[str, Any], question: str, begun: Any) -> None:
    """Solve a problem on engines of its own; killed somewhere in it."""
    with opened(place) as saver, open_pair("abacus-base", "abacus-draft") as pair:
        graph = create_specreason(pair, **strategy, temperature=0.7).compile(checkpointer=saver)
        begun.set()
        graph.invoke({"question": question}, config(thread), durability="sync")


def changed_by_kills(pair: EnginePair, name: str, questions: Sequence[str], rng: random.Random) -> Iterator[str]:
    """Questions whose run, killed with its process and gone on with in another one, ends otherwise than a whole one."""
    graph = create_specreason(pair, **STRATEGIES[name], temperature=0.7)
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder, "runs.sqlite"))
        for number, question in enumerate(questions):
            thread = f"killed-{number}"
            killed(work, (place, thread, STRATEGIES[name], question), rng.uniform(0.02, 0.5))
            with opened(place) as saver:
                app = graph.compile(checkpointer=saver)
                before = app.get_state(config(thread))
                outcome = app.invoke(None if before.values else {"question": question}, config(thread))
                (run,) = read_runs(saver, thread)
                stood = "not begun" if not before.values else "ended" if not before.next else "under way"
                sound = verify(run).ok and recompute(run).ok
                sound = sound and traced(outcome) == traced(graph.compile().invoke({"question": question}))
                yield f"{stood}, {'same trace' if sound else 'WRONG: ' + question}"


def main() -> None:
    """Compare the traces of some problems; exit with 1 where one differs."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--count", type=int, default=100, help="Problems for each judge.")
    parser.add_argument(
        "--kills", type=int, default=0, help="Kill so many processes for each of four strategies instead."
    )
    given, bad = parser.parse_args(), 0
    count = given.count
    if given.kills:
        PROCESSES.set_forkserver_preload(["specreason_graph.runs.batch", "tests.support.databases"])
        with open_pair("abacus-base", "abacus-draft") as pair:
            for name in ("likelihood", "calibrated", "cascade", "rollback"):
                asked = [problem.question for problem in held_out()[: given.kills]]
                seen = Counter(changed_by_kills(pair, name, asked, random.Random(name)))
                print(name, *(f"{number:5} {what}" for what, number in seen.most_common()), sep="\n", flush=True)
                bad += any("WRONG" in what for what in seen)
        sys.exit(bool(bad))
    with open_pair("abacus-base", "abacus-draft") as pair:
        for name, strategy in STRATEGIES.items():
            found = list(differing(pair, strategy, [problem.question for problem in held_out()[:count]]))
            print(f"{name}: {len(found)} of {3 * count} runs differ", *found[:3], sep="\n    ", flush=True)
            bad += bool(found)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
