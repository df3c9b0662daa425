"""Tuning: collect, replay, run the few best for real, choose. Killed at any instant, the same command goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from specreason_graph.bench.figures import compute
from specreason_graph.bench.graders import Grader
from specreason_graph.bench.results import Results, ResultsFile, whole_lines
from specreason_graph.bench.run import Bench
from specreason_graph.bench.strategies import BASE, Strategy
from specreason_graph.bench.tasks import Question, Task
from specreason_graph.config import make_config
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import UsageError
from specreason_graph.files import open_lines, write_errors
from specreason_graph.record.records import Record
from specreason_graph.runs.launch import WHERE, Launch
from specreason_graph.tuning.choose import (
    Choice,
    Outcome,
    Replays,
    Tried,
    choose,
    finalists,
    replay_all,
    would_change,
)
from specreason_graph.tuning.collect import Collector, PairCosts, Solution

TOGETHER = 8
"""Questions that are collected at the same time, at most."""
CHOSEN = (
    "judge", "threshold", "writer", "proposals", "lookahead", "speculation_control", "first_steps_by_base", "stopping",
)  # fmt: skip
"""Settings that a tuner chooses."""


class TuneHeader(Record):
    """What is tuned; what two commands must have in common to share a folder."""

    kind: Literal["tune"] = "tune"
    """Kind of this line."""
    version: int = 1
    """Version of this format."""
    task: str
    """Name of the task."""
    questions: str
    """SHA-256 of all its questions."""
    grader: str
    """Name of the grader."""
    engines: dict[str, Any]
    """Models, kind of engine and options."""
    settings: dict[str, Any]
    """Settings that are not chosen."""
    concurrency: int
    """Questions at the same time."""


Line = Annotated[TuneHeader | PairCosts | Solution, Field(discriminator="kind")]
LINE: TypeAdapter[Line] = TypeAdapter(Line)


class Tuned(Record):
    """The result of tuning."""

    task: str
    """Name of the task."""
    questions: int
    """Questions of the sample."""
    alpha: float
    """Share of the right answers that may be lost, 0 to 1."""
    confidence: float
    """Confidence of the bound, 0 to 1."""
    costs: PairCosts
    """What the pair costs."""
    base_right: int
    """Questions of the sample that the base alone gets right."""
    replays: Replays
    """What follows from the collected questions."""
    outcomes: list[Outcome]
    """The strategies that were run for real."""
    choice: Choice
    """What is recommended."""


@dataclass(frozen=True)
class Tuning:
    """One tuning of a pair for the questions of a task."""

    task: Task
    """The questions of the sample."""
    digest: str
    """SHA-256 of all questions of the task: a larger sample goes on with what is there, another task does not."""
    grader: Grader
    """Says which replies are right."""
    grader_name: str
    """What it is called."""
    launch: Launch
    """Models and the settings that are not chosen."""
    folder: Path
    """Where what was measured is kept."""
    concurrency: int = 1
    """Questions at the same time, in the runs that are timed."""
    alpha: float = 0.1
    """Share of the answers that the base gets right which may be lost, 0 to 1."""
    delta: float = 0.1
    """Probability that the bound on it is wrong, 0 to 1."""
    own_versions: bool = False
    """Whether the base's own version of each step is compared with the draft's, for `CompareJudge`."""
    tell: Callable[[str], None] = lambda _line: None
    """Is told how it goes on."""

    @property
    def header(self) -> TuneHeader:
        """What is tuned."""
        kept = self.launch.model_dump(mode="json", exclude={"question", "settings", *WHERE}, exclude_defaults=True)
        return TuneHeader(
            task=self.task.name, questions=self.digest, grader=self.grader_name, engines=kept,
            settings=self.launch.settings, concurrency=self.concurrency,
        )  # fmt: skip

    def collect(self) -> tuple[PairCosts, list[Solution]]:
        """Measure the pair and collect labelled steps, as far as that was not done before."""
        journal = _Journal.open(self.folder / "steps.jsonl", self.header)
        left = self._left(journal)
        if left or journal.costs is None:
            count = len(self.task.questions)
            self.tell(f"{count - len(left)} of {count} questions are collected; opening the engines")
            with self.launch.open_pair() as pair:
                pair.run(lambda: self._collect(pair, journal))
        if journal.costs is None:
            raise UsageError(f"{journal.file} holds no costs of the pair", hint="name another folder with -o")
        order = {question.id: place for place, question in enumerate(self.task.questions)}
        known = [each for each in journal.solutions if each.question in order]
        return journal.costs, sorted(known, key=lambda each: order[each.question])

    def _left(self, journal: _Journal) -> list[Question]:
        done = {each.question for each in journal.solutions}
        return [question for question in self.task.questions if question.id not in done]

    async def _collect(self, pair: EnginePair, journal: _Journal) -> None:
        first = self.task.questions[0]
        config = make_config(**self.launch.settings)
        collector = await Collector.create(pair, config, self.grader, first, own_versions=self.own_versions)
        if journal.costs is None:
            journal.add(await collector.costs(first, self.concurrency))
        left, count = self._left(journal), len(self.task.questions)
        together = min(TOGETHER, pair.base.max_concurrency or TOGETHER)  # more would only finish later, all at once
        async for solution in collector.solutions(left, together):
            journal.add(solution)
            self.tell(f"collected {count - len(self._left(journal))} of {count} questions")

    def bench(self, chosen: Sequence[Tried]) -> Bench:
        """The measurement of the finalists, beside the base alone."""
        strategies = [Strategy(name=each.candidate.name, settings=each.candidate.settings) for each in chosen]
        return Bench(
            task=self.task, grader=self.grader, grader_name=self.grader_name, launch=self.launch,
            strategies=[BASE, *strategies], concurrency=self.concurrency,
            part=1 if self.concurrency == 1 else None,  # the sample is small: what the machine does else weighs more
        )  # fmt: skip

    def results(self, bench: Bench) -> ResultsFile:
        """The file of what the finalists did."""
        return ResultsFile.open(self.folder / "runs.jsonl", bench.header, (self.database,))

    @property
    def database(self) -> Path:
        """The runs of the finalists."""
        return self.folder / "runs.sqlite"

    def conclude(
        self, costs: PairCosts, solutions: Sequence[Solution], replays: Replays, chosen: Sequence[Tried],
        results: Results,
    ) -> Tuned:  # fmt: skip
        """Choose by what the finalists did."""
        outcomes = _outcomes(chosen, results)
        best, why = choose(outcomes, alpha=self.alpha)
        change = would_change(replays.tried, solutions, costs)
        return Tuned(
            task=self.task.name, questions=len(solutions), alpha=self.alpha, confidence=1 - self.delta, costs=costs,
            base_right=sum(each.right for each in solutions), replays=replays, outcomes=outcomes,
            choice=Choice(chosen=best, why=why, would_change=change),
        )  # fmt: skip

    def replay(self, costs: PairCosts, solutions: Sequence[Solution]) -> tuple[Replays, list[Tried]]:
        """What follows from the collected questions, and the strategies that are run for real."""
        replays = replay_all(solutions, costs, alpha=self.alpha, delta=self.delta)
        return replays, finalists(replays.tried)


def _outcomes(chosen: Sequence[Tried], results: Results) -> list[Outcome]:
    rows, found = {row.strategy.name: row for row in compute(results).rows}, []
    base = {run.question: bool(run.right) for run in results.runs(BASE.name)}
    for each in chosen:
        row = rows.get(each.candidate.name)
        if row is None or row.faster is None:  # it could not be measured
            continue
        right = {run.question: bool(run.right) for run in results.runs(each.candidate.name)}
        found.append(
            Outcome(
                candidate=each.candidate, faster=row.faster.value, low=row.faster.low, high=row.faster.high,
                questions=len(right), right=sum(right.values()), base_right=sum(base[name] for name in right),
                lost=sum(base[name] and not right[name] for name in right),
                gained=sum(right[name] and not base[name] for name in right), bound=each.bound,
            )
        )  # fmt: skip
    return found


class _Journal:
    """What was collected, in a file that grows by a line for each question."""

    def __init__(self, file: Path, lines: Sequence[Line]) -> None:
        self.file = file
        self.costs = next((line for line in lines if isinstance(line, PairCosts)), None)
        self.solutions = list({line.question: line for line in lines if isinstance(line, Solution)}.values())

    @classmethod
    def open(cls, file: Path, header: TuneHeader) -> _Journal:
        """The journal of a tuning, new or begun; `UsageError` where the file is of something else."""
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        lines = [_read(file, line) for line in whole_lines(text)]
        journal = cls(file, lines)
        if not lines:
            file.parent.mkdir(parents=True, exist_ok=True)
            journal.add(header)
        elif lines[0] != header:
            raise UsageError(f"{file} is of {_differs(lines[0], header)}", hint="name another folder with -o")
        elif not text.endswith("\n"):  # a kill has cut the last line off: what follows would be glued to it
            with file.open("r+b") as opened, write_errors(file):
                opened.truncate(len(text.rpartition("\n")[0].encode()) + 1)
        return journal

    def add(self, line: Line) -> None:
        """Keep a line; once this returns, a kill does not lose it."""
        with open_lines(self.file) as out, write_errors(self.file):
            out.write(line.model_dump_json() + "\n")
        if isinstance(line, PairCosts):
            self.costs = line
        elif isinstance(line, Solution):
            self.solutions.append(line)


def _read(file: Path, text: str) -> Line:
    try:
        return LINE.validate_json(text)
    except ValidationError:
        raise UsageError(f"{file} holds something else", hint="name another folder with -o") from None


def _differs(old: Line, new: TuneHeader) -> str:
    if not isinstance(old, TuneHeader):
        return "something else"
    mine, theirs = _flat(old.dump()), _flat(new.dump())
    name = next(name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name))
    return f"another tuning: its {name} is {json.dumps(mine.get(name))[:200]}"


def _flat(plain: dict[str, Any]) -> dict[str, Any]:
    """Fields, and those of tables by dotted names."""
    tables = {name: value for name, value in plain.items() if isinstance(value, dict)}
    inner = {f"{name}.{key}": each for name, value in tables.items() for key, each in value.items()}
    return {name: value for name, value in plain.items() if name not in tables} | inner
