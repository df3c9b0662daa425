"""Many runs at once over one pair, some of which are cancelled and some of which fail, and an engine that dies."""

from __future__ import annotations

import asyncio
import gc
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from specreason_graph import EnginePair, create_specreason
from specreason_graph.config import make_config
from specreason_graph.errors import EngineError
from specreason_graph.lookahead.registry import LookaheadRegistry
from specreason_graph.models.abacus.problems import Problem, held_out, parse_answer
from specreason_graph.prompting.engine_prompts import EnginePrompts
from tests.support.traces import Before, around

DEFAULT_CONCURRENCY = 32
CANCELLED, FAILING = 0.10, 0.05


def how_many(usual: int) -> int:
    """Questions to ask: as many as ``SPECREASON_QUESTIONS`` says."""
    return int(os.environ.get("SPECREASON_QUESTIONS", usual))


@dataclass
class Ended:
    """How the runs ended, by the number of the question."""

    answers: dict[int, str] = field(default_factory=dict)
    cancelled: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)


class Failing(Before):
    """Fails for good in the calls of some runs."""

    def __init__(self, engine: Any, fails: Callable[[Any], bool]) -> None:
        super().__init__(engine)
        self.fails, self.errors = fails, 0

    async def generate(self, prompt: Any, sampling: Any, on_token: Any = None) -> Any:
        self.check(prompt)
        return await self.engine.generate(prompt, sampling, on_token)

    async def next_token(self, prompt: Any, candidates: Any) -> Any:
        self.check(prompt)
        return await self.engine.next_token(prompt, candidates)

    async def likelihood(self, prompt: Any, continuation: Any) -> Any:
        self.check(prompt)
        return await self.engine.likelihood(prompt, continuation)

    def check(self, prompt: Any) -> None:
        if self.fails(prompt):
            self.errors += 1
            raise EngineError("injected", engine=self.engine.name)


async def ask_all(
    pair: EnginePair, questions: Sequence[str], *, longest: float, half: Callable[[], None] = lambda: None, **more: Any
) -> Ended:
    """Ask all, 32 at a time; some are cancelled within ``longest`` seconds; ``half`` is called on the way."""
    graph, ended, rng = create_specreason(pair, **more).compile(), Ended(), random.Random(0)
    places, leaves = asyncio.Semaphore(DEFAULT_CONCURRENCY), [rng.random() < CANCELLED for _ in questions]
    waits = [rng.uniform(0, longest) for _ in questions]

    async def ask(number: int) -> None:
        async with places:
            if number == len(questions) // 2:
                half()
            work = asyncio.ensure_future(graph.ainvoke({"question": questions[number]}))
            if leaves[number]:
                await asyncio.wait([work], timeout=waits[number])
                work.cancel()
            try:
                ended.answers[number] = (await work)["answer"]
            except asyncio.CancelledError:
                ended.cancelled.append(number)
            except EngineError:
                ended.failed.append(number)

    await asyncio.gather(*map(ask, range(len(questions))))
    return ended


def assert_all_others_are_right(pair: EnginePair, strike: Callable[[], None]) -> None:
    """Ask held-out problems; each twentieth fails for good after its first steps, and ``strike`` kills the base."""
    base: Any = pair.base
    count, memory, deaths = how_many(40), [], base.deaths
    problems = [held_out()[number % 500] for number in range(count)]

    def half() -> None:
        memory.append(psutil.Process().memory_info().rss)
        strike()

    _ask_problems(pair, problems[:8], strike)  # what is opened once is open now
    before = handles()
    ended = _ask_problems(pair, problems, half)
    right = sum(parse_answer(answer) == problems[number].answer for number, answer in ended.answers.items())
    assert right >= 0.9 * len(ended.answers)
    assert len(ended.answers) >= 0.75 * count
    assert 0 < len(ended.failed) <= round(FAILING * count) + 1
    assert ended.cancelled
    assert base.deaths == deaths + 2  # one of them when what is opened once was opened
    assert_nothing_is_left(pair)
    assert handles() <= before + 12  # the client of an engine that died last may not have been collected yet
    assert psutil.Process().memory_info().rss - memory[0] < 64 * 2**20


def _ask_problems(pair: EnginePair, problems: Sequence[Problem], half: Callable[[], None]) -> Ended:
    base: Any = pair.base
    prompts = EnginePrompts(base.vocabulary, make_config())
    heads = {tuple(prompts.question_ids(problem.question)) for problem in problems[7 :: round(1 / FAILING)]}

    def fails(prompt: Any) -> bool:
        return any(tuple(prompt[: len(head)]) == head and len(prompt) > len(head) + 20 for head in heads)

    failing, questions = around(pair, base=Failing(base, fails)), [problem.question for problem in problems]
    return asyncio.run(ask_all(failing, questions, longest=3.0, half=half, temperature=0))


def assert_nothing_is_left(pair: EnginePair) -> None:
    """No lookahead, and no task on the engines' loop but those that it always has."""

    async def tasks() -> list[str]:
        for _ in range(100):
            left = [str(task) for task in asyncio.all_tasks() if "specreason_graph/lookahead" in str(task)]
            if not left:
                break
            await asyncio.sleep(0.02)
        return left

    assert pair.run(tasks) == []
    assert LookaheadRegistry.of(pair).runs == 0


def handles() -> int:
    """Open files of this process."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))
