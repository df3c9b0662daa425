"""Working on a kept run: from its launch, or from the step it had reached when it was broken off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langchain_core.runnables import RunnableConfig

from specreason_graph.config import STREAM_KEY
from specreason_graph.engines import EnginePair
from specreason_graph.lookahead.resumed import check_resumed
from specreason_graph.lookahead.step_sampler import StepSampler
from specreason_graph.record.events import Accepted, Event, Regenerated, read_event
from specreason_graph.record.manifest import Manifest
from specreason_graph.record.records import Answer, Plain, Step
from specreason_graph.runs.find import read_values
from specreason_graph.runs.launch import Launch
from specreason_graph.runs.store import RunStore

COMMITS: dict[str, type[Accepted | Regenerated]] = {"accept": Accepted, "regenerate": Regenerated}
"""The stages that commit a step, and the events that say so."""


class Run:
    """One run: from its launch, or from the step it had reached.

    Raises `RecordError` when its record is not as it was written, and `ThreadError` when it began with other models,
    prompts or engine options, unless ``accept_changes`` says to go on with those of now.
    """

    def __init__(self, store: RunStore, thread: str, pair: EnginePair, *, accept_changes: bool = False) -> None:
        self.thread, self.pair = thread, pair
        self._launch, self._saver = store.launch(thread), store.saver
        self._graph = self._launch.compile(pair, store.saver, accept_changes=accept_changes)
        self._config: RunnableConfig = {"configurable": {"thread_id": thread}}
        values = self.values
        if values and not values["result"]:  # a finished run is only shown
            sampler = StepSampler.create(pair, Manifest.load(values["manifest"]).settings)
            check_resumed(values["manifest"], values["trace"], sampler, accept_changes=accept_changes)

    @classmethod
    def start(cls, store: RunStore, launch: Launch, pair: EnginePair, thread: str | None = None) -> Run:
        """A new run, kept before its first step; `QuestionError` when the question does not fit the models.

        ``thread``: its thread id; a new one where none is given.
        """
        launch.check_fits(pair)
        return cls(store, store.add(launch, thread), pair)

    def advance(self) -> Iterator[Step]:
        """Work to the end; yields each step as it is committed."""
        for event in self.events():
            if isinstance(event, Accepted | Regenerated):
                yield event.step

    def events(self, *, stream: bool = False) -> Iterator[Event]:
        """Work to the end, and tell what happens; a step is emitted once it is kept, and none that was kept before.

        ``stream``: whether its text is emitted while it is written, too.
        """
        kept = len(self.steps)  # a step whose superstep was cut by a kill is emitted by LangGraph again
        started = self._saver.get_tuple(self._config) is not None
        question = None if started else {"question": self._launch.question}
        config: RunnableConfig = {"configurable": {"thread_id": self.thread, STREAM_KEY: stream}}
        parts: Iterator[Any] = self._graph.stream(
            question, config, stream_mode=["updates", "custom"], durability="sync"
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
        """The state as it was sealed last; empty before the first step is begun."""
        return next(read_values(self._saver, [self.thread]))

    @property
    def steps(self) -> list[Step]:
        """The committed steps."""
        return [Step.load(step) for step in self.values.get("trace", [])]

    @property
    def answer(self) -> Answer | None:
        """The answer, once there is one."""
        result = self.values.get("result")
        return Answer.load(result) if result else None
