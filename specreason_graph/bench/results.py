"""Results of a benchmark: a JSONL file that grows by a line for each run, and can be gone on with after any kill.

The first line says what is measured. A run whose time counts stands alone where one question is asked at a time, and
in a lap where several are: their wall time is known only when the last one of the lap has ended.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from specreason_graph.bench.hardware import Hardware
from specreason_graph.bench.strategies import Strategy
from specreason_graph.bench.tasks import Question
from specreason_graph.errors import UsageError
from specreason_graph.files import check_target, open_lines, write_errors
from specreason_graph.record.records import Cost, Engine, Purpose, Record, Usage

Key = tuple[str, str, int]
"""Strategy, question and sample: what a run is known by."""


class Header(Record):
    """What is measured; what two commands must have in common to share a file."""

    kind: Literal["bench"] = "bench"
    """Kind of this line."""
    version: int = 1
    """Version of this format."""
    task: str
    """Name of the task."""
    grader: str
    """Name of the grader."""
    engines: dict[str, Any]
    """Models, kind of engine and options that all strategies share."""
    settings: dict[str, Any]
    """Settings that all strategies share."""
    samples: int
    """Runs of each strategy on each question."""
    seed: int
    """Seed that the runs' own seeds are derived from."""
    concurrency: int
    """Questions worked on at the same time."""
    part: int
    """Questions that a strategy gets in one turn."""


class Measured(Record):
    """A strategy of the file."""

    kind: Literal["strategy"] = "strategy"
    """Kind of this line."""
    strategy: Strategy
    """The strategy."""


class Asked(Record):
    """A question of the file."""

    kind: Literal["question"] = "question"
    """Kind of this line."""
    question: Question
    """The question."""


class Skipped(Record):
    """A strategy that could not be measured."""

    kind: Literal["skipped"] = "skipped"
    """Kind of this line."""
    strategy: str
    """Which strategy."""
    reason: str
    """Why."""


class RunRow(Record):
    """One run."""

    kind: Literal["run"] = "run"
    """Kind of this line."""
    strategy: str
    """Which strategy."""
    question: str
    """Id of the question."""
    sample: int
    """Which of the runs of this strategy on this question, from 0."""
    part: int
    """Part of the task that the question is in, from 0."""
    thread: str
    """Thread id of the run in the database."""
    seed: int
    """Seed of the run, which is the same for all strategies."""
    seconds: float
    """Wall-clock seconds of this run."""
    started: float
    """When it began, seconds since 1970."""
    reply: str = ""
    """What the user would see."""
    answer: str | None = None
    """The answer that the grader found in it."""
    right: bool | None = None
    """Whether it is right; None where only agreement with the base alone is known."""
    stop_reason: str = ""
    """Why the thinking ended."""
    error: str | None = None
    """Why there is no reply; such a run counts as wrong."""
    steps: int = 0
    """Committed steps."""
    by_draft: int = 0
    """Committed steps that the draft wrote."""
    proposals: int = 0
    """Proposals that were scored."""
    accepted: int = 0
    """Proposals that were accepted."""
    needed: float = 0.0
    """Seconds of the engine calls that wrote what was committed."""
    costs: list[Cost] = Field(default_factory=list)
    """Tokens and seconds by engine and purpose, wasted work in rows of its own."""
    trace: str = ""
    """SHA-256 of authors, tokens and answer: runs with the same one are the same token for token."""

    @property
    def key(self) -> Key:
        """What it is known by."""
        return self.strategy, self.question, self.sample

    def tokens(self, engine: Engine, purpose: Purpose | None = None, *, wasted: bool | None = None) -> int:
        """Tokens that a model wrote; for one purpose, or only wasted or needed ones, where that is said."""
        return sum(
            cost.usage.generated_tokens
            for cost in self.costs
            if cost.engine == engine and purpose in (None, cost.purpose) and wasted in (None, cost.wasted)
        )

    def usage(self, engine: Engine) -> Usage:
        """All work of a model."""
        return sum((cost.usage for cost in self.costs if cost.engine == engine), Usage())


class Lap(Record):
    """Runs that were worked on together, and how long that took."""

    kind: Literal["lap"] = "lap"
    """Kind of this line."""
    strategy: str
    """Which strategy."""
    part: int
    """Which part of the task, from 0."""
    sample: int
    """Which sample, from 0."""
    questions: list[str]
    """Ids of the questions."""
    seconds: float
    """Wall-clock seconds from the beginning of the first run to the end of the last."""


Line = Annotated[
    Header | Measured | Asked | Skipped | RunRow | Lap | Hardware, Field(discriminator="kind")
]  # fmt: skip
LINE: TypeAdapter[Line] = TypeAdapter(Line)


