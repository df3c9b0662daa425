"""Runs kept in an SQLite file: LangGraph's checkpoints, and beside them how each run was launched.

The launch is written before the first checkpoint, so a run that was killed at any instant can be resumed by its thread
id alone.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from platformdirs import user_data_path
from pydantic import Field

from specreason_graph.audit.signing import Signer
from specreason_graph.config import make_config
from specreason_graph.conversation import read_conversation
from specreason_graph.engines import EnginePair, open_pair, plan_pair, vllm_options
from specreason_graph.engines.memory import MemoryPlan
from specreason_graph.errors import ConfigError, QuestionError, ThreadError, UsageError
from specreason_graph.events import Accepted, Event, Regenerated, read_event
from specreason_graph.graph import CompiledSpecReason, create_specreason
from specreason_graph.models.abacus.problems import knows
from specreason_graph.prompting import Prompts
from specreason_graph.records import Answer, Record, Step
from specreason_graph.state import Plain

COMMITS: dict[str, type[Accepted | Regenerated]] = {"accept": Accepted, "regenerate": Regenerated}
"""The stages that commit a step, and how they tell it."""
TABLE = "create table if not exists specreason_runs (thread text primary key, launch text not null)"


class Launch(Record):
    """How a run was started."""

    question: str
    """What it thinks about."""
    base: str = "abacus-base"
    """Base model: a built-in name, a folder or a name on the hub."""
    draft: str = "abacus-draft"
    """Draft model, likewise."""
    engine: str = "transformers"
    """Kind of engine."""
    device: str | None = None
    """Torch device; None chooses."""
    dtype: str | None = None
    """Number format; None chooses."""
    base_url: str | None = None
    """Server of the base model, for the engine ``server``."""
    draft_url: str | None = None
    """Server of the draft model; None lets the base draft for itself."""
    base_options: dict[str, Any] = Field(default_factory=dict)
    """Engine options of the base model, fields of `VLLMOptions`."""
    draft_options: dict[str, Any] = Field(default_factory=dict)
    """Engine options of the draft model."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """All fields of `SpecReasonConfig`, so that a later default does not change a run that is resumed."""

    def open_pair(self) -> EnginePair:
        """Load the engines."""
        return open_pair(
            self.base, self.draft, kind=self.engine, device=self.device, dtype=self.dtype, base_url=self.base_url,
            draft_url=self.draft_url, base_options=self.base_options, draft_options=self.draft_options,
        )  # fmt: skip

    def compile(self, pair: EnginePair, saver: BaseCheckpointSaver[Any]) -> CompiledSpecReason:
        """The graph of the run."""
        graph = create_specreason(pair, config=make_config(**self.settings), signer=Signer.from_environment())
        return graph.compile(checkpointer=saver)

    def check_known(self) -> None:
        """`QuestionError` when the built-in models are asked what they never learnt."""
        if self.base == "abacus-base" and not knows(self.question):
            raise QuestionError(
                "the built-in models only do arithmetic word problems of the kind `specreason solve --example` draws",
                hint="name real models with --base MODEL --draft MODEL, each a folder or a Hugging Face name",
            )

    def check_unattended(self) -> None:
        """`ConfigError` when a human would be asked, and nobody could answer."""
        if make_config(**self.settings).review:
            raise ConfigError("review is set, and there is no human to be asked", hint="set it to null")

    def check_fits(self, pair: EnginePair) -> None:
        """`QuestionError` when the question does not fit the models."""
        Prompts(pair, make_config(**self.settings)).check(read_conversation(self.question, None))

    def plan_memory(self) -> MemoryPlan | None:
        """How the engines would share the devices, where this package decides that."""
        if self.engine != "vllm":
            return None
        options = vllm_options((self.base_options, self.draft_options), self.dtype)
        return plan_pair((self.base, self.draft), options)


def default_database() -> Path:
    """The file in the user's data folder."""
    return user_data_path("specreason") / "runs.sqlite"


