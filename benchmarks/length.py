"""Whether the cost of a step depends on the number of steps before it: scripted runs of growing length."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver

from specreason_graph.bench.table import aligned
from specreason_graph.engines.base import Completion, Generation, NextToken, Sampling, TokenCallback
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import EngineError
from specreason_graph.graph import create_specreason
from specreason_graph.record.records import Record, Usage

Saver = Literal["memory", "sqlite"]
SAVERS: tuple[Saver, ...] = ("memory", "sqlite")
STEP = "Step {number:9} by the {author:5}, with some words.\n\n"
WARM = 20
"""Steps of a first run that is not timed, because the first steps of a process are slower."""
COLUMNS = ("saver", "steps", "ms a step", "times shortest", "CPU ms a step", "times shortest", "seconds", "peak MB")
STEP_TOKENS = len(STEP.format(number=0, author="base"))


class Length(Record):
    """The figures of one run in a process of its own."""

    saver: Saver
    """Where checkpoints were stored: in LangGraph's memory saver, or in an SQLite file."""
    steps: int
    """Committed steps."""
    seconds: float
    """Wall time in seconds; the time of the scripted engines in it does not grow with the run."""
    milliseconds_per_step: float
    """Wall time divided by steps, in milliseconds."""
    cpu_milliseconds_per_step: float
    """CPU time of the process divided by steps, in milliseconds; other processes hardly change it."""
    peak_megabytes: float
    """Highest memory of the process at any time, libraries included (``ru_maxrss``)."""


class Swift(FakeEngine):
    """A scripted engine that only uses the length of a prompt, so that a call costs the same for any trace."""

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        on_token: TokenCallback | None = None,  # noqa: ARG002
    ) -> Completion:
        """Return a step with a text of its own, or the answer."""
        if not sampling.stop:  # only steps have a stop string
            return Completion([Generation([*b"The answer.", min(self.vocabulary.eos_ids)], "stop_token")], Usage())
        ids = list(STEP.format(number=len(prompt_ids), author=self.name).encode())
        usage = Usage(calls=1, prompt_tokens=len(prompt_ids), generated_tokens=len(ids))
        return Completion([Generation(ids, "stop_string")], usage)

    async def next_token(self, prompt_ids: Sequence[int], candidates: Sequence[int]) -> NextToken:
        """Return a low score for every third proposal, and a high one for the others."""
        digit = b"2" if len(prompt_ids) // STEP_TOKENS % 3 == 0 else b"9"
        logprobs = {token: 0.0 if token == digit[0] else -70.0 for token in candidates}
        return NextToken(logprobs, 0.0, Usage(calls=1, prompt_tokens=len(prompt_ids), generated_tokens=1))


def measure_length(steps: int, saver: Saver) -> Length:
    """Run ``steps`` steps in a new process, so that its peak memory is that of the run."""
    # A forked process would begin with the memory of this one.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(run_length, steps, saver).result()


def run_length(steps: int, saver: Saver) -> Length:
    """Run ``steps`` steps in this process, after a short run that is not timed."""
    _run(WARM, saver)
    wall, cpu = _run(steps, saver)
    return Length(
        saver=saver, steps=steps, seconds=wall, milliseconds_per_step=1000 * wall / steps,
        cpu_milliseconds_per_step=1000 * cpu / steps, peak_megabytes=_peak_bytes() / 1e6,
    )  # fmt: skip


def length_lines(rows: Sequence[Length]) -> Iterator[str]:
    """Yield the table of runs, each compared with the shortest run on the same saver."""
    shortest = {row.saver: row for row in sorted(rows, key=lambda row: -row.steps)}
    yield from aligned(COLUMNS, [_length(row, shortest[row.saver]) for row in rows])


def _run(steps: int, saver: Saver) -> tuple[float, float]:
    """Return the wall and CPU seconds of a run."""
    config: RunnableConfig = {"configurable": {"thread_id": "bench"}}
    pair = EnginePair(Swift(name="draft", context=10**8), Swift(name="base", context=10**8))
    with _saver(saver) as checkpointer, pair:
        graph = create_specreason(pair, max_steps=steps, thinking_tokens=10**9).compile(checkpointer=checkpointer)
        begun, used = time.perf_counter(), time.process_time()
        outcome = graph.invoke({"question": "Which?"}, config, durability="sync")
        wall, cpu = time.perf_counter() - begun, time.process_time() - used
    if len(outcome["trace"]) != steps:
        raise EngineError(f"the scripted run took {len(outcome['trace'])} steps and not {steps}", engine="fake")
    return wall, cpu


@contextmanager
def _saver(kind: Saver) -> Iterator[Any]:
    if kind == "memory":
        yield InMemorySaver()
        return
    with TemporaryDirectory() as folder, SqliteSaver.from_conn_string(str(Path(folder) / "runs.sqlite")) as saver:
        yield saver


def _peak_bytes() -> int:
    # macOS gives bytes, Linux kibibytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _length(row: Length, shortest: Length) -> list[str]:
    wall, cpu = row.milliseconds_per_step, row.cpu_milliseconds_per_step
    return [
        row.saver, f"{row.steps:,}", f"{wall:.2f}", f"{wall / shortest.milliseconds_per_step:.2f}", f"{cpu:.2f}",
        f"{cpu / shortest.cpu_milliseconds_per_step:.2f}", f"{row.seconds:.2f}", f"{row.peak_megabytes:.0f}",
    ]  # fmt: skip
