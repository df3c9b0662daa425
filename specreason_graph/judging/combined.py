"""Judges made of judges. What a part does not need is not asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from specreason_graph.judging.asking import Asking
from specreason_graph.policies.seeds import uniform
from specreason_graph.record.records import Score
from specreason_graph.strategy import AnyJudge, Judge, Verdict, register


class Combined(Judge):
    """A judge made of others: its own threshold is that of its last part."""

    threshold: Any = None  # each part has its own, and a run's ``threshold`` is the last part's

    @model_validator(mode="after")
    def _has_none(self) -> Self:
        if self.threshold is not None:
            raise ValueError(f"the {self.kind} judge has no threshold of its own; set those of its parts")
        return self

    @property
    def own_parts(self) -> tuple[Judge, ...]:
        """The judges that it is made of, in their order."""
        raise NotImplementedError

    def with_parts(self, parts: tuple[Judge, ...]) -> Self:
        """The same with other parts, in the order of `own_parts`."""
        raise NotImplementedError

    def parts(self) -> Iterator[Judge]:
        """Itself, and all judges that it is made of."""
        yield self
        for part in self.own_parts:
            yield from part.parts()

    is_combined: ClassVar = True

    @property
    def may_need(self) -> frozenset[str]:
        """All evidence that a part may ask for."""
        return frozenset[str]().union(*(part.may_need for part in self.own_parts))

    @property
    def scale_in_force(self) -> tuple[float, float]:
        """The scale of the last part."""
        return self.own_parts[-1].scale_in_force

    @property
    def trials_in_force(self) -> tuple[float, ...]:
        """The trials of the last part."""
        return self.own_parts[-1].trials_in_force

    @property
    def accepts_from(self) -> float:
        """The threshold of the last part."""
        return self.own_parts[-1].accepts_from

    def with_threshold(self, threshold: float) -> Self:
        """The same with another threshold of the last part."""
        *others, last = self.own_parts
        return self.with_parts((*others, last.with_threshold(threshold)))

    def number(self, score: Score) -> float:
        """The number that decides."""
        return self.decide(score).number


class _FirstThen(Combined):
    first: AnyJudge
    """Who is asked first."""
    then: AnyJudge
    """Who decides on what the first one does not settle."""

    @property
    def own_parts(self) -> tuple[Judge, ...]:
        """First, then the next."""
        return self.first, self.then

    def with_parts(self, parts: tuple[Judge, ...]) -> Self:
        """The same with other parts."""
        return self.model_copy(update={"first": parts[0], "then": parts[1]})


@register
class Cascade(_FirstThen):
    """A cheap judge first; only what it is in doubt about goes to the next one (ConfSpec, arXiv 2602.18447).

    With an empty band, ``low`` equal to ``high``, it is its first judge under that threshold.
    """

    kind: Literal["cascade"] = "cascade"
    """Names the judge."""
    low: Annotated[float, Field(allow_inf_nan=False)]
    """Number of the first judge under which a proposal is rejected at once."""
    high: Annotated[float, Field(allow_inf_nan=False)]
    """Number of the first judge from which it is accepted at once."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low = {self.low:g} is above high = {self.high:g}; swap them")
        return self

    def wants(self, score: Score) -> str | None:
        """What the first judge lacks, and in doubt what the next one does."""
        return self.first.wants(score) or (None if self._settled(score) else self.then.wants(score))

    def decide(self, score: Score) -> Verdict:
        """As the first judge says outside the band, else as the next one does."""
        return self._settled(score) or self.then.decide(score)

    def _settled(self, score: Score) -> Verdict | None:
        number, kind = self.first.number(score), self.first.kind
        if number >= self.high:
            return Verdict(accepted=True, number=number, threshold=self.high, kind=kind)
        return Verdict(accepted=False, number=number, threshold=self.low, kind=kind) if number < self.low else None


@register
class Sample(_FirstThen):
    """What a cheap judge is sure of is let in without asking the next one, but for one in ``one_in``.

    The idea is that of Paging with Succinct Predictions (Antoniadis et al., ICML 2023): one bit that may be wrong saves
    work, at a loss that is bounded. Here the sampled steps bound the share of the others that the next judge would have
    rejected. Who is sampled is drawn from the run's seed and the step's index, so an auditor draws the same.
    """

    kind: Literal["sample"] = "sample"
    """Names the judge."""
    sure: Annotated[float, Field(allow_inf_nan=False)]
    """Number of the first judge from which it is sure of a step."""
    one_in: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """One in so many of the steps that it is sure of goes to the next judge all the same."""

    @model_validator(mode="after")
    def _draws_once(self) -> Self:
        if any(part.kind == self.kind for judge in self.own_parts for part in judge.parts()):
            raise ValueError("a sample of a sample would draw both with one number; name other judges in it")
        return self

    async def measure(self, asking: Asking) -> float:
        """A number from 0 to below 1, drawn for the step; it is sampled where this is less than 1 / ``one_in``."""
        return uniform(asking.seed, asking.index)

    def wants(self, score: Score) -> str | None:
        """What the first judge lacks; the draw where it is sure; else what the next judge does."""
        if wanted := self.first.wants(score):
            return wanted
        if self.is_sure(score) and not score.has(self.kind):
            return self.kind
        return self.then.wants(score) if self._asks(score) else None

    def decide(self, score: Score) -> Verdict:
        """As the next judge says where it is asked; else the step is let in."""
        if self._asks(score):
            return self.then.decide(score)
        return Verdict(accepted=True, number=self.first.number(score), threshold=self.sure, kind=self.first.kind)

    def is_sure(self, score: Score) -> bool:
        """Whether the first judge is sure of a step."""
        return self.first.number(score) >= self.sure

    def is_sampled(self, score: Score) -> bool:
        """Whether a step of which the first judge is sure goes to the next one all the same."""
        return bool(score.found[self.kind] * self.one_in < 1)

    def _asks(self, score: Score) -> bool:
        return not self.is_sure(score) or self.is_sampled(score)


class _Several(Combined):
    judges: Annotated[tuple[AnyJudge, ...], Field(min_length=1)]
    """Who is asked, the cheapest first."""
    settles: ClassVar[bool]
    """The verdict of one judge after which the others are not asked."""

    @property
    def own_parts(self) -> tuple[Judge, ...]:
        """All of them."""
        return self.judges

    def with_parts(self, parts: tuple[Judge, ...]) -> Self:
        """The same with other parts."""
        return self.model_copy(update={"judges": parts})

    def wants(self, score: Score) -> str | None:
        """What the first judge lacks that has not decided yet."""
        for judge in self.judges:
            if wanted := judge.wants(score):
                return wanted
            if judge.decide(score).accepted is self.settles:
                return None
        return None

    def decide(self, score: Score) -> Verdict:
        """The verdict of the first judge that settles it, else that of the last one."""
        for judge in self.judges[:-1]:
            verdict = judge.decide(score)
            if verdict.accepted is self.settles:
                return verdict
        return self.judges[-1].decide(score)


@register
class AllOf(_Several):
    """Accepts what all judges accept; asked in their order, until one rejects."""

    settles: ClassVar = False
    kind: Literal["all_of"] = "all_of"
    """Names the judge."""


@register
class AnyOf(_Several):
    """Accepts what one of the judges accepts; asked in their order, until one does."""

    settles: ClassVar = True
    kind: Literal["any_of"] = "any_of"
    """Names the judge."""
