"""Forks: a new thread that goes on from any step of a recorded run, whose own thread is not touched."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig

from specreason_graph.audit.read.recorded import RecordedRun, check_readable
from specreason_graph.config import overridden
from specreason_graph.engines.pair import EnginePair
from specreason_graph.errors import RecordError, ThreadError
from specreason_graph.graph import CompiledSpecReason
from specreason_graph.json_values import why_not_kept
from specreason_graph.judging.digit import DigitJudge
from specreason_graph.lookahead.step_sampler import StepSampler
from specreason_graph.nodes.prepare import make_manifest
from specreason_graph.policies.acceptance import DIGIT, decide_reviewed
from specreason_graph.policies.end_of_thinking import stop_reason
from specreason_graph.policies.handover import handover, past_step
from specreason_graph.prompting.conversation import messages_of
from specreason_graph.prompting.engine_prompts import as_step
from specreason_graph.prompting.pair_prompts import ROLES, PairPrompts
from specreason_graph.record.channels import converse
from specreason_graph.record.manifest import Judged, Lineage, Manifest
from specreason_graph.record.progress import Progress, totals_of
from specreason_graph.record.records import Engine, Plain, Proposal, Review, Step, Usage
from specreason_graph.record.seal import head_of, is_sealed, seal_step
from specreason_graph.record.standing import standing
from specreason_graph.record.state import begin


def fork(graph: CompiledSpecReason, thread_id: str, channels: Plain) -> RunnableConfig:
    """Begin a new thread of ``graph`` with the ``channels`` of `plan_fork`, and return its config.

    ``graph.invoke(None, config)`` or ``graph.stream(None, config)`` goes on from there. Raises `ThreadError` when the
    thread exists already, because a fork never writes to an existing thread.
    """
    config: RunnableConfig = {"configurable": {"thread_id": thread_id}}
    _check_new(graph.get_state(config).created_at, thread_id)
    graph.update_state(config, channels, as_node="prepare")
    return config  # not update_state's result: it names this checkpoint, and every later resume would start from it


async def afork(graph: CompiledSpecReason, thread_id: str, channels: Plain) -> RunnableConfig:
    """Do the same as `fork`, for an asynchronous checkpointer."""
    config: RunnableConfig = {"configurable": {"thread_id": thread_id}}
    _check_new((await graph.aget_state(config)).created_at, thread_id)
    await graph.aupdate_state(config, channels, as_node="prepare")
    return config


def plan_fork(
    run: RecordedRun, pair: EnginePair, *, at: int, edit: Review | None = None, **settings: Any
) -> dict[str, Any]:
    """Return the channels of a new run that takes over the first ``at`` steps of ``run``.

    ``pair``: the engines that the new run will use, the same or others; they must be open. ``settings``: fields of
    `SpecReasonConfig` that override those of the run. ``edit``: a review with the verdict ``edit``, whose text replaces
    the last step that is taken over. Raises `ThreadError` when the run has fewer steps, and `RecordError` when its
    record is not as it was written.
    """
    steps = check_readable(run).steps
    if not is_sealed(run.manifest, run.trace):
        raise RecordError(f"run {run.run!r} is not as it was written", hint="verify shows all that was found")
    if not 0 <= at <= len(steps):
        raise ThreadError(f"step {at} is not in run {run.run!r}", hint=f"choose 0 to {len(steps)}")
    if edit and (edit.verdict != "edit" or not edit.text or not at):
        raise ThreadError("an edit needs a text and a step that it takes the place of", hint="fork at 1 or later")
    if edit and (problem := why_not_kept(dict(edit), "the edit")):
        raise ThreadError(problem, hint="take it out")
    sampler = StepSampler.create(pair, overridden(run.typed_manifest.settings, settings))
    taken = [_in_vocabulary_of(sampler.prompts, step, run) for step in steps[:at]]
    if edit:
        taken[-1] = _edited(sampler.prompts, taken[-1], edit)
    turns, by_messages = run.typed_manifest.turns, run.typed_manifest.asked_by_messages
    said = converse([], [messages_of(turns)]) if by_messages else []
    manifest = make_manifest(
        sampler, turns, messages=said, asked_by_messages=by_messages,
        forked_from=_lineage(run, at, edited=edit is not None),
    )  # fmt: skip
    begun = begin(manifest, at_once=sampler.prompts.answers_at_once)
    return {**_channels(sampler.prompts, begun, taken), **({"messages": said} if said else {})}


def _check_new(created: str | None, thread_id: str) -> None:
    if created:
        raise ThreadError(f"thread {thread_id!r} exists", hint="name a new one")


def _lineage(run: RecordedRun, at: int, *, edited: bool) -> Lineage:
    return Lineage(
        thread_id=run.thread_id, namespace=run.namespace, run=run.run, step=at, edited=edited,
        head=head_of(run.manifest, run.trace[: at - edited]),  # an edited step is not in the old ledger
        judges=_judges(run.typed_manifest, at),
    )  # fmt: skip


def _judges(manifest: Manifest, at: int) -> list[Judged]:
    """Return who decided on the first ``at`` steps; nothing where it was the digit alone."""
    before = manifest.forked_from.judges if manifest.forked_from else []
    if not before and manifest.taken_over:  # what names nobody was decided by the digit
        before = [Judged(until=manifest.taken_over, judge=DigitJudge())]
    found = [each for each in before if each.until < at]
    found.append(next((each for each in before if each.until >= at), Judged(until=at, judge=manifest.config.judge)))
    found[-1] = found[-1].model_copy(update={"until": at})
    return [] if all(each.judge.kind == DIGIT for each in found) else found


def _in_vocabulary_of(prompts: PairPrompts, step: Step, run: RecordedRun) -> Step:
    """Return the step with token ids of the engine that plays its author now; its text is encoded again if need be."""
    role: Engine = "draft" if step.author == "draft" else "base"
    vocabulary = prompts.of(role).vocabulary
    if vocabulary.fingerprint == run.typed_manifest.engines[role].vocabulary:
        return step
    return step.model_copy(update={"token_ids": vocabulary.encode(step.text)})


def _edited(prompts: PairPrompts, step: Step, edit: Review) -> Step:
    """Return the step with a human's text, and with the evidence of the step that it replaces."""
    drafted = step.discarded
    if step.author == "draft":
        fields = {name: getattr(step, name) for name in ("author", "token_ids", "text", "ending", "seed")}
        usage = next((cost.usage for cost in step.costs if cost.purpose == "draft"), Usage())
        drafted = Proposal(**fields, usage=usage)
    ending = step.ending if step.closes_thinking else "blank_line"
    text = as_step(str(edit.text))
    decision = decide_reviewed(step.decision.model_copy(update={"review": None}), edit)
    return step.model_copy(
        update={
            "author": "human", "text": text, "token_ids": prompts.base.vocabulary.encode(text), "ending": ending,
            "decision": decision, "discarded": drafted,
        }
    )  # fmt: skip