class Results:
    """What is known so far, in memory and in a file."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.header = next((line for line in lines if isinstance(line, Header)), None)
        self.strategies = {line.strategy.name: line.strategy for line in lines if isinstance(line, Measured)}
        self.questions = {line.question.id: line.question for line in lines if isinstance(line, Asked)}
        self.machines = [line for line in lines if isinstance(line, Hardware)]
        self.laps = [line for line in lines if isinstance(line, Lap)]
        self._skipped = {line.strategy: line.reason for line in lines if isinstance(line, Skipped)}
        self._runs = {line.key: line for line in lines if isinstance(line, RunRow)}  # of two the later one

    @classmethod
    def read(cls, file: Path) -> Results:
        """Read a file; `UsageError` for one that holds something else. A last line that was cut off is passed over."""
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            cause = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise UsageError(f"cannot read the results in {file}: {cause}", hint="check the path") from None
        found = [_line(file, number, line) for number, line in enumerate(whole_lines(text), 1)]
        if found and not isinstance(found[0], Header):
            raise UsageError(f"{file} holds no results of a benchmark", hint="name another file with -o")
        return cls(found)

    def add(self, line: Line) -> None:
        """Take in a line that was just written."""
        match line:
            case Header():
                self.header = line
            case Measured():
                self.strategies[line.strategy.name] = line.strategy
            case Asked():
                self.questions[line.question.id] = line.question
            case Hardware():
                self.machines.append(line)
            case Lap():
                self.laps.append(line)
            case Skipped():
                self._skipped[line.strategy] = line.reason
            case RunRow():
                self._runs[line.key] = line
        self.__dict__.pop("shares", None)

    @property
    def skipped(self) -> dict[str, str]:
        """Why strategies were not measured, by name."""
        return {name: reason for name, reason in self._skipped.items() if not self.runs(name)}

    @property
    def is_timed_in_laps(self) -> bool:
        """Whether runs were worked on together, so that only laps have a wall time."""
        return self.header is not None and self.header.concurrency > 1

    @cached_property
    def shares(self) -> dict[Key, float]:
        """Each run's share of the wall time, in seconds; runs of a lap that was cut off have none."""
        if not self.is_timed_in_laps:
            return {key: run.seconds for key, run in self._runs.items()}
        found: dict[Key, float] = {}
        for lap in self.laps:
            keys = [(lap.strategy, question, lap.sample) for question in lap.questions]
            own = [self._runs[key].seconds if key in self._runs else 0.0 for key in keys]
            found |= {key: lap.seconds * each / (sum(own) or 1.0) for key, each in zip(keys, own, strict=True)}
        return found

    def runs(self, strategy: str) -> list[RunRow]:
        """The runs of a strategy that count, in the order of questions and samples."""
        order = {question: place for place, question in enumerate(self.questions)}
        found = [run for key, run in self._runs.items() if run.strategy == strategy and key in self.shares]
        return sorted(found, key=lambda run: (run.sample, order.get(run.question, 0)))

    def is_done(self, key: Key) -> bool:
        """Whether a run has been made and timed."""
        return key in self._runs and key in self.shares

    def has_succeeded(self, strategy: str) -> bool:
        """Whether a run of a strategy has ended without an error, timed or not."""
        return any(run.error is None for run in self._runs.values() if run.strategy == strategy)

    def find(self, strategy: str, question: str, sample: int) -> RunRow | None:
        """A run; None where it has not been made."""
        return self._runs.get((strategy, question, sample))

    def ungraded(self) -> list[RunRow]:
        """Runs of which nobody has said whether they are right."""
        return [run for run in self._runs.values() if run.right is None]


class ResultsFile:
    """Results that are added to a file line by line."""

    def __init__(self, file: Path, results: Results, kept: Sequence[Path] = ()) -> None:
        self.file, self.results = file, results
        self._kept = kept

    @classmethod
    def open(cls, file: Path, header: Header, kept: Sequence[Path] = ()) -> ResultsFile:
        """Open the results of a measurement, new ones or those that an earlier command has begun.

        Raises `UsageError` where the file holds something else, or was measured in another way.
        """
        check_target(file, kept)
        results = Results.read(file) if file.exists() and file.stat().st_size else Results([])
        opened = cls(file, results, kept)
        if results.header is None:
            opened.write(header)
        elif different := _different(results.header, header):
            raise UsageError(
                f"{file} was measured in another way: {different}",
                hint="give the same options, or another file with -o",
            )
        else:
            opened._cut()
        return opened

    def write(self, *lines: Line) -> None:
        """Add lines; once this returns, a kill loses none of them."""
        with open_lines(self.file, self._kept) as out, write_errors(self.file):
            out.write("".join(line.model_dump_json() + "\n" for line in lines))
        for line in lines:
            self.results.add(line)

    def _cut(self) -> None:
        """Remove a last line that a kill has cut off: what follows would be glued to it."""
        text = self.file.read_bytes()
        if text and not text.endswith(b"\n"):
            with self.file.open("r+b") as opened, write_errors(self.file):
                opened.truncate(text.rfind(b"\n") + 1)


def whole_lines(text: str) -> Iterator[str]:
    """The lines of a text that have an end."""
    *whole, _ = text.split("\n")
    return filter(None, whole)


def _line(file: Path, number: int, text: str) -> Line:
    try:
        return LINE.validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        raise UsageError(
            f"{file}, line {number} is no line of results: {problem['msg']}", hint="name another file with -o"
        ) from None


def _different(old: Header, new: Header) -> str:
    """What two headers differ in, for people; empty where they are the same."""
    mine, theirs = old.dump(), new.dump()
    for name in mine:
        if mine[name] == theirs[name]:
            continue
        if isinstance(mine[name], dict):
            keys = sorted(mine[name].keys() | theirs[name].keys())
            name, pair = next(
                (f"{name}.{key}", (mine[name].get(key), theirs[name].get(key)))
                for key in keys
                if mine[name].get(key) != theirs[name].get(key)
            )
        else:
            pair = (mine[name], theirs[name])
        return f"{name} was {json.dumps(pair[0])} and is {json.dumps(pair[1])}"
    return ""
