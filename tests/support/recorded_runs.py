"""Runs to report on: of a scripted pair that writes what could break a page, and made longer, older or damaged."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import Field

from specreason_graph import EnginePair, create_specreason
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.read.recorded import Finding, RecordedRun
from specreason_graph.engines.fake import FakeEngine, PlainText
from specreason_graph.record.records import Record

CLOSE = "</think>"
NASTY = (
    """</script><img src=x onerror="window.ran=1"> 'q' {{ 7*7 }} {% raw %} <!-- ]]> &lt;b&gt; """
    "<script>window.ran=1</script>"
)
TURNED = "price \u202e)99$\u2066 \x1b[31m\x00\u2028 end"
LONG_WORD = "W" * 3000
EDIT = {"verdict": "edit", "text": "A human's thing.", "reviewer": "Ada <b>", "note": f"because {NASTY}"}
THREAD: Any = {"configurable": {"thread_id": "t<b>"}, "recursion_limit": 10_000}

DRAFTS = [NASTY, "25 * 18 = 420, I think.", LONG_WORD, "Doubtful thing.", "Good enough thing."]
SCORES: list[Any] = [9, [0, 0.6, 0.2, 0, 0, 0, 0, 0, 0.1], 8, 6, 6]
BASES = [f"25 * 18 = 450, I think. {TURNED}", CLOSE, f"450. {NASTY}"]


class Checked(Record):
    """What a verification says, as far as the report asks."""

    entries: int = 12
    """Entries."""
    head: str | None = None
    """Head."""
    signed_by: str | None = None
    """Key."""
    finished: bool = True
    """Whether there is an answer."""
    changes: list[Finding] = Field(default_factory=list)
    """What it went on with."""
    findings: list[Finding] = Field(default_factory=list)
    """What is wrong."""

    @property
    def ok(self) -> bool:
        return not self.findings


def recorded(
    *resumed: Any, drafts: list[str] = DRAFTS, bases: list[str] = BASES, scores: list[Any] = SCORES, **settings: Any
) -> RecordedRun:
    """A run with two questions to a human, as far as these are answered."""
    draft = FakeEngine([PlainText(text + "\n\n") for text in drafts] + [CLOSE], name="draft<b>", delay=0.002)
    base = FakeEngine([text if text == CLOSE else PlainText(text + "\n\n") for text in bases], scores, name="base")
    saver = InMemorySaver()
    with EnginePair(draft, base) as pair:
        settings = {"review": {"low": 5, "high": 6.5}, "max_step_tokens": 4000, **settings}
        graph = create_specreason(pair, **settings).compile(checkpointer=saver)
        graph.invoke({"question": f"What of {NASTY}?"}, THREAD)
        for answer in resumed:
            graph.invoke(Command(resume=answer), THREAD)
    (run,) = read_runs(saver, "t<b>")
    return run


def finished() -> RecordedRun:
    """All of it: accepted, rejected, written and accepted by a human, ended by the base."""
    return recorded(EDIT, "accept")


def long_run(run: RecordedRun, steps: int) -> RecordedRun:
    """The run with its steps told again and again; nothing of it can be verified."""
    trace = [{**deepcopy(run.trace[index % len(run.trace)]), "index": index} for index in range(steps)]
    for step in trace:
        step["text"] = f"{step['text'].strip()} number {step['index'] + 1} of many\n\n"
    return changed(run, trace=trace)


def version_1(run: RecordedRun) -> RecordedRun:
    """The run as it would have been kept before there was a ledger."""
    manifest = {name: value for name, value in run.manifest.items() if name not in ("run", "started", "hash")}
    trace = deepcopy(run.trace)
    for step in trace:
        del step["hash"], step["tokens_left"]
        for cost in step["costs"]:
            del cost["usage"]["started"]
    result = {name: deepcopy(value) for name, value in run.result.items() if name not in ("hash", "signature")}
    del result["usage"]["started"]
    return changed(
        run, manifest={**manifest, "schema_version": 1}, trace=trace, values={**run.values, "result": result}
    )


def forked(run: RecordedRun) -> RecordedRun:
    """The run as if its first two steps were another's, and what follows is its own."""
    lineage = {"thread_id": "old", "namespace": "", "run": "f" * 32, "step": 2, "edited": True, "head": None}
    return changed(run, manifest={**run.manifest, "forked_from": lineage})


def changed(run: RecordedRun, **fields: Any) -> RecordedRun:
    """A copy with other fields."""
    mine = {name: getattr(run, name) for name in RecordedRun.__dataclass_fields__}
    return RecordedRun(**deepcopy({**mine, **fields}))
