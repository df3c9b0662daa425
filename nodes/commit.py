"""Appending a step to the trace: the only way in, for ``accept`` and ``regenerate`` alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specreason_graph.lookahead.lookahead import Lookahead
from specreason_graph.nodes.message_stream import MessageStream
from specreason_graph.nodes.stage import Stage, emit
from specreason_graph.policies.deadlines import slo_ratio
from specreason_graph.policies.end_of_thinking import stop_reason
from specreason_graph.policies.handover import handover, past_step
from specreason_graph.policies.speculation import is_controlled
from specreason_graph.prompting.answer_stream import plain_reply, settled
from specreason_graph.record.events import AnswerToken
from specreason_graph.record.progress import Pending, Progress, settled_with
from specreason_graph.record.records import Cost, Decision, Goodput, Plain, ProbedAnswer, Proposal, Step
from specreason_graph.record.seal import head_of, seal_step
from specreason_graph.record.state import State
from specreason_graph.record.summary import seconds_of


def commit(
    stage: Stage,
    state: State,
    lookahead: Lookahead,
    written: Proposal,
    decision: Decision,
    probe: ProbedAnswer | None,
) -> tuple[Step, dict[str, Any]]:
    """The next step, whose text is ``written``, and the changes of the state that append it.

    ``probe``: what the base would have answered in front of it, where the stopping rule asks.
    """
    pending, node = Pending.load(state.get("pending") or {}), lookahead.node
    wasted, elapsed = lookahead.settle(written)
    deadline = stage.config.deadline_seconds
    step = Step(
        index=node.index, author=written.author, text=written.text, token_ids=written.token_ids,
        ending=written.ending, seed=written.seed, decision=decision, score=pending.score,
        discarded=None if decision.accepted else pending.proposal, alternatives=pending.alternatives,
        costs=[*costs_of(pending, written, probe=probe), *wasted], probe=probe, elapsed=elapsed,
        reserve=None if deadline is None else lookahead.estimates.answer_seconds,
        tokens_left=stage.sampler.after(node, written).tokens_left, change=lookahead.take_change(),
    )  # fmt: skip
    # sealed in the form that is checkpointed: the hash covers exactly what an auditor will read
    sealed = seal_step(step.dump(), head_of(state["manifest"], state["trace"]))
    step = step.model_copy(update={"hash": sealed["hash"]})
    reply = [*(each["text"] for each in state["trace"]), step.text] if stage.sampler.prompts.is_plain else None
    progress = _progress(stage, Progress.load(state["progress"]), lookahead, step, reply)
    lookahead.commit(step, progress)
    return step, {"trace": [sealed], "pending": {}, "progress": progress.dump()}


def emit_reply(stage: Stage, state: State, committed: Sequence[Plain]) -> None:
    """Emit what committed steps add to the reply: to a plain one as far as nothing later can change it."""
    prompts, config = stage.sampler.prompts, stage.config
    message, trace = MessageStream(state), [*state["trace"], *committed]
    if not prompts.is_plain:
        message.steps(trace)
        return
    form = prompts.of(config.answer_by).tool_format
    old, new = [settled(plain_reply(steps), config.stop, form) for steps in (state["trace"], trace)]
    if len(new) > len(old):
        emit(AnswerToken(text=new[len(old) :]))
        message.text(new, trace)


def _progress(
    stage: Stage, before: Progress, lookahead: Lookahead, step: Step, reply: Sequence[str] | None
) -> Progress:  # fmt: skip
    """How far the run is with one more step."""
    config, registry = stage.config, stage.registry
    counted = before.model_copy(
        update={
            "steps": step.index + 1, "thinking_tokens": before.thinking_tokens + len(step.token_ids),
            "seconds": before.seconds + seconds_of(step), "reserve": step.reserve or 0.0,
            "settled": settled_with(step, lookahead.last_probe, before.settled),
            "repeats": 1 + lookahead.repeats(step.text), "tokens_left": step.tokens_left or 0,
            "draft_failed": step.decision.reason == "draft_failed",
        }
    )  # fmt: skip
    ratio = slo_ratio(
        config, counted, step_seconds=lookahead.estimates.step_seconds, average_steps=registry.average_steps
    )
    stop = stop_reason(step, counted, config, reply=reply)
    goes_on = not (stop or counted.draft_failed)
    handed = handover(config, (*lookahead.node.trail, past_step(step))) if goes_on else None
    drafts_next = goes_on and handed is None and counted.steps >= config.first_steps_by_base
    goodput = _goodput(stage, step, drafts_next=drafts_next)
    return counted.model_copy(
        update={"slo_ratio": ratio, "stop_reason": stop, "goodput": goodput, "handover": handed}
    )  # fmt: skip


def _goodput(stage: Stage, step: Step, *, drafts_next: bool) -> Goodput | None:
    """The figures by which the base writes the next step alone, where there is a choice."""
    registry = stage.registry
    if not is_controlled(stage.config, registry.runs):
        return None
    # counted also where the next step has no choice: every step is a measurement of its arm
    registry.controller.committed(step, registry.runs)
    return registry.controller.figures_for_base(registry.runs) if drafts_next else None


def costs_of(
    pending: Pending, written: Proposal | None = None, *, probe: ProbedAnswer | None = None, wasted: bool = False
) -> list[Cost]:  # fmt: skip
    """What a step took, the work on its other versions included; ``wasted`` where it does not come to be."""
    costs = []
    if pending.proposal:
        usage = sum((each.proposal.usage for each in pending.alternatives), pending.proposal.usage)
        costs.append(Cost(engine="draft", purpose="draft", usage=usage, wasted=wasted))
    if pending.score:
        usage = sum((each.score.usage for each in pending.alternatives if each.score), pending.score.usage)
        costs.append(Cost(engine="base", purpose="score", usage=usage, wasted=wasted))
    if written and written.author == "base":
        costs.append(Cost(engine="base", purpose="regenerate", usage=written.usage))
    if probe:
        costs.append(Cost(engine="base", purpose="probe", usage=probe.usage))
    return costs
