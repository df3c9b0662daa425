"""Whether the writer hands the next step over to the base model, and what rules know of the steps before."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from specreason_graph.config import SpecReasonConfig
from specreason_graph.errors import ConfigError
from specreason_graph.json_values import why_not_kept
from specreason_graph.policies.acceptance import DIGIT
from specreason_graph.record.records import UNASKED, Decision, Proposal, Score, Step, StepLike
from specreason_graph.strategy import PastStep


def handover(config: SpecReasonConfig, trail: Sequence[PastStep]) -> str | None:
    """The writer's kind and why it has the base write behind ``trail``; None where the draft may be asked.

    The first steps by the base are not the writer's choice. Raises `ConfigError` for a reason that is no text.
    """
    if len(trail) < config.first_steps_by_base:
        return None
    writer = config.writer
    why = writer.handover(trail)
    if why is None:
        return None
    problem = why_not_kept(why, "its reason") if isinstance(why, str) else f"its reason is {why!r}"
    if problem:
        raise ConfigError(f"the writer {writer.kind!r}: {problem}", hint="return a text, or None to ask the draft")
    return f"{writer.kind}: {why}"


def past_step(step: Step) -> PastStep:
    """What rules know of a committed step."""
    told, decision = step.score.draft_logprobs if step.score and step.author == "draft" else None, step.decision
    return PastStep(
        step.author, decision.reason not in UNASKED, step.text.strip(), _mean(told), decision.number,
        _judge(decision), decision.review is not None,
    )  # fmt: skip


def rejected_step(proposal: Proposal, score: Score, decision: Decision) -> PastStep:
    """The same of a proposal that was scored and does not get in."""
    told = _mean(score.draft_logprobs)
    return PastStep(proposal.author, True, proposal.text.strip(), told, decision.number, _judge(decision))  # noqa: FBT003


def _judge(decision: Decision) -> str | None:
    """Whose number a decision goes by."""
    return None if decision.number is None else decision.judge or DIGIT


def expected_step(step: StepLike, *, asked: bool) -> PastStep:
    """The same of a step that may be committed; ``asked``: whether the draft is asked for it."""
    told = step.logprobs if isinstance(step, Proposal) else None
    return PastStep(step.author, asked, step.text.strip(), _mean(told))


def _mean(numbers: Sequence[float] | None) -> float | None:
    return fmean(numbers) if numbers else None
