"""Whether a step costs the same however many came before it: scripted runs of growing length."""

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
"""Steps before the timed ones: the first of a process are slower."""
COLUMNS = ("saver", "steps", "ms a step", "times shortest", "CPU ms a step", "times shortest", "seconds", "peak MB")
STEP_TOKENS = len(STEP.format(number=0, author="base"))


class Length(Record):
    """Figures of one run in a process of its own."""

    saver: Saver
    """Where checkpoints went: LangGraph's memory saver, or an SQLite file."""
    steps: int
    """Committed steps."""
    seconds: float
    """Wall time; the engines' own share in it does not grow with the run."""
    milliseconds_per_step: float
    """Wall time over steps."""
    cpu_milliseconds_per_step: float
    """CPU time of the process over steps: what else the machine does is hardly in it."""
    peak_megabytes: float
    """Most memory the process held at any time, libraries included (``ru_maxrss``)."""


class Swift(FakeEngine):
    """Answers by the length of the prompt without reading it, so that a call costs the same behind any trace."""

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        on_token: TokenCallback | None = None,  # noqa: ARG002
    ) -> Completion:
        """A step whose text no other one has, or the answer."""
        if not sampling.stop:
            return Completion([Generation([*b"The answer.", min(self.vocabulary.eos_ids)], "stop_token")], Usage())
        ids = list(STEP.format(number=len(prompt_ids), author=self.name).encode())
        usage = Usage(calls=1, prompt_tokens=len(prompt_ids), generated_tokens=len(ids))
        return Completion([Generation(ids, "stop_string")], usage)

    async def next_token(self, prompt_ids: Sequence[int], candidates: Sequence[int]) -> NextToken:
        """Every third proposal is bad."""
        digit = b"2" if len(prompt_ids) // STEP_TOKENS % 3 == 0 else b"9"
        logprobs = {token: 0.0 if token == digit[0] else -70.0 for token in candidates}
        return NextToken(logprobs, 0.0, Usage(calls=1, prompt_tokens=len(prompt_ids), generated_tokens=1))


def measure_length(steps: int, saver: Saver) -> Length:
    """Run so many steps in a fresh process, whose memory nothing else has used."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(run_length, steps, saver).result()


def run_length(steps: int, saver: Saver) -> Length:
    """Run so many steps in this process, after a few that nobody times."""
    _run(WARM, saver)
    wall, cpu = _run(steps, saver)
    return Length(
        saver=saver, steps=steps, seconds=wall, milliseconds_per_step=1000 * wall / steps,
        cpu_milliseconds_per_step=1000 * cpu / steps, peak_megabytes=_peak_bytes() / 1e6,
    )  # fmt: skip


def length_lines(rows: Sequence[Length]) -> Iterator[str]:
    """The table of some lengths, each beside the shortest run on the same saver."""
    shortest = {row.saver: row for row in sorted(rows, key=lambda row: -row.steps)}
    yield from aligned(COLUMNS, [_length(row, shortest[row.saver]) for row in rows])


def _run(steps: int, saver: Saver) -> tuple[float, float]:
    """Wall and CPU seconds of a run."""
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
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _length(row: Length, shortest: Length) -> list[str]:
    wall, cpu = row.milliseconds_per_step, row.cpu_milliseconds_per_step
    return [
        row.saver, f"{row.steps:,}", f"{wall:.2f}", f"{wall / shortest.milliseconds_per_step:.2f}", f"{cpu:.2f}",
        f"{cpu / shortest.cpu_milliseconds_per_step:.2f}", f"{row.seconds:.2f}", f"{row.peak_megabytes:.0f}",
    ]  # fmt: skip
