"""Working on a kept run: from its launch, or from the step it had reached when it was broken off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langchain_core.runnables import RunnableConfig

from specreason_graph.engines import EnginePair
from specreason_graph.errors import ThreadError
from specreason_graph.record.events import Accepted, Event, Regenerated, read_event
from specreason_graph.record.records import Answer, Plain, Step
from specreason_graph.runs.launch import Launch
from specreason_graph.runs.store import RunStore

COMMITS: dict[str, type[Accepted | Regenerated]] = {"accept": Accepted, "regenerate": Regenerated}
"""The stages that commit a step, and the events that say so."""


class Run:
    """One run: from its launch, or from the step it had reached."""

    def __init__(self, store: RunStore, thread: str, pair: EnginePair) -> None:
        self.thread, self.pair = thread, pair
        self._launch = store.launch(thread)
        self._graph = self._launch.compile(pair, store.saver)
        self._config: RunnableConfig = {"configurable": {"thread_id": thread}}
        if self.answer is None:  # a finished run is only shown
            check_engines(thread, self.values, pair)

    @classmethod
    def start(cls, store: RunStore, launch: Launch, pair: EnginePair) -> Run:
        """A new run, kept before its first step; `QuestionError` when the question does not fit the models."""
        launch.check_fits(pair)
        return cls(store, store.add(launch), pair)

    def advance(self) -> Iterator[Step]:
        """Work to the end; yields each step as it is committed."""
        for event in self.events():
            if isinstance(event, Accepted | Regenerated):
                yield event.step

    def events(self) -> Iterator[Event]:
        """Work to the end, and tell what happens; a step is emitted once it is kept, and none that was kept before."""
        kept = len(self.steps)  # a step whose superstep was cut by a kill is emitted by LangGraph again
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
