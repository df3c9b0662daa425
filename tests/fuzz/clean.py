"""Runs that nobody touched: also killed, cancelled, asked in a batch, and on asynchronous savers."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from specreason_graph import create_specreason
from specreason_graph.models.abacus.problems import held_out
from specreason_graph.runs.batch import answer_all, read_questions
from specreason_graph.runs.launch import BUILT_IN, Launch
from tests.fuzz.kept import database
from tests.fuzz.kinds import FINISHED, QUESTION, UNFINISHED, config, new_key
from tests.support.commands import work_on
from tests.support.databases import opened
from tests.support.scripts import stepwise

Clean = tuple[str, Any, list[str], str]
"""What kind of run it is, a checkpointer to read it with, its threads, and the public key that it is signed with."""
STEPS, DELAY = 6, 0.01


def clean_runs(place: str, count: int, seed: int) -> Iterator[Clean]:
    """So many runs; every twentieth is killed, and as many are cancelled, or asked in a batch."""
    rng, kinds = random.Random(seed), {**FINISHED, **UNFINISHED}
    with database(place) as kept:
        for number in range(count):
            thread, (signer, key) = f"thread-{number}", new_key()
            if number % 20 == 17:
                killed(place, thread, rng)
                yield "killed", kept.saver, [thread], ""
            elif number % 20 == 18:
                asyncio.run(cancelled(place, thread, signer, rng))
                yield "cancelled", kept.saver, [thread], key
            elif number % 20 == 19:
                yield from batch(rng)
            else:
                name = rng.choice(list(kinds))
                kinds[name](kept.saver, thread, signer)
                yield name, kept.saver, [thread], key
            if number % 20 == 19:
                kept.load({table: [] for table in kept.tables})  # the more there is, the longer reading all takes


def killed(place: str, thread: str, rng: random.Random) -> None:
    """Kill the process that works on a run, and go on with it here."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.clean", place, thread], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with process:
        assert process.stdout
        process.stdout.readline()
        with suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
    work(place, thread)


def work(place: str, thread: str) -> None:
    """Work on a run: from its question, or from where it was left."""
    with opened(place) as saver, stepwise(STEPS, (9, 2), draft=DELAY, base=DELAY) as pair:
        graph = create_specreason(pair).compile(checkpointer=saver)
        left = saver.get_tuple(config(thread)) is not None
        graph.invoke(None if left else QUESTION, config(thread), durability="sync")


async def cancelled(place: str, thread: str, signer: Any, rng: random.Random) -> None:
    """Cancel a run twice on its way, and go on with it."""
    savers: Any = AsyncPostgresSaver if "://" in place else AsyncSqliteSaver
    async with savers.from_conn_string(place) as saver:
        with stepwise(STEPS, (9, 2), draft=DELAY, base=DELAY) as pair:
            graph = create_specreason(pair, signer=signer).compile(checkpointer=saver)
            for seconds in (rng.uniform(0.02, 0.3), rng.uniform(0, 0.3), 60):
                left = await saver.aget_tuple(config(thread)) is not None
                how: Any = "sync"
                given: Any = None if left else QUESTION
                with suppress(TimeoutError):
                    await asyncio.wait_for(graph.ainvoke(given, config(thread), durability=how), seconds)


def batch(rng: random.Random) -> Iterator[Clean]:
    """Questions of a file, answered together."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        with stepwise(3, (9, 2)) as pair:
            work_on(pair, patch)
            file = Path(folder, "questions.jsonl")
            problems = rng.sample(held_out(), 3)
            file.write_text("".join(json.dumps({"question": each.question}) + "\n" for each in problems))
            asked = read_questions(file, Launch(**BUILT_IN, question=""))
            answer_all(asked, Path(folder, "runs.sqlite"), lambda _: None)
        with opened(str(Path(folder, "runs.sqlite"))) as saver:
            yield "batch", saver, [each.thread for each in asked], ""


if __name__ == "__main__":
    print("ready", flush=True)
    work(sys.argv[1], sys.argv[2])
