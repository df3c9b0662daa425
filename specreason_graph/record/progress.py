"""A run under way: how far it has come, and the step in flight."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from specreason_graph.record.records import (
    Alternative,
    Cost,
    Decision,
    Goodput,
    Plain,
    ProbedAnswer,
    Proposal,
    Record,
    Score,
    Step,
    StopReason,
    formerly,
)
from specreason_graph.record.standing import standing
from specreason_graph.record.summary import seconds_of


class Progress(Record):
    """Running totals, and what the next step goes by."""

    run: str = ""
    """Names the run."""
    steps: int = 0
    """Committed steps."""
    thinking_tokens: int = 0
    """Committed tokens."""
    seconds: float = 0.0
    """Wall-clock seconds of work on all committed steps."""
    reserve: float = 0.0
    """Seconds kept for the answer, where there is a deadline."""
    slo_ratio: float = Field(default=0.0, validation_alias=formerly("slo_ratio", "lateness"))
    """Seconds that a step took lately over those it may take; above 1 the run is late, 0 where there is no limit."""
    repeats: int = 0
    """How often the text of the last step stands in the trace; steps that were taken back do not count."""
    settled: int = 0
    """How many probed answers in a row, the last one among them, were the same."""
    tokens_left: int = Field(default=0, validation_alias=formerly("tokens_left", "room"))
    """Tokens left for steps before the context of either engine is full."""
    draft_failed: bool = False
    """Whether the draft engine has failed for good; the base model goes on alone."""
    goodput: Goodput | None = None
    """Figures by which the base model writes the next step without asking the draft; None asks the draft."""
    handover: str | None = None
    """Why the run's writer has the base write the next step without asking the draft; None asks the draft."""
    stop_reason: StopReason | None = None
    """Why the thinking has ended; None while it goes on."""

    @property
    def base_only(self) -> bool:
        """Whether the next step is the base model's whatever the writer says: the draft failed, or does not pay."""
        return self.draft_failed or self.goodput is not None


def settled_with(step: Step, before: ProbedAnswer | None, settled: int) -> int:
    """How many probed answers in a row are the same, with a step's behind ``settled`` that ended with ``before``.

    Where steps are taken back the same place is asked again, and counting begins anew.
    """
    probe = step.probe
    if probe is None or not probe.text.strip():
        return 0
    same = before is not None and before.text.strip() == probe.text.strip() and not step.taken_back
    return settled + 1 if same else 1


def _settled(steps: Sequence[Step]) -> int:
    found, before = 0, None
    for step in steps:
        found, before = settled_with(step, before, found), step.probe
    return found


def totals_of(steps: Sequence[Step], before: Progress) -> Progress:
    """What the totals are once a run has ended: all that its steps tell, and of ``before`` its name and stop reason."""
    if not steps:
        return Progress(run=before.run, stop_reason=before.stop_reason)
    texts, last = [step.text.strip() for step in standing(steps)], steps[-1]
    return Progress(
        run=before.run, steps=len(steps), thinking_tokens=sum(len(step.token_ids) for step in steps),
        settled=_settled(steps), seconds=sum(map(seconds_of, steps)), reserve=last.reserve or 0.0,
        repeats=texts.count(texts[-1]), tokens_left=last.tokens_left or 0,
        draft_failed=last.decision.reason == "draft_failed", stop_reason=before.stop_reason,
    )  # fmt: skip


class Pending(Record):
    """The step in flight, as far as it has come; all at its defaults between two steps."""

    proposal: Proposal | None = None
    """What the draft wrote; the best of several once they were scored."""
    alternatives: list[Alternative] = Field(default_factory=list)
    """The other versions that it wrote."""
    scorable: bool = Field(default=False, validation_alias=formerly("scorable", "judgeable"))
    """Whether there is something to score, and room to do it in."""
    error: str | None = None
    """What the draft engine failed with."""
    score: Score | None = None
    """The judge's evidence for the proposal."""
    decision: Decision | None = None
    """What follows from it, or what a human said."""
    needs_review: bool = Field(default=False, validation_alias=formerly("needs_review", "uncertain"))
    """Whether a human is to settle it."""
    problem: str = ""
    """What was wrong with the human's last answer, who is asked again; empty where nothing was."""
    seconds: float = 0.0
    """Wall-clock seconds that the step took before a human was asked."""
    wasted: list[Cost] = Field(default_factory=list, validation_alias=formerly("wasted", "lost"))
    """Speculative work that was thrown away for it before a human was asked."""

    def dump(self) -> Plain:
        """The plain dictionary, without what is at its default: most fields are, in each of many checkpoints."""
        return {name: value for name, value in super().dump().items() if value != _EMPTY[name]}


_EMPTY = Pending().model_dump(mode="json")
