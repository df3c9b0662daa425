"""Rescore: the base model scores recorded proposals again, from the recorded token ids."""

from __future__ import annotations

import math
from functools import partial

from specreason_graph.audit.check.rerun import changed_engines
from specreason_graph.audit.read.recorded import RecordedRun, check_readable
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import ThreadError
from specreason_graph.lookahead.step_sampler import StepSampler
from specreason_graph.lookahead.tree import SpeculationNode
from specreason_graph.policies.acceptance import decide
from specreason_graph.record.records import Engine, Proposal, Record, Score, Step, Usage
from specreason_graph.record.standing import standing
from specreason_graph.strategy import Judge


class Rescored(Record):
    """One proposal that was scored again."""

    step: int
    """Position of the step, from 0."""
    recorded: float
    """The recorded score as one number, on the judge's scale."""
    now: float
    """The new one."""
    drift: float
    """Largest change of a digit's or token's probability, 0 to 1."""
    flipped: bool
    """Whether the new score would change the decision."""


class Rescoring(Record):
    """The result of scoring a run again."""

    steps: list[Rescored]
    """All steps that have a score; of a fork, those that it did not take over."""
    changed_engines: list[Engine]
    """Roles whose engine differs from the recorded one."""

    @property
    def drift(self) -> float:
        """The largest drift of all steps; 0 where nothing was scored."""
        return max((step.drift for step in self.steps), default=0.0)

    @property
    def flipped(self) -> list[int]:
        """Positions of the steps whose decision would change, from 0."""
        return [step.step for step in self.steps if step.flipped]


def rescore(run: RecordedRun, pair: EnginePair) -> Rescoring:
    """Score again the proposal that each decision was about; the engines of ``pair`` need the recorded vocabularies.

    Steps that a fork took over are left out: perhaps another model scored them, in another prompt. Raises `ThreadError`
    when the run is damaged or an engine has another vocabulary.
    """
    check_readable(run)
    recorded, now = run.typed_manifest.engines, pair.describe()
    for role in recorded:
        if recorded[role].vocabulary != now[role].vocabulary:
            raise ThreadError(
                f"the token ids of run {run.run!r} mean something else to {now[role].model!r}, the {role} model given",
                hint=f"name the {role} model it was run with, {recorded[role].model!r}",
            )
    return Rescoring(steps=pair.run(lambda: _ask(run, pair)), changed_engines=changed_engines(run, pair))


async def _ask(run: RecordedRun, pair: EnginePair) -> list[Rescored]:
    # The steps go in order, because each prompt extends the one before and is mostly in the engine's prefix cache.
    manifest = run.typed_manifest
    sampler = StepSampler.create(pair, manifest.settings)
    judge = manifest.config.judge_in_force
    root = partial(SpeculationNode.root, sampler.prompts, manifest.head_ids, manifest.question)
    node, found = root(), []
    for step in run.steps:
        if step.score and step.index >= manifest.taken_over:
            found.append(_compare(step, await sampler.score(node, _proposal(step)), judge))
        steps = [step]
        if step.taken_back:
            node, steps = root(), standing(run.steps[: step.index + 1])
        for each in steps:
            node = sampler.after(node, each)
            node.commit()  # the places before are not needed
        node.index = step.index + 1
    return found


def _proposal(step: Step) -> Proposal:
    """Return what was scored, with what the draft told of it: the draft is not asked again."""
    score = step.score
    assert score is not None  # noqa: S101 - the caller passes only steps that have a score
    told = {"logprobs": score.draft_logprobs, "entropies": score.draft_entropies}
    if step.discarded:
        return step.discarded.model_copy(update=told)
    names = ("author", "token_ids", "text", "ending", "seed")
    return Proposal(**{name: getattr(step, name) for name in names}, usage=Usage(), **told)


def _compare(step: Step, now: Score, judge: Judge) -> Rescored:
    recorded = step.score
    assert recorded is not None  # noqa: S101 - the caller passes only steps that have a score
    if recorded.prompt_tokens != now.prompt_tokens:
        raise ThreadError(
            f"step {step.index + 1} was scored in a prompt of {recorded.prompt_tokens} tokens, but its record gives a "
            f"prompt of {now.prompt_tokens}",
            hint="verify the run",
        )
    then, again = decide(recorded, judge), decide(now, judge)
    return Rescored(
        step=step.index, recorded=then.number or 0.0, now=again.number or 0.0, drift=_drift(recorded, now),
        flipped=then.accepted != again.accepted,
    )  # fmt: skip


def _drift(one: Score, other: Score) -> float:
    """Return the largest change of a digit's or token's probability; other evidence has no common measure."""
    changes = [0.0]
    for name in ("digit_logprobs", "base_logprobs"):
        before, after = getattr(one, name), getattr(other, name)
        if before is not None and after is not None:
            changes += [abs(math.exp(a) - math.exp(b)) for a, b in zip(before, after, strict=True)]
    return max(changes)
