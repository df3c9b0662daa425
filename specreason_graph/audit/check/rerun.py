"""Rerun: run a recorded run again with its seeds, in memory, and compare the tokens."""

from __future__ import annotations

from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from specreason_graph.audit.fork import fork, plan_fork
from specreason_graph.audit.read.recorded import RecordedRun, check_readable
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import ThreadError
from specreason_graph.graph import create_specreason
from specreason_graph.record.manifest import EngineDescription
from specreason_graph.record.records import Answer, Engine, Plain, Record, Step

Tokens = tuple[str, list[int]]
"""An author, and the tokens that it wrote."""


class Difference(Record):
    """The first difference between a record and its rerun."""

    step: int | None
    """Position of the step, from 0; None for the answer."""
    part: str
    """The part that differs: ``proposal``, ``decision``, ``step``, ``answer`` or ``number of steps``."""
    token: int | None
    """Position of the first token that differs, from 0; None where the difference is not in tokens."""
    recorded: str
    """The recorded value."""
    again: str
    """The value of the rerun."""


class Rerun(Record):
    """The result of a rerun."""

    steps: int
    """Steps of the rerun."""
    tokens: int
    """Tokens of the rerun, in steps and answer."""
    difference: Difference | None
    """The first difference; None when all tokens are the same."""
    changed_engines: list[Engine]
    """Roles whose engine differs from the recorded one: weights, vocabulary, number format, kind, version or device."""
    caveats: list[str]
    """Why a rerun of a correct record may differ: what the engines and the clock do not promise."""

    @property
    def ok(self) -> bool:
        """Whether all tokens are the same."""
        return self.difference is None


def rerun(run: RecordedRun, pair: EnginePair) -> Rerun:
    """Run a recorded run again, in memory, and compare it token by token; recorded reviews are given again.

    Raises `ThreadError` when the run is damaged or not finished.
    """
    if not check_readable(run).finished:
        raise ThreadError(f"run {run.run!r} is not finished", hint="resume it first")
    # A fork at step 0 has the recorded question, settings and seed. A run that is a fork itself starts after the steps
    # that it took over, because another run decided those.
    lineage = run.typed_manifest.forked_from
    graph = create_specreason(pair).compile(checkpointer=InMemorySaver())
    config = fork(graph, "again", plan_fork(run, pair, at=lineage.step if lineage else 0))
    outcome = graph.invoke(None, config)
    while "__interrupt__" in outcome:
        outcome = graph.invoke(Command(resume=_review(run, outcome["__interrupt__"][0].value)), config)
    steps = [Step.load(step) for step in outcome["trace"]]
    answer = Answer.load(graph.get_state({"configurable": {"thread_id": "again"}}).values["result"])
    return Rerun(
        steps=len(steps), tokens=sum(len(step.token_ids) for step in steps) + len(answer.token_ids),
        difference=_first_difference(run, steps, answer), changed_engines=changed_engines(run, pair),
        caveats=caveats(run, pair),
    )  # fmt: skip


def changed_engines(run: RecordedRun, pair: EnginePair) -> list[Engine]:
    """Return the roles whose engine differs from the recorded one."""
    fields = ("weights", "vocabulary", "dtype", "engine", "engine_version", "device")
    recorded, now = run.typed_manifest.engines, pair.describe()
    return [role for role in recorded if any(getattr(recorded[role], f) != getattr(now[role], f) for f in fields)]


def caveats(run: RecordedRun, pair: EnginePair) -> list[str]:
    """Return the reasons why a rerun may give other tokens although the record is correct."""
    engines = pair.describe()
    found = [f"the {role} engine ({engines[role].engine}) {why}" for role in engines if (why := _why(engines[role]))]
    config = run.typed_manifest.config
    if config.deadline_seconds is not None:
        found.append(f"the run had a deadline of {config.deadline_seconds:g} s, and time is not repeated")
    if config.step_seconds is not None:
        found.append(f"a step was to take {config.step_seconds:g} s, and time is not repeated")
    if config.speculation_control or any(step.decision.goodput for step in run.steps):
        found.append("whether to draft went by the clock, and time is not repeated")
    if any(step.decision.reason == "draft_failed" for step in run.steps):
        found.append("the draft engine had failed, and failures are not repeated")
    return found


def _why(engine: EngineDescription) -> str | None:
    """Return why an engine may generate other tokens from the same seed; None where it never does."""
    if engine.engine == "fake" or (engine.engine == "transformers" and engine.device == "cpu"):
        return None
    if engine.engine == "transformers":
        return f"does not promise the same rounding on {engine.device}"
    if engine.options.get("batch_invariant"):
        return None
    return "does not promise the same rounding when other requests are in its batch or its cache differs"


def _review(run: RecordedRun, asked: Plain) -> Plain | str:
    """Return the recorded review; where no human was asked, return what the score decides."""
    index = asked["index"]
    review = run.steps[index].decision.review if index < len(run.steps) else None
    if review:
        return {name: value for name, value in review.dump().items() if value is not None}
    return "accept" if asked["decision"]["accepted"] else "reject"


def _first_difference(run: RecordedRun, steps: list[Step], answer: Answer) -> Difference | None:
    for mine, theirs in zip(run.steps, steps, strict=False):
        found = _of_step(mine, theirs)
        if found:
            return found
    if len(run.steps) != len(steps):
        return _differ(min(len(run.steps), len(steps)), "number of steps", len(run.steps), len(steps))
    return _tokens(None, "answer", _written(run.answer), _written(answer))


def _of_step(mine: Step, theirs: Step) -> Difference | None:
    found = _tokens(mine.index, "proposal", _written(mine.discarded), _written(theirs.discarded))
    if found is None and mine.decision.reason != theirs.decision.reason:
        found = _differ(mine.index, "decision", mine.decision.reason, theirs.decision.reason)
    return found or _tokens(mine.index, "step", _written(mine), _written(theirs))


def _written(text: Any) -> Tokens:
    return (text.author, text.token_ids) if text else ("nobody", [])


def _tokens(step: int | None, part: str, mine: Tokens, theirs: Tokens) -> Difference | None:
    if mine == theirs:
        return None
    pairs = list(zip(mine[1], theirs[1], strict=False))
    at = next((index for index, (one, other) in enumerate(pairs) if one != other), len(pairs))
    one, other = [f"{author}, token {ids[at] if at < len(ids) else 'none'}" for author, ids in (mine, theirs)]
    return _differ(step, part, one, other, at)


def _differ(step: int | None, part: str, recorded: object, again: object, token: int | None = None) -> Difference:
    return Difference(step=step, part=part, token=token, recorded=str(recorded), again=str(again))
