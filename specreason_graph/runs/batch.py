"""Many questions on one pair: a file with one a line, so many worked on at once, and each a run that is kept.

The thread of a question is made of its id, its text and its launch. So the same command finds the runs that it began:
the answers of those that are finished are read from the record, and the others go on at the step they had reached.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from specreason_graph.audit.read.serializer import StrictSerializer
from specreason_graph.config import make_config, overridden
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import (
    ConfigError,
    EngineError,
    QuestionError,
    RecordError,
    SpecReasonError,
    UsageError,
)
from specreason_graph.json_values import INTEGERS, why_not_kept
from specreason_graph.prompting.conversation import check_known
from specreason_graph.record.records import Answer, Plain, Record, Step
from specreason_graph.record.state import Question
from specreason_graph.record.summary import Summary, summarise
from specreason_graph.runs.find import aread_values, read_values
from specreason_graph.runs.launch import Launch
from specreason_graph.runs.lock import exclusive
from specreason_graph.runs.store import RunStore

SETTINGS_KEY = "settings"
"""Key of a line's own settings."""
LIKE = 0.75
"""How much a key has to be like one that is known to be taken for a misspelt one, 0 to 1."""
ASK = 'write {"question": "..."}'
"""The fix of a bad line."""
DEFAULT_CONCURRENCY = 8
"""Questions worked on at once where nobody says how many."""


@dataclass(frozen=True)
class QuestionKeys:
    """Under which keys of a line question and id are looked for."""

    question: str = "question"
    """That of the question."""
    id: str = "id"
    """That of the id, which a line may lack."""

    def check(self, found: Mapping[str, Any]) -> None:
        """`QuestionError` for a key that is almost one of those that are read; others are passed over.

        Published data sets hold more than questions. A misspelt key must not be passed over with the rest.
        """
        missing = [each for each in (self.question, SETTINGS_KEY) if each not in found]
        for key in found.keys() - {self.id}:
            if close := get_close_matches(key.lower(), missing, cutoff=LIKE):
                raise QuestionError(f"unknown key {key!r}", hint=f"write {close[0]!r}, or take it out")
        if self.question not in found:
            texts = [key for key, value in found.items() if isinstance(value, str)]
            hint = f"name another key with --question-key; it has {', '.join(texts[:8])}" if texts else ASK
            raise QuestionError(f"there is no {self.question!r}", hint=hint)


