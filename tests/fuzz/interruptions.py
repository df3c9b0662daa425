"""Kills and races, many of them: ``python -m tests.fuzz.interruptions runs|batches|prunes|races --count 60``.

Whatever is killed goes on and ends as it would have ended; of two who resume one thread at once one is refused, and the
thread has one end. Prints what was found, and exits with 1 when something did not hold.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil

from specreason_graph import create_specreason
from specreason_graph.audit.check.recompute import recompute
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.keep.prune import prune
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.runs.batch import Result, answer_all, read_questions
from specreason_graph.runs.find import read_values
from specreason_graph.runs.launch import Launch
from tests.support.databases import opened, postgres_server
from tests.support.races import PROCESSES, race
from tests.support.scripts import ANSWER, stepwise

STEPS, OPINIONS, PACE = 6, (9, 2, 8), 0.02
QUESTIONS = 6


def config(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


def pair(pace: float = PACE) -> Any:
    return stepwise(STEPS, OPINIONS, draft=pace, base=pace)


def work(place: str, thread: str, begun: Any) -> None:
    """Answer a question in a thread; killed somewhere in it."""
    with opened(place) as saver, pair() as engines:
        graph = create_specreason(engines).compile(checkpointer=saver)
        begun.set()
        graph.invoke({"question": "What?"}, config(thread), durability="sync")


def told(run: Any) -> list[tuple[str, str]]:
    """What of a run must be the same however often it was killed."""
    return [(step["author"], step["text"]) for step in run.trace] + [("answer", str(run.values.get("answer")))]


def killed(target: Any, arguments: tuple[Any, ...], seconds: float) -> None:
    """Start a process, and kill it so many seconds after it has begun to work."""
    begun = PROCESSES.Event()
    child = PROCESSES.Process(target=target, args=(*arguments, begun))
    child.start()
    begun.wait(120)
    time.sleep(seconds)
    child.kill()
    child.join()
    # That returns when the system has closed the pipe to the child, which may be before it has released its locks.
    while psutil.pid_exists(child.pid):
        time.sleep(0.001)


def kill_runs(place: str, count: int, rng: random.Random) -> Counter[str]:
    found: Counter[str] = Counter()
    with opened(place) as saver, pair(0.0) as engines:
        graph = create_specreason(engines).compile(checkpointer=saver)
        graph.invoke({"question": "What?"}, config("whole"))
        expected = told(read_runs(saver, "whole")[0])
    for number in range(count):
        thread = f"killed-{number}"
        killed(work, (place, thread), rng.uniform(0, 1.2 * PACE * 3 * STEPS))
        with opened(place) as saver, pair(0.0) as engines:
            graph = create_specreason(engines).compile(checkpointer=saver)
            started = saver.get_tuple(config(thread)) is not None
            graph.invoke(None if started else {"question": "What?"}, config(thread))
            (run,) = read_runs(saver, thread)
            before = "not begun" if not started else "under way"
            sound = told(run) == expected and verify(run).ok and recompute(run).ok
            found[f"{before}, {'same trace' if sound else 'WRONG'}"] += 1
    return found


def answer(database: str, questions: str, begun: Any) -> None:
    """Answer a file of questions; killed somewhere in it."""
    Launch.open_pair = lambda _: nullcontext(pair())  # type: ignore[assignment, method-assign, return-value]
    begun.set()
    asked = read_questions(Path(questions), Launch(question="", base="b", draft="d", settings={"reproducible": True}))
    answer_all(asked, Path(database), lambda _: None)


def kill_batches(folder: Path, count: int, rng: random.Random) -> Counter[str]:
    found: Counter[str] = Counter()
    questions = folder / "questions.jsonl"
    questions.write_text("".join(json.dumps({"question": f"What of {number}?"}) + "\n" for number in range(QUESTIONS)))
    asked = read_questions(questions, Launch(question="", base="b", draft="d", settings={"reproducible": True}))
    Launch.open_pair = lambda _: nullcontext(pair(0.0))  # type: ignore[assignment, method-assign, return-value]
    for number in range(count):
        database = folder / f"batch-{number}.sqlite"
        for _ in range(3):
            killed(answer, (str(database), str(questions)), rng.uniform(0, 2.5 * PACE * 3 * STEPS))
        results: list[Result] = []
        with pair(0.0):
            answer_all(asked, database, results.append)
        with opened(str(database)) as saver:
            fault = batch_fault(results, [read_runs(saver, each.thread) for each in asked])
        found[f"WRONG: {fault}" if fault else "each question one answer"] += 1
    return found


def batch_fault(results: list[Result], threads: list[list[RecordedRun]]) -> str:
    """What is wrong with a batch that has ended; empty when each question has its one answer, reached in one way."""
    if wrong := [result.end for result in results if result.end.get("answer") != ANSWER]:
        return str(wrong)
    if any(len(runs) != 1 for runs in threads):
        return f"{[len(runs) for runs in threads]} runs in the threads"
    findings = [finding for (run,) in threads for finding in [*verify(run).findings, *recompute(run).differences]]
    if findings:
        return str(findings)
    return "" if len({tuple(told(run)) for (run,) in threads}) == 1 else "not all traces are the same"


def prune_it(place: str, thread: str, begun: Any) -> None:
    """Prune a thread; killed somewhere in it."""
    with opened(place) as saver:
        begun.set()
        prune(saver, thread)


def kill_prunes(place: str, count: int, rng: random.Random) -> Counter[str]:
    found: Counter[str] = Counter()
    for number in range(count):
        thread = f"pruned-{number}"
        with opened(place) as saver, pair(0.0) as engines:
            graph = create_specreason(engines).compile(checkpointer=saver)
            for question in ("One?", "Two?"):
                graph.invoke({"question": question}, config(thread))
            before = read_runs(saver, thread)
        killed(prune_it, (place, thread), rng.uniform(0, 0.06))
        with opened(place) as saver:
            same = read_runs(saver, thread) == before and all(verify(run).ok for run in before)
            rest = prune(saver, thread)
            same = same and read_runs(saver, thread) == before and rest.kept == len(before)
        found[f"{'finished later' if rest.checkpoints else 'had finished'}, {'same runs' if same else 'WRONG'}"] += 1
    return found


def races(place: str, count: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for number in range(count):
        thread = f"race-{number}"
        answers = race(place, thread, pair)
        refused = sum("is being worked on" in text for text in answers)
        with opened(place) as saver:
            runs = read_runs(saver, thread)
            one_end = len(runs) == 1 and runs[0].finished and verify(runs[0]).ok
            assert next(read_values(saver, [thread]))["answer"] == ANSWER
        met = "one worked, one was refused" if refused == 1 else "the second came when the first had ended"
        found[f"{met}, {'one end' if one_end and answers.count(ANSWER) == 2 - refused else 'WRONG'}"] += 1
    return found


def main() -> int:
    """Run one kind, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("runs", "batches", "prunes", "races"))
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--db", choices=("sqlite", "postgres"), default="sqlite")
    given = parser.parse_args()
    rng = random.Random(given.seed)
    PROCESSES.set_forkserver_preload(["specreason_graph.runs.batch", "tests.support.databases"])
    with tempfile.TemporaryDirectory() as folder:
        sqlite = nullcontext(str(Path(folder, "runs.sqlite")))
        with postgres_server() if given.db == "postgres" else sqlite as place:
            if given.kind == "batches":
                found = kill_batches(Path(folder), given.count, rng)
            elif given.kind == "races":
                found = races(place, given.count)
            else:
                found = (kill_runs if given.kind == "runs" else kill_prunes)(place, given.count, rng)
    sys.stdout.write(f"{given.kind} in {given.db}, {given.count} times, seed {given.seed}\n")
    sys.stdout.writelines(f"{number:5} {what}\n" for what, number in found.most_common())
    return 1 if any("WRONG" in what for what in found) else 0


if __name__ == "__main__":
    sys.exit(main())