def _channels(prompts: PairPrompts, begun: Plain, taken: list[Step]) -> dict[str, Any]:
    """Return the channels of a run that has begun and holds these steps."""
    manifest, trace = begun["manifest"], list[Plain]()
    for step in taken:  # the ledger of a fork is a chain of its own, from its own manifest on
        trace.append(seal_step(step.model_copy(update={"hash": None}).dump(), head_of(manifest, trace)))
    progress = _progress(prompts, manifest, taken)
    reason = begun["progress"]["stop_reason"]
    if taken:
        reply = [step.text for step in taken] if prompts.is_plain else None
        reason = stop_reason(taken[-1], progress, prompts.config, reply=reply)
    trail = [past_step(step) for step in standing(taken)]
    handed = None if reason or progress.draft_failed else handover(prompts.config, trail)
    last = {"stop_reason": reason, "handover": handed}
    return {**begun, "trace": trace, "progress": progress.model_copy(update=last).dump()}


def _progress(prompts: PairPrompts, manifest: Plain, taken: list[Step]) -> Progress:
    """Return the totals of a run that begins with these steps."""
    run = manifest["run"]
    if not taken:
        return Progress(run=run)
    thinking = {role: prompts.thinking_ids(role, manifest["head_ids"][role], standing(taken)) for role in ROLES}
    left = [prompts.capacities[role] - len(ids) for role, ids in thinking.items()]
    return totals_of(taken, Progress(run=run)).model_copy(update={"tokens_left": min(left)})
