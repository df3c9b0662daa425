"""Two runs side by side: aligned steps, where they part, who wrote them, what they took."""

from __future__ import annotations

from specreason_graph.audit.ask.alignment import align
from specreason_graph.audit.read.recorded import RecordedRun, check_readable
from specreason_graph.record.records import Record
from specreason_graph.record.summary import summarise


class ComparedSteps(Record):
    """Two steps that stand side by side."""

    one: int | None
    """Position in the one run, from 0; None where it has no such step."""
    other: int | None
    """Position in the other."""
    same: bool
    """Whether both wrote the same."""


class Side(Record):
    """Totals of one of the runs."""

    thread_id: str
    """Its thread."""
    run: str
    """Names it."""
    steps: int
    """Committed steps."""
    by_draft: int
    """Steps of the draft model."""
    by_base: int
    """Steps of the base model."""
    by_human: int
    """Steps of a human."""
    generated_tokens: int
    """Tokens that were written, discarded ones and the answer included."""
    discarded_tokens: int
    """Tokens of the draft model that were thrown away."""
    seconds: float
    """Engine seconds."""
    answer: str | None
    """The text for the user; None while there is none."""


class Comparison(Record):
    """Two runs, compared."""

    one: Side
    """The one."""
    other: Side
    """The other."""
    rows: list[ComparedSteps]
    """Their steps, aligned."""
    first_divergence: int | None
    """Position of the first step that differs in author or tokens; None when the steps are the same."""

    @property
    def same(self) -> bool:
        """Whether steps and answer are the same."""
        return self.first_divergence is None and self.one.answer == self.other.answer


def compare(one: RecordedRun, other: RecordedRun) -> Comparison:
    """Compare two runs, finished or not; `ThreadError` when a record is damaged."""
    mine, theirs = check_readable(one).steps, check_readable(other).steps
    rows = [ComparedSteps(one=left, other=right, same=same) for left, right, same in align(mine, theirs)]
    spoken = [[(step.author, step.token_ids, step.text) for step in steps] for steps in (mine, theirs)]
    parted = next((at for at, both in enumerate(zip(*spoken, strict=False)) if both[0] != both[1]), None)
    if parted is None and len(mine) != len(theirs):
        parted = min(len(mine), len(theirs))
    return Comparison(one=_side(one), other=_side(other), rows=rows, first_divergence=parted)


def _side(run: RecordedRun) -> Side:
    summary = summarise(run.steps, run.answer)
    authors = [step.author for step in run.steps]
    return Side(
        thread_id=run.thread_id, run=run.run, steps=len(run.steps), by_draft=authors.count("draft"),
        by_base=authors.count("base"), by_human=authors.count("human"),
        generated_tokens=sum(cost.usage.generated_tokens for cost in summary.costs),
        discarded_tokens=summary.discarded.generated_tokens, seconds=summary.seconds,
        answer=run.answer.text if run.answer else None,
    )  # fmt: skip
