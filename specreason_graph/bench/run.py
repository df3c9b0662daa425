"""The harness: strategies side by side on the questions of a task, in a way that can be interrupted at any instant.

Strategies take turns with parts of the task, in another order each time and with empty prefix caches, so that a
machine that becomes slower or faster is so for all of them. Strategies on other engines follow when those are open.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from specreason_graph.audit.read.serializer import StrictSerializer
from specreason_graph.bench.efficiency import committed_costs, seconds_measured
from specreason_graph.bench.graders import Grader
from specreason_graph.bench.hardware import describe_hardware
from specreason_graph.bench.results import Asked, Header, Key, Lap, Measured, ResultsFile, RunRow, Skipped
from specreason_graph.bench.strategies import BASE, Strategy, rotated
from specreason_graph.bench.tasks import Question, Task
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import ConfigError, EngineError, SpecReasonError, UsageError
from specreason_graph.graph import CompiledSpecReason, create_specreason
from specreason_graph.prompting.conversation import check_known
from specreason_graph.record.records import Step
from specreason_graph.record.summary import Summary
from specreason_graph.runs.launch import WHERE, Launch
from specreason_graph.runs.lock import exclusive
from specreason_graph.runs.store import RunStore

ALONE, TOGETHER = 5, 4
"""Questions that a strategy gets in one turn: so many one at a time, and so many times the concurrency else."""
WARMING = {"max_steps": 2, "max_step_tokens": 32, "answer_tokens": 8}
"""Settings of a run before the clock starts, in which engines compile and allocate what they need."""


class Turn(NamedTuple):
    """What a strategy does at one stretch."""

    strategy: Strategy
    """The strategy."""
    part: int
    """Which part of the task, from 0."""
    sample: int
    """Which sample, from 0."""
    questions: list[Question]
    """What is left to do of it."""


class Report(Protocol):
    """Is told how the measurement goes on."""

    def opening(self, strategies: Sequence[str]) -> None:
        """Engines are being opened for some strategies."""

    def ran(self) -> None:
        """A run has ended."""

    def took(self, lap: Lap) -> None:
        """A strategy has ended its turn."""

    def skipped(self, strategy: str, reason: str) -> None:
        """A strategy cannot be measured."""


@dataclass(frozen=True)
class Bench:
    """A measurement."""

    task: Task
    """The questions."""
    grader: Grader
    """Says which replies are right."""
    grader_name: str
    """What it is called in the results."""
    launch: Launch
    """Models and settings that all strategies share."""
    strategies: Sequence[Strategy]
    """What is compared, the base alone first."""
    samples: int = 1
    """Runs of each strategy on each question."""
    seed: int = 0
    """Seed that those of the runs are derived from."""
    concurrency: int = 1
    """Questions worked on at the same time."""
    part: int | None = None
    """Questions that a strategy gets in one turn; None chooses."""

    @property
    def header(self) -> Header:
        """The first line of the results."""
        kept = self.launch.model_dump(mode="json", exclude={"question", "settings", *WHERE}, exclude_defaults=True)
        return Header(
            task=self.task.name, grader=self.grader_name, engines=kept, settings=self.launch.settings,
            samples=self.samples, seed=self.seed, concurrency=self.concurrency, part=self.part_size,
        )  # fmt: skip

    @property
    def part_size(self) -> int:
        """Questions that a strategy gets in one turn."""
        # At the end of a turn fewer runs than the concurrency are left: turns are long, so that this weighs little.
        return self.part or (ALONE if self.concurrency == 1 else TOGETHER * self.concurrency)

    @property
    def parts(self) -> list[list[Question]]:
        """The task in parts; more questions later change no part but the last."""
        asked, size = self.task.questions, self.part_size
        return [asked[first : first + size] for first in range(0, len(asked), size)]

    def check(self) -> None:
        """Raise `UsageError` for what cannot be measured, before any engine is opened."""
        for strategy in self.strategies:
            launch = strategy.launch(self.launch)
            launch.check_unattended()
            if self.samples > 1 and launch.settings["temperature"] == 0:
                raise ConfigError(
                    f"samples = {self.samples} would all be the same at temperature = 0",
                    hint="leave --samples out, or raise the temperature",
                )
        for question in self.task.questions:
            check_known(self.launch.base, question.text)

    def measure(self, results: ResultsFile, database: Path, report: Report) -> None:
        """Do what is left to do; results and runs are kept as they come.

        However this ends, it may be called again. Raises `EngineError` where the engines that all share fail for good.
        """
        self._announce(results)
        with RunStore.open(database) as store, exclusive(database):
            for launch, strategies in self._by_engines():
                if any(self.turns(strategies, results)):
                    shared = launch == BASE.engines_of(self.launch)
                    try:
                        report.opening([each.name for each in strategies])
                        with launch.open_pair() as pair:
                            results.write(describe_hardware(pair, launch.draft))
                            work = _Measurement(self, pair, store, results, report)
                            asyncio.run(work.take_turns(strategies, database))
                    except (UsageError, EngineError) as error:
                        if shared:
                            raise
                        for strategy in strategies:
                            results.write(Skipped(strategy=strategy.name, reason=str(error)))
                            report.skipped(strategy.name, str(error))

    def _announce(self, results: ResultsFile) -> None:
        """Write down strategies and questions; `UsageError` where others have the same names."""
        known = results.results
        for strategy in self.strategies:
            if (old := known.strategies.get(strategy.name, strategy)) != strategy:
                raise UsageError(
                    f"{results.file} holds runs of {strategy.name!r} with other settings: {json.dumps(old.settings)}",
                    hint=f"name this one, as in other={strategy.name}:..., or name another file with -o",
                )
        for question in self.task.questions:
            if known.questions.get(question.id, question) != question:
                raise UsageError(
                    f"{results.file} holds another question {question.id!r}", hint="name another file with -o"
                )
        results.write(
            *(Measured(strategy=each) for each in self.strategies if each.name not in known.strategies),
            *(Asked(question=each) for each in self.task.questions if each.id not in known.questions),
        )

    def _by_engines(self) -> Iterator[tuple[Launch, list[Strategy]]]:
        """The strategies by the engines that they need, those that all share first."""
        groups: list[tuple[Launch, list[Strategy]]] = []
        for strategy in self.strategies:
            launch = strategy.engines_of(self.launch)
            found = next((each for known, each in groups if known == launch), None)
            if found is None:
                groups.append((launch, [strategy]))
            else:
                found.append(strategy)
        yield from groups

    def turns(self, strategies: Sequence[Strategy], results: ResultsFile) -> Iterator[Turn]:
        """What is left to do, strategies by turns."""
        for sample in range(self.samples):
            for part, questions in enumerate(self.parts):
                for strategy in rotated(strategies, part + sample):
                    keys: list[tuple[Question, Key]] = [(each, (strategy.name, each.id, sample)) for each in questions]
                    if left := [each for each, key in keys if not results.results.is_done(key)]:
                        yield Turn(strategy, part, sample, left)

    def seed_of(self, question: Question, sample: int) -> int:
        """The seed of a run, the same for all strategies."""
        return _digest(self.seed, question.id, sample) % 2**31

    def thread_of(self, strategy: Strategy, question: Question, sample: int) -> str:
        """The thread of a run: the same command finds it again."""
        launch = strategy.launch(self.launch, question.text, self.seed_of(question, sample))
        identity = json.dumps([self.task.name, question.id, sample, strategy.name, launch.identity], sort_keys=True)
        return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _digest(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8])


@dataclass(frozen=True)
class _Measurement:
    """Measures some strategies on a pair that is open."""

    bench: Bench
    pair: EnginePair
    store: RunStore
    results: ResultsFile
    report: Report
    failed: set[str] = field(default_factory=set)
    """Strategies of which no run succeeds."""

    async def take_turns(self, strategies: Sequence[Strategy], database: Path) -> None:
        """All turns that are left."""
        views = {each.name: each.view(self.pair) for each in strategies}
        for strategy in strategies:
            await self._warm(strategy, views[strategy.name])
        async with AsyncSqliteSaver.from_conn_string(str(database)) as saver:
            saver.serde = StrictSerializer()
            for turn in list(self.bench.turns(strategies, self.results)):
                if turn.strategy.name in self.failed:
                    continue
                try:
                    await self._take(turn, views[turn.strategy.name], saver)
                except* SpecReasonError as errors:
                    self._give_up(turn.strategy, errors.exceptions[0])

    def _give_up(self, strategy: Strategy, error: Exception) -> None:
        """Leave out a strategy that fails from the beginning; without the base alone there is nothing to compare."""
        if strategy.name == BASE.name:
            raise error
        self.failed.add(strategy.name)
        self.results.write(Skipped(strategy=strategy.name, reason=str(error)))
        self.report.skipped(strategy.name, str(error))

    async def _warm(self, strategy: Strategy, view: EnginePair) -> None:
        config = strategy.config(self.bench.launch).model_copy(update=WARMING)
        graph = create_specreason(view, config=config).compile()
        await graph.ainvoke({"question": self.bench.task.questions[0].text})

    async def _take(self, turn: Turn, view: EnginePair, saver: AsyncSqliteSaver) -> None:
        """Run the questions of a turn, several at the same time, and keep the results."""
        launches = {
            self.bench.thread_of(turn.strategy, each, turn.sample): turn.strategy.launch(
                self.bench.launch, each.text, self.bench.seed_of(each, turn.sample)
            )
            for each in turn.questions
        }
        self.store.keep(launches)
        for thread in launches:
            await saver.adelete_thread(thread)  # what a kill has left of a run: it is timed anew
        graphs = {thread: launch.compile(view, saver) for thread, launch in launches.items()}
        await view.arun(lambda: reset_prefix_caches(view))
        gc.collect()  # so that garbage of earlier turns is not collected while the clock runs
        limit, begun = asyncio.Semaphore(self.bench.concurrency), time.perf_counter()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._run(turn, question, thread, graph, limit))
                for question, (thread, graph) in zip(turn.questions, graphs.items(), strict=True)
            ]
        seconds, runs = time.perf_counter() - begun, [task.result() for task in tasks]
        if self.is_timed_in_laps:
            for run in runs:
                await self._keep(run)
        else:
            seconds = sum(run.seconds for run in runs)  # grading and writing down are not of the strategy
        questions = [each.id for each in turn.questions]
        lap = Lap(strategy=turn.strategy.name, part=turn.part, sample=turn.sample, questions=questions, seconds=seconds)
        self.results.write(lap)
        await self._agree()
        self.report.took(lap)

    @property
    def is_timed_in_laps(self) -> bool:
        """Whether runs go on side by side: then nothing else is done until the last of them has ended."""
        return self.bench.concurrency > 1

    async def _run(
        self, turn: Turn, question: Question, thread: str, graph: CompiledSpecReason, limit: asyncio.Semaphore
    ) -> RunRow:
        async with limit:
            row: dict[str, Any] = {
                "strategy": turn.strategy.name, "question": question.id, "sample": turn.sample, "part": turn.part,
                "thread": thread, "seed": self.bench.seed_of(question, turn.sample), "started": time.time(),
            }  # fmt: skip
            config: RunnableConfig = {"configurable": {"thread_id": thread}, "recursion_limit": 10_000}
            begun = time.perf_counter()
            try:
                outcome = await graph.ainvoke({"question": question.text}, config)
            except SpecReasonError as error:
                if not self.results.results.has_succeeded(turn.strategy.name):
                    raise  # the other questions would fail, too
                run = RunRow(**row, seconds=time.perf_counter() - begun, error=str(error), right=False)
            else:
                run = RunRow(**row, seconds=time.perf_counter() - begun, **figures(outcome, turn.strategy))
            if not self.is_timed_in_laps:
                await self._keep(run)
        self.report.ran()
        return run

    async def _keep(self, run: RunRow) -> None:
        """Grade a run and write it down."""
        if run.error is None:
            question = self.results.results.questions[run.question]
            grade = await asyncio.to_thread(self.bench.grader.grade, run.reply, question)
            run = run.model_copy(update={"answer": grade.answer, "right": grade.right})
        self.results.write(run)

    async def _agree(self) -> None:
        """Grade runs by the answer of the base alone, as soon as that is there."""
        known = self.results.results
        for run in known.ungraded() if self.bench.grader.is_agreement else ():
            base = known.find(BASE.name, run.question, run.sample)
            if base is None:
                continue
            right = run.answer == base.answer
            if not right and base.answer is not None:
                grade = self.bench.grader.grade
                asked = known.questions[run.question]
                right = bool((await asyncio.to_thread(grade, run.reply, asked, base.answer)).right)
            self.results.write(run.model_copy(update={"right": right}))


async def reset_prefix_caches(pair: EnginePair) -> None:
    """Empty the prefix caches of both engines, where the engine allows it; a server keeps its cache."""
    for engine in dict.fromkeys((pair.base, pair.draft)):  # one engine may play both roles
        if reset := getattr(engine, "reset_prefix_cache", None):
            await reset()


def figures(outcome: Any, strategy: Strategy) -> dict[str, Any]:
    """The fields of a `RunRow` that follow from what a run ended with."""
    steps = [Step.load(step) for step in outcome["trace"]]
    total = Summary.load(outcome["trace_summary"])
    costs, by_draft = total.costs, sum(step.author == "draft" for step in steps)
    if strategy.alone == "draft":  # in the base's place, but a draft
        costs, by_draft = [cost.model_copy(update={"engine": "draft"}) for cost in costs], len(steps)
    # Nothing that depends on the clock, as costs do: the digest is for comparing runs.
    written = [(step.author, step.token_ids, step.discarded and step.discarded.token_ids) for step in steps]
    return {
        "reply": outcome["answer"], "stop_reason": outcome["stop_reason"], "steps": total.steps, "by_draft": by_draft,
        "proposals": total.proposals, "accepted": total.accepted,
        "needed": seconds_measured(committed_costs(steps, total)), "costs": costs,
        "trace": hashlib.sha256(repr((written, outcome["answer"])).encode()).hexdigest(),
    }  # fmt: skip