class Asked(Record):
    """A question of a file."""

    source: str
    """File and line, for messages."""
    id: str | int
    """Names it in the file: as the line says, else the number of the line."""
    launch: Launch
    """The question, and how it is worked on."""

    @cached_property
    def thread(self) -> str:
        """The thread id of its run, made of question, models and settings: the same command finds it again."""
        asked = json.dumps([str(self.id), self.launch.identity], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Result:
    """What came of a question."""

    asked: Asked
    """The question."""
    values: Plain
    """The state of its run as checkpointed last; empty when nothing was."""
    error: SpecReasonError | None = None
    """Why it is not finished; None when it is."""

    @property
    def end(self) -> Plain:
        """The answer and why the thinking ended, or the error."""
        if not self.error:
            return {name: self.values[name] for name in ("answer", "stop_reason")}
        failed = {"error": str(self.error)}
        return failed | ({"stop_reason": "engine_error"} if isinstance(self.error, EngineError) else {})

    @property
    def summary(self) -> Summary:
        """What the run took in both engines."""
        answer = self.values.get("result")
        steps = [Step.load(step) for step in self.values.get("trace", ())]
        return summarise(steps, Answer.load(answer) if answer else None)


Report = Callable[[Result], None]
"""Takes each result as soon as it is there."""


def read_questions(file: Path, launch: Launch, keys: QuestionKeys = QuestionKeys()) -> list[Asked]:
    """The questions of a file with a JSON object a line, launched like ``launch`` but for settings of their own.

    Empty lines are passed over, and so are keys besides ``keys`` and ``settings``. The first bad line raises
    `QuestionError` or `ConfigError`.
    """
    asked: dict[str, Asked] = {}
    for number, text in enumerate(_read(file).split("\n"), 1):  # JSON texts may hold the other ends of lines
        if text.strip():
            source = f"{file}, line {number}"
            with _named(source):
                one = _ask(source, number, _parse(text), launch, keys)
                if other := asked.get(str(one.id)):
                    raise QuestionError(f"id {one.id!r} is that of {other.source} too", hint="give each another")
                asked[str(one.id)] = one
    if not asked:
        raise QuestionError(f"{file} holds no question", hint='write a line {"question": "..."} for each')
    return list(asked.values())


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise QuestionError(f"cannot read the questions from {file}: {cause}", hint="check the path") from None


def _parse(text: str) -> dict[str, Any]:
    hint = ASK
    try:
        found = json.loads(text)
    except RecursionError:
        raise QuestionError("it is nested too deep", hint=hint) from None
    except ValueError as error:
        raise QuestionError(f"it is not JSON: {error}", hint=hint) from None
    if not isinstance(found, dict):
        raise QuestionError(f"{text.strip()[:40]!r} is not allowed", hint=hint)
    return found


def _ask(source: str, number: int, found: dict[str, Any], launch: Launch, keys: QuestionKeys) -> Asked:
    keys.check(found)
    name, settings = found.get(keys.id, number), found.get(SETTINGS_KEY, {})
    if not _is_text(name) and not (type(name) is int and name in INTEGERS):
        raise QuestionError(f"id = {name!r} is not allowed", hint="write a text or a whole number, or leave it out")
    if not isinstance(settings, dict):
        raise ConfigError(f"settings = {settings!r} is not allowed", hint='write them as {"NAME": VALUE}')
    config = overridden(make_config(**launch.settings), settings)
    settled = {"question": _question(found, keys.question), "settings": config.model_dump(mode="json")}
    asked = Asked(source=source, id=name, launch=launch.model_copy(update=settled))
    asked.launch.check_unattended()
    check_known(asked.launch.base, asked.launch.question)
    return asked


def _question(found: dict[str, Any], key: str) -> str:
    if not _is_text(found[key]):
        raise QuestionError(f"{key} = {found[key]!r} is not allowed", hint="write a text that is not empty")
    return str(found[key])


def _is_text(value: object) -> bool:
    """Whether it is a text with something in it that can be kept."""
    return isinstance(value, str) and bool(value.strip()) and why_not_kept(value, "it") is None


@contextmanager
def _named(source: str) -> Iterator[None]:
    """Name file and line in errors about bad input."""
    try:
        yield
    except UsageError as error:
        raise type(error)(f"{source}: {error.args[0]}", hint=error.hint) from None


def answer_all(
    questions: Sequence[Asked], database: Path, report: Report, concurrency: int = DEFAULT_CONCURRENCY,
    *, opened: Callable[[Launch], AbstractContextManager[EnginePair]] = lambda launch: launch.open_pair(),
) -> None:  # fmt: skip
    """Have the questions answered, so many at once, and report each result as it comes: first those that are kept.

    A question that fails is reported and does not stop the others. However this ends, nothing kept is lost: it may be
    called again. The engines are only loaded when something is left to do, by ``opened``.
    """
    left = []
    with RunStore.open(database) as store, exclusive(database):
        for asked in questions:
            try:
                values = next(read_values(store.saver, [asked.thread]))
            except RecordError as error:  # whoever changed it must not decide what is answered here
                report(Result(asked=asked, values={}, error=error))
                continue
            if values.get("stop_reason"):
                report(Result(asked=asked, values=values))
            else:
                left.append(asked)
        if left:
            with opened(left[0].launch) as pair:
                for asked in left:
                    with _named(asked.source):
                        asked.launch.check_fits(pair)
                store.keep({asked.thread: asked.launch for asked in left})
                asyncio.run(_answer(left, pair, database, report, concurrency))


async def _answer(
    questions: Sequence[Asked], pair: EnginePair, database: Path, report: Report, concurrency: int
) -> None:
    """Work on one loop: a saver with a thread of its own, and runs that can be cancelled between and in their calls."""
    async with AsyncSqliteSaver.from_conn_string(str(database)) as saver:
        saver.serde = StrictSerializer()
        worker = BatchWorker(pair, saver, asyncio.Semaphore(concurrency), report)
        try:
            async with asyncio.TaskGroup() as group:
                for asked in questions:
                    group.create_task(worker.answer(asked))
        except ExceptionGroup as several:  # nothing that concerns one question only: the others were cancelled
            raise several.exceptions[0] from None


@dataclass(frozen=True)
class BatchWorker:
    """Works on questions together."""

    pair: EnginePair
    """The engines."""
    saver: AsyncSqliteSaver
    """Where each step is kept before the next is begun."""
    slots: asyncio.Semaphore
    """As many as there may be at once."""
    report: Report
    """Takes the results."""

    async def answer(self, asked: Asked) -> None:
        """Work a run to its end from where it is, once there is a slot."""
        async with self.slots:
            graph = asked.launch.compile(self.pair, self.saver)
            error: SpecReasonError | None = None
            config: RunnableConfig = {"configurable": {"thread_id": asked.thread}}
            started = await self.saver.aget_tuple(config) is not None
            values: Plain = {}
            try:
                question: Question | None = None if started else {"question": asked.launch.question}
                await graph.ainvoke(question, config, durability="sync")
            except SpecReasonError as failure:
                error = failure
            try:
                values = await aread_values(self.saver, asked.thread)
            except RecordError as failure:
                error = error or failure
            self.report(Result(asked=asked, values=values, error=error))
