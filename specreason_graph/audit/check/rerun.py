"""Running a recorded run again, with its seeds, beside the record and not in it."""

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
"""Who wrote something, and its tokens."""


class Difference(Record):
    """Where a run that was run again first went another way."""

    step: int | None
    """Position of the step, from 0; None for the answer."""
    part: str
    """What differs: the ``proposal``, the ``decision``, the ``step``, the ``answer`` or the ``number of steps``."""
    token: int | None
    """Position of the first token that differs, from 0; None where it is not about tokens."""
    recorded: str
    """What the record says."""
    again: str
    """What came out now."""


class Rerun(Record):
    """What came of running again."""

    steps: int
    """Steps of the run as it went now."""
    tokens: int
    """Tokens that were compared."""
    difference: Difference | None
    """The first difference; None when all tokens are the same."""
    changed_engines: list[Engine]
    """Engines that are not the ones that were recorded: other weights, vocabulary, number format, kind or version."""
    caveats: list[str]
    """Why an honest run may come out differently: what the engines do not promise."""

    @property
    def ok(self) -> bool:
        """Whether all tokens are the same."""
        return self.difference is None


def rerun(run: RecordedRun, pair: EnginePair) -> Rerun:
    """Run everything again, in memory, and compare token by token; the reviews of humans are given as recorded.

    `ThreadError` when the run is damaged or not finished.
    """
    if not check_readable(run).finished:
        raise ThreadError(f"run {run.run!r} is not finished", hint="resume it first")
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
    """Roles that are played by something else than in the record."""
    fields = ("weights", "vocabulary", "dtype", "engine", "engine_version", "device")
    recorded, now = run.typed_manifest.engines, pair.describe()
    return [role for role in recorded if any(getattr(recorded[role], f) != getattr(now[role], f) for f in fields)]


def caveats(run: RecordedRun, pair: EnginePair) -> list[str]:
    """What stands against the same tokens coming out again."""
    engines = pair.describe()
    found = [f"the {role} engine ({engines[role].engine}) {why}" for role in engines if (why := _why(engines[role]))]
    config = run.typed_manifest.config
    if config.deadline_seconds is not None:
        found.append(f"the run had a deadline of {config.deadline_seconds:g} s, and time is not repeated")
    if config.step_seconds is not None:
        found.append(f"a step was to take {config.step_seconds:g} s, and time is not repeated")
    if config.speculation_control:
        found.append("whether to draft went by the clock, and time is not repeated")
    if any(step.decision.reason == "draft_failed" for step in run.steps):
        found.append("the draft engine had failed, and failures are not repeated")
    return found


def _why(engine: EngineDescription) -> str | None:
    """Why an engine may write other tokens from the same seed; None where it promises not to."""
    if engine.engine == "fake" or (engine.engine == "transformers" and engine.device == "cpu"):
        return None
    if engine.engine == "transformers":
        return f"does not promise the same rounding on {engine.device}"
    if engine.options.get("batch_invariant"):
        return None
    return "does not promise the same rounding when other requests are in its batch or its cache differs"


def _review(run: RecordedRun, asked: Plain) -> Plain | str:
    """What the human said then; where none was asked, the score decides."""
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
    recorded = run.answer
    return _tokens(None, "answer", _spoken(recorded), _spoken(answer))


def _of_step(mine: Step, theirs: Step) -> Difference | None:
    found = _tokens(mine.index, "proposal", _spoken(mine.discarded), _spoken(theirs.discarded))
    if found is None and mine.decision.reason != theirs.decision.reason:
        found = _differ(mine.index, "decision", mine.decision.reason, theirs.decision.reason)
    return found or _tokens(mine.index, "step", _spoken(mine), _spoken(theirs))


def _spoken(said: Any) -> Tokens:
    return (said.author, said.token_ids) if said else ("nobody", [])


def _tokens(step: int | None, part: str, mine: Tokens, theirs: Tokens) -> Difference | None:
    if mine == theirs:
        return None
    pairs = list(zip(mine[1], theirs[1], strict=False))
    at = next((place for place, (one, other) in enumerate(pairs) if one != other), len(pairs))
    one, other = [f"{author}, token {ids[at] if at < len(ids) else 'none'}" for author, ids in (mine, theirs)]
    return _differ(step, part, one, other, at)


def _differ(step: int | None, part: str, recorded: object, again: object, token: int | None = None) -> Difference:
    return Difference(step=step, part=part, token=token, recorded=str(recorded), again=str(again))
