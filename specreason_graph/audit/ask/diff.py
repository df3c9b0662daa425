"""Comparison of two runs: their aligned steps, the first difference, the authors and the costs."""

from __future__ import annotations

from specreason_graph.audit.ask.alignment import align
from specreason_graph.audit.read.recorded import RecordedRun, check_readable
from specreason_graph.record.records import Record
from specreason_graph.record.summary import summarise


class ComparedSteps(Record):
    """One row of the comparison."""

    one: int | None
    """Position of the step in the first run, from 0; None where that run has no step in this row."""
    other: int | None
    """Position of the step in the second run, from 0; None where that run has no step in this row."""
    same: bool
    """Whether both texts are the same."""


class Side(Record):
    """Totals of one of the runs."""

    thread_id: str
    """Thread of the run."""
    run: str
    """Name of the run."""
    steps: int
    """Committed steps."""
    by_draft: int
    """Committed steps that the draft model wrote."""
    by_base: int
    """Committed steps that the base model wrote."""
    by_human: int
    """Committed steps that a human wrote."""
    generated_tokens: int
    """Generated tokens, those of discarded proposals and of the answer included."""
    discarded_tokens: int
    """Tokens of the draft model in discarded proposals."""
    seconds: float
    """Seconds of engine work."""
    answer: str | None
    """The answer's text; None while there is none."""


class Comparison(Record):
    """The comparison of two runs."""

    one: Side
    """Totals of the first run."""
    other: Side
    """Totals of the second run."""
    rows: list[ComparedSteps]
    """The aligned steps."""
    first_divergence: int | None
    """Position of the first step that differs in author or tokens, from 0; None when all steps are the same."""

    @property
    def same(self) -> bool:
        """Whether steps and answer are the same."""
        return self.first_divergence is None and self.one.answer == self.other.answer


def compare(one: RecordedRun, other: RecordedRun) -> Comparison:
    """Compare two runs, finished or not; raise `ThreadError` when a record is damaged."""
    mine, theirs = check_readable(one).steps, check_readable(other).steps
    rows = [ComparedSteps(one=left, other=right, same=same) for left, right, same in align(mine, theirs)]
    # Stricter than the rows, which compare texts: two runs may write the same text with other tokens or authors.
    written = [[(step.author, step.token_ids, step.text) for step in steps] for steps in (mine, theirs)]
    first = next((at for at, both in enumerate(zip(*written, strict=False)) if both[0] != both[1]), None)
    if first is None and len(mine) != len(theirs):
        first = min(len(mine), len(theirs))
    return Comparison(one=_side(one), other=_side(other), rows=rows, first_divergence=first)


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
