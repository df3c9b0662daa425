"""A step as the pages show it: its versions side by side, and the judge's digits as bars."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from specreason_graph.audit.show.text_diff import Segment, difference, unmarked
from specreason_graph.record.records import Author, Proposal, Score, Step

CHART_HEIGHT = 30


class Version(NamedTuple):
    """One text of a step."""

    title: str
    """Whose it is, and what became of it."""
    author: Author
    """Who wrote it."""
    kept: bool
    """Whether it was committed."""
    segments: list[Segment]
    """The text, with what differs from the other version marked."""
    empty: str
    """What to say where there is no text."""


class DigitBar(NamedTuple):
    """The probability of one digit, or of everything else."""

    label: str
    """The digit; ``≠`` for everything that is none."""
    share: float
    """Its probability, 0 to 1."""
    enough: bool
    """Whether the digit reaches the threshold."""
    height: float
    """Height of the bar, 0 to `CHART_HEIGHT`."""


@dataclass(frozen=True)
class StepView:
    """One step, or the place of one that cannot be read."""

    index: int
    """Position in the trace, from 0."""
    step: Step | None
    """The record; None where it is damaged."""
    problems: tuple[str, ...] = ()
    """What is wrong with it."""
    inherited: bool = False
    """Whether it was taken over from another run."""

    @property
    def number(self) -> int:
        """The step as people count, from 1."""
        return self.index + 1

    @cached_property
    def tags(self) -> list[str]:
        """What the step can be filtered by, besides its score."""
        if self.step is None:
            return ["damaged"]
        human = self.step.author == "human" or self.step.decision.review is not None
        found = {"rejected": self.step.discarded is not None, "human": human, "damaged": bool(self.problems)}
        return [tag for tag, holds in found.items() if holds]

    @property
    def seconds(self) -> float:
        """Seconds that engines worked for it."""
        return sum(cost.usage.seconds for cost in self.step.costs) if self.step else 0.0

    @cached_property
    def versions(self) -> list[Version]:
        """The version that lost, where there was one, and the committed one."""
        if self.step is None:
            return []
        lost, step = self.step.discarded, self.step
        if lost is None:
            return [_version(step, unmarked(step.text.rstrip()))]
        theirs, ours = difference(lost.text.rstrip(), step.text.rstrip())
        return [_version(lost, theirs), _version(step, ours, same=lost.text == step.text)]

    @cached_property
    def digits(self) -> list[DigitBar]:
        """The judge's distribution."""
        return digit_bars(self.step.score, self.step.decision.threshold) if self.step and self.step.score else []


def digit_bars(score: Score, threshold: float) -> list[DigitBar]:
    """A bar for each digit and one for what is no digit."""
    shares = [math.exp(min(0.0, logprob)) for logprob in score.digit_logprobs]
    bars = [_bar(str(digit), share, enough=digit >= threshold) for digit, share in enumerate(shares)]
    return [*bars, _bar("≠", min(1.0, max(0.0, score.other_mass)), enough=False)]


def _bar(label: str, share: float, *, enough: bool) -> DigitBar:
    return DigitBar(label, share, enough, round(share * CHART_HEIGHT, 1))


def _version(written: Step | Proposal, segments: list[Segment], *, same: bool = False) -> Version:
    kept = isinstance(written, Step)
    title = f"{written.author.capitalize()}'s version, {'committed' if kept else 'discarded'}"
    if same and segments:
        title += ", word for word the same"
    empty = "(ends the thinking)" if written.closes_thinking else "(no text)"
    return Version(title, written.author, kept, segments, empty)
