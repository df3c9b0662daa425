"""kill -9 at any instant: the run goes on where it was, and ends as it would have ended."""

from __future__ import annotations

import multiprocessing
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from specreason_graph import EnginePair
from specreason_graph.audit.check.recompute import recompute
from specreason_graph.audit.check.verify import verify
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.config import make_config
from specreason_graph.errors import ThreadError
from specreason_graph.models.abacus import FOLDER
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.record.records import Engine as Role
from specreason_graph.record.records import Step
from specreason_graph.runs.launch import BUILT_IN, Launch
from specreason_graph.runs.resume import Run
from specreason_graph.runs.store import RunStore
from tests.support.replayed import Recording, Replaying, Transcript
from tests.support.traces import around

INSTANTS = 10
OWN_ENGINES = 5
"""One in so many of the killed processes has engines of its own, which die with it."""
ROLES: tuple[Role, ...] = ("base", "draft")
Transcripts = dict[Role, Transcript]
PROBLEM = max(held_out(), key=lambda problem: len(problem.operations))
LAUNCH = Launch(**BUILT_IN, question=PROBLEM.question, settings={"seed": 11, "temperature": 1.0})


def kept(step: Step) -> dict[str, Any]:
    """What of a step must survive: all but the seconds, what the caches happened to hold, and the hash over both."""
    plain = step.dump()
    for costed in (plain, plain["score"] or {}, plain["discarded"] or {}):
        for name in ("usage", "costs", "elapsed", "hash"):  # a hash covers the seconds
            costed.pop(name, None)
    return plain


def like(step: Step) -> dict[str, Any]:
    """The same, equal to what differs only in the last digits of the scores: the caches were built in other pieces."""
    plain = kept(step)
    if plain["score"]:
        for name in ("digit_logprobs", "mean", "other_mass"):
            plain["score"][name] = pytest.approx(plain["score"][name], abs=1e-3)
        plain["decision"]["number"] = pytest.approx(plain["decision"]["number"], abs=1e-3)
    return plain


def finish(run: Run) -> tuple[list[Step], str]:
    for _ in run.advance():
        pass
    assert run.answer is not None
    return run.steps, run.answer.text


def work(file: Path, thread: str, begun: Any, transcripts: Transcripts | None) -> None:
    """What the killed process does, on engines of its own or on what engines said before."""
    pair = LAUNCH.open_pair() if transcripts is None else EnginePair(**replaying(transcripts))
    make_config(**LAUNCH.settings)  # what is imported when it is first used is there before the clock starts
    with RunStore.open(file) as runs, pair:
        begun.set()
        finish(Run(runs, thread, pair))


def replaying(transcripts: Transcripts) -> dict[str, Any]:
    return {role: Replaying(transcript) for role, transcript in transcripts.items()}


def test_runs_killed_at_random_instants_end_as_if_nothing_had_happened(abacus: EnginePair, tmp_path: Path) -> None:
    recorders = {role: Recording(abacus.engine(role), str(FOLDER / role)) for role in ROLES}
    with RunStore.open(tmp_path / "whole.sqlite") as runs:
        steps, answer = finish(Run.start(runs, LAUNCH, around(abacus, **recorders)))
        expected, transcripts = [like(step) for step in steps], {role: recorders[role].transcript for role in ROLES}
        with EnginePair(**replaying(transcripts)) as replay:
            start = time.monotonic()
            steps, same = finish(Run.start(runs, LAUNCH, replay))
            seconds = time.monotonic() - start
    assert ([kept(step) for step in steps], same) == (expected, answer)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["transformers.models.qwen3.modeling_qwen3", "tests.test_resume"])
    rng, reached = random.Random(4), []
    for instant in range(INSTANTS):
        file = tmp_path / f"killed-{instant}.sqlite"
        with RunStore.open(file) as runs:
            thread = runs.add(LAUNCH)
        begun, own = processes.Event(), instant % OWN_ENGINES == 0
        child = processes.Process(target=work, args=(file, thread, begun, None if own else transcripts))
        child.start()
        assert begun.wait(60)
        time.sleep(rng.uniform(0, (3.0 if own else 1.2) * seconds))
        child.kill()
        child.join()
        with RunStore.open(file) as runs:
            run = Run(runs, thread, abacus)
            before = [kept(step) for step in run.steps]
            reached.append(len(before))
            finished, again = finish(run)
            (recorded,) = read_runs(runs.saver, thread)
        assert verify(recorded).ok
        assert recompute(recorded).differences == []
        assert before == expected[: len(before)]
        assert ([kept(step) for step in finished], again) == (expected, answer)
    middle = sum(0 < count < len(expected) for count in reached)
    assert middle >= INSTANTS // 4, f"few kills fell into the middle of a run: {reached}"


def test_committed_steps_are_not_touched_by_a_resume(abacus: EnginePair, tmp_path: Path) -> None:
    with RunStore.open(tmp_path / "runs.sqlite") as runs:
        run = Run.start(runs, LAUNCH, abacus)
        walk = run.advance()
        first = [next(walk), next(walk)]
        walk.close()  # type: ignore[attr-defined]
        again = Run(runs, run.thread, abacus)
        assert again.steps[:2] == first
        finish(again)
        assert again.steps[:2] == first


def test_kill_and_resume_on_the_command_line(
    command: Callable[..., Any], here: Callable[..., Any], tmp_path: Path
) -> None:
    arguments = ["solve", "--seed", "11", "--temperature", "1", PROBLEM.question, "--db"]
    whole = here(*arguments, str(tmp_path / "a.sqlite"))
    module = [sys.executable, "-u", "-m", "specreason_graph"]
    child = subprocess.Popen([*module, *arguments, str(tmp_path / "b.sqlite")], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    thread = child.stdout.readline().split()[1]
    for _ in range(3):
        child.stdout.readline()
    child.kill()
    child.communicate()
    resumed = command("resume", thread, "--db", str(tmp_path / "b.sqlite"))
    assert resumed.returncode == 0, resumed.stderr
    assert _texts(resumed.stdout) == _texts(whole.stdout)


def _texts(shown: str) -> list[str]:
    """Author and text of the shown steps, and the answer; times differ."""
    lines = [line for line in shown.splitlines() if " s  " in line or "boxed" in line]
    return [line.partition(" s  ")[2] or line for line in lines]


def test_another_model_is_refused(abacus: EnginePair, tmp_path: Path) -> None:
    with RunStore.open(tmp_path / "runs.sqlite") as runs:
        run = Run.start(runs, LAUNCH, abacus)
        next(run.advance())
        swapped = EnginePair(draft=abacus.base, base=abacus.base)
        with pytest.raises(ThreadError, match="began with another draft model"):
            Run(runs, run.thread, swapped)