class Runs:
    """The runs of one database file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.saver = SqliteSaver(connection)

    @classmethod
    @contextmanager
    def open(cls, file: Path) -> Iterator[Runs]:
        """Open or create the file; `UsageError` when it is no database or cannot be written."""
        with closing(_connect(file)) as connection:
            yield cls(connection)

    def add(self, launch: Launch) -> str:
        """Keep a new run; its thread id."""
        thread = uuid.uuid4().hex[:12]
        self.keep({thread: launch})
        return thread

    def keep(self, launches: Mapping[str, Launch]) -> None:
        """Keep how runs are launched, by thread id; what was kept for a thread before is replaced."""
        rows = [(thread, launch.model_dump_json()) for thread, launch in launches.items()]
        with self._connection:
            self._connection.executemany("insert or replace into specreason_runs values (?, ?)", rows)

    def launch(self, thread: str) -> Launch:
        """How a run was started; `ThreadError` when there is no such run."""
        return _launch(self._connection, thread)

    def compile(self, launch: Launch, pair: EnginePair) -> CompiledSpecReason:
        """The graph of a run, checkpointed here."""
        return launch.compile(pair, self.saver)


def read_launch(file: Path, thread: str) -> Launch:
    """How a run was started, from a file that is only read; `ThreadError` when there is no such run."""
    with closing(sqlite3.connect(f"file:{quote(str(file.resolve()))}?mode=ro", uri=True)) as connection:
        return _launch(connection, thread)


def _launch(connection: sqlite3.Connection, thread: str) -> Launch:
    row = connection.execute("select launch from specreason_runs where thread = ?", (thread,)).fetchone()
    if row is None:
        raise ThreadError(f"no run {thread!r} in this database", hint="check the thread id and --db")
    return Launch.model_validate_json(row[0])


def _connect(file: Path) -> sqlite3.Connection:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(file, check_same_thread=False)
        connection.execute(TABLE)
    except (sqlite3.DatabaseError, OSError) as error:
        raise UsageError(f"database {file} cannot be used: {error}", hint="name another file with --db") from error
    return connection


class Run:
    """One run: from its launch, or from the step it had reached."""

    def __init__(self, runs: Runs, thread: str, pair: EnginePair) -> None:
        self.thread, self.pair = thread, pair
        self._launch = runs.launch(thread)
        self._graph = runs.compile(self._launch, pair)
        self._config: RunnableConfig = {"configurable": {"thread_id": thread}}
        check_engines(thread, self.values, pair)

    @classmethod
    def start(cls, runs: Runs, launch: Launch, pair: EnginePair) -> Run:
        """A new run, kept before its first step; `QuestionError` when the question does not fit the models."""
        launch.check_fits(pair)
        return cls(runs, runs.add(launch), pair)

    def advance(self) -> Iterator[Step]:
        """Work to the end; yields each step as it is committed."""
        for event in self.events():
            if isinstance(event, Accepted | Regenerated):
                yield event.step

    def events(self) -> Iterator[Event]:
        """Work to the end, and tell what happens; a step is told once it is kept, and none that was kept before."""
        kept = len(self.steps)  # a step of which the process was killed in the middle of the superstep is told again
        started = bool(self._graph.get_state(self._config).created_at)
        question = None if started else {"question": self._launch.question}
        parts: Iterator[Any] = self._graph.stream(
            question, self._config, stream_mode=["updates", "custom"], durability="sync"
        )
        for mode, part in parts:
            event = read_event(part)
            if event and not isinstance(event, Accepted | Regenerated):
                yield event
            for node, changes in part.items() if mode == "updates" else ():
                if node in COMMITS:
                    steps = [Step.load(step) for step in changes["trace"]]
                    yield from (COMMITS[node](step=step) for step in steps if step.index >= kept)

    @property
    def values(self) -> Plain:
        """The state as checkpointed last."""
        values: Plain = self._graph.get_state(self._config).values
        return values

    @property
    def steps(self) -> list[Step]:
        """The committed steps."""
        return [Step.load(step) for step in self.values.get("trace", [])]

    @property
    def answer(self) -> Answer | None:
        """The answer, once there is one."""
        result = self.values.get("result")
        return Answer.load(result) if result else None


def check_engines(thread: str, values: Plain, pair: EnginePair) -> None:
    """`ThreadError` when a run would go on with other models than it began with."""
    recorded = values.get("manifest", {}).get("engines")
    now = {"base": pair.base.describe().dump(), "draft": pair.draft.describe().dump()}
    for role in recorded or ():
        for field in ("weights", "vocabulary", "dtype"):
            if recorded[role][field] != now[role][field]:
                raise ThreadError(
                    f"run {thread!r} began with another {role} model: its {field} were "
                    f"{recorded[role][field][:12]} and are {now[role][field][:12]}",
                    hint="put the model back, or solve the question anew",
                )
