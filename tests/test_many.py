"""Many runs at once: those that nobody cancels and no engine fails end right, and nothing is left of the others."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import signal
import tracemalloc
from typing import Any

from specreason_graph import EnginePair, open_pair
from tests.support.counting import Counting
from tests.support.many import (
    CANCELLED,
    FAILING,
    Failing,
    ask_all,
    assert_all_others_are_right,
    assert_nothing_is_left,
    handles,
    how_many,
)
from tests.support.scripts import CLOSE, done, is_closed
from tests.support.traces import around

QUESTIONS, STEPS = how_many(60), 6


def asked(prompt: str) -> int:
    found = re.search(r"question (\d+)", prompt)
    assert found
    return int(found[1])


def numbered_pair() -> EnginePair:
    """A pair whose answer to a question is its number."""

    def write(prompt: str) -> str:
        if is_closed(prompt):
            return f"Number {asked(prompt)}."
        return f"Step {done(prompt)} of number {asked(prompt)}.\n\n" if done(prompt) < STEPS else CLOSE

    def judge(prompt: str) -> int:
        return (9, 9, 2)[(done(prompt) + asked(prompt)) % 3]

    return EnginePair(
        Counting(write, name="draft", delay=0.001), Counting(write, judge, name="base", delay=0.004, max_concurrency=8)
    )


async def test_all_others_finish_right_and_nothing_is_left_behind() -> None:
    memory: list[int] = []

    with numbered_pair() as whole:
        engine: Any = whole.base
        doubles: list[Any] = [whole.base, whole.draft]

        def measure() -> None:
            for double in doubles:
                double.calls.clear()
            gc.collect()
            memory.append(tracemalloc.get_traced_memory()[0])

        def fails(prompt: Any) -> bool:
            text = engine.vocabulary.decode(prompt)
            return asked(text) % round(1 / FAILING) == 7 and bool(done(text) >= 3)

        pair = around(whole, base=Failing(engine, fails))
        questions = [f"What is question {number}?" for number in range(QUESTIONS)]
        await ask_all(pair, questions[:40], longest=0.05)  # what is made once is there now
        before = handles()
        tracemalloc.start()
        try:
            ended = await ask_all(pair, questions, longest=0.2, half=measure, lookahead=4)
            measure()
        finally:
            tracemalloc.stop()
        await asyncio.to_thread(assert_nothing_is_left, pair)
        assert (whole.base.running, whole.draft.running) == (0, 0)  # type: ignore[attr-defined]
        assert handles() <= before
    assert ended.answers == {number: f"Number {number}." for number in ended.answers}
    assert set(ended.failed) <= {number for number in range(QUESTIONS) if number % round(1 / FAILING) == 7}
    assert 0 < len(ended.failed) <= FAILING * QUESTIONS
    assert 0 < len(ended.cancelled) <= 1.5 * CANCELLED * QUESTIONS
    assert len(ended.answers) + len(ended.failed) + len(ended.cancelled) == QUESTIONS
    assert memory[-1] - memory[0] < 0.25 * memory[0] + 1000 * QUESTIONS  # the answers are kept, and no run


def test_many_runs_live_through_cancellations_failures_and_a_restart() -> None:
    with open_pair("abacus-base", "abacus-draft") as pair:
        base: Any = pair.base
        assert_all_others_are_right(pair, lambda: os.kill(base.pid, signal.SIGKILL))
