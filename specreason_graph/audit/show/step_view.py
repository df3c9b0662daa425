"""The view of a step for the pages: its versions side by side, and the judge's digits as bars."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from markupsafe import Markup

from specreason_graph.audit.show.markup import rendered
from specreason_graph.audit.show.prompts import Prompt
from specreason_graph.audit.show.text_diff import Segment, difference, unmarked
from specreason_graph.audit.show.tokens import Decode
from specreason_graph.audit.show.visible import visible
from specreason_graph.record.records import Author, Decision, Engine, Proposal, Score, Step

CHART_HEIGHT = 30
LINE = 90.0
GIST = 64
"""Most characters of a step in the outline."""
MARKS = re.compile(r"(?m)`+|^\s*(?:#+|-) (?=[^\W\d])|(?<![\w)])\*\*(?=[^\W\d])|(?<=[^\W\d.:!?])\*\*(?![\w(])")
"""Marks of Markdown around words, which the outline leaves out; those in arithmetic stay."""


class Version(NamedTuple):
    """One version of a step's text."""

    title: str
    """Title that names the author and says whether the version was committed."""
    author: Author
    """Author of the version."""
    kept: bool
    """Whether the version was committed."""
    segments: list[Segment]
    """The text in segments that are marked where they differ from the other version."""
    empty: str
    """Text to show where the version has no text."""
    html: Markup | None
    """The text rendered; None where it has no markup."""


class DigitBar(NamedTuple):
    """The probability of one digit, or of all tokens that are no digit."""

    label: str
    """The digit; ``≠`` for all tokens that are no digit."""
    share: float
    """The probability, 0 to 1."""
    enough: bool
    """Whether the digit reaches the threshold."""
    height: float
    """Height of the bar, 0 to `CHART_HEIGHT`."""


class ScoreBar(NamedTuple):
    """A number and its threshold on a line."""

    fill: float
    """Where the number is, 0 to `LINE`."""
    tick: float
    """Where the threshold is, likewise."""


class TokenBar(NamedTuple):
    """How likely a model finds one token."""

    height: float
    """Its probability, 0 to `CHART_HEIGHT`."""
    title: str
    """It in words."""
    text: str | None
    """Its text; None where no tokenizer is at hand."""

    @property
    def level(self) -> int:
        """Its probability in fifths, 0 to 4."""
        return min(4, int(5 * self.height / CHART_HEIGHT))


class TokenChart(NamedTuple):
    """How likely a model finds each token of a proposal."""

    model: str
    """The model."""
    bars: list[TokenBar]
    """One for each token."""
    lowest: float
    """The lowest probability, 0 to 1."""

    @property
    def width(self) -> int:
        """Width of the chart; a bar takes 4."""
        return 4 * len(self.bars)

    @property
    def has_texts(self) -> bool:
        """Whether the texts of the tokens are known."""
        return all(each.text is not None for each in self.bars)


@dataclass(frozen=True)
class StepView:
    """One step, which may be damaged."""

    index: int
    """Position in the trace, from 0."""
    step: Step | None
    """The record; None where it cannot be read."""
    problems: tuple[str, ...] = ()
    """What is wrong with the record."""
    change: str = ""
    """What was different from this step on, where the run was resumed with other engines or prompts."""
    inherited: bool = False
    """Whether the step was taken over from another run."""
    gone_at: int | None = None
    """Position of the later step that took it back; None where it stands."""
    prompts: tuple[Prompt, ...] = ()
    """What the prompts of its calls were put together from."""
    decoders: Mapping[Engine, Decode] = field(default_factory=dict)
    """How token ids are read, by the role whose they are."""
    shares_vocabulary: bool = False
    """Whether the draft's token ids are the base's, too."""

    @property
    def gist(self) -> str:
        """The beginning of the text, for the outline."""
        if self.step is None:
            return "(cannot be read)"
        line = " ".join(MARKS.sub("", self.step.text[: 3 * GIST]).split())
        return f"{line[:GIST].rstrip()}…" if len(line) > GIST else line or "(ends the thinking)"

    @property
    def number(self) -> int:
        """Number of the step for people, from 1."""
        return self.index + 1

    @cached_property
    def tags(self) -> list[str]:
        """The filters that show this step, besides the one for low scores."""
        if self.step is None:
            return ["damaged"]
        human = self.step.author == "human" or self.step.decision.review is not None
        found = {
            "rejected": self.step.discarded is not None, "human": human, "damaged": bool(self.problems),
            "taken-back": self.gone_at is not None,
        }  # fmt: skip
        return [tag for tag, holds in found.items() if holds]

    @property
    def seconds(self) -> float:
        """Seconds of engine work for the step."""
        return sum(cost.usage.seconds for cost in self.step.costs) if self.step else 0.0

    @cached_property
    def versions(self) -> list[Version]:
        """The discarded version, if there is one, and the committed version."""
        if self.step is None:
            return []
        discarded, step = self.step.discarded, self.step
        if discarded is None:
            return [_version(step, unmarked(step.text.rstrip()))]
        theirs, ours = difference(discarded.text.rstrip(), step.text.rstrip())
        return [_version(discarded, theirs), _version(step, ours, same=discarded.text == step.text)]

    @cached_property
    def digits(self) -> list[DigitBar]:
        """The judge's distribution over the digits."""
        return digit_bars(self.step.score, self.step.decision.threshold) if self.step and self.step.score else []

    @cached_property
    def charts(self) -> list[TokenChart]:
        """How likely the models find the proposal, token by token."""
        proposal = (self.step.discarded or self.step) if self.step else None
        ids = proposal.token_ids if proposal else []
        score = self.step.score if self.step else None
        entropies = (score.draft_entropies if score else None) or []
        return [
            _token_chart(
                model,
                logprobs,
                ids if model == "draft" or self.shares_vocabulary else [],
                self.decoders.get("draft"),
                entropies if model == "draft" else [],
            )
            for model, logprobs in self._logprobs.items()
        ]

    @property
    def sums(self) -> list[tuple[str, float]]:
        """The log-probability of the whole proposal, by model."""
        return [(f"log-probability under the {model}", sum(each)) for model, each in self._logprobs.items()]

    @property
    def _logprobs(self) -> dict[str, list[float]]:
        score = self.step.score if self.step else None
        told = {"base": score.base_logprobs, "draft": score.draft_logprobs} if score else {}
        return {model: logprobs for model, logprobs in told.items() if logprobs}


def score_bar_of(decision: Decision) -> ScoreBar:
    """Where number and threshold are drawn; on scales without ends the threshold is in the middle."""
    number, threshold = decision.number or 0.0, decision.threshold
    if decision.judge is None:
        return ScoreBar(round(min(9.0, max(0.0, number)) * LINE / 9, 1), round(threshold * LINE / 9, 1))
    away = math.tanh((number - threshold) / (1 + abs(threshold)))
    return ScoreBar(round(LINE / 2 * (1 + away), 1), LINE / 2)


def _token_chart(
    model: str, logprobs: Sequence[float], ids: Sequence[int], decode: Decode | None, entropies: Sequence[float]
) -> TokenChart:
    """Chart what a model told; ``ids``: the proposal's, where the model reads them as the draft does."""
    shares = [math.exp(min(0.0, each)) for each in logprobs]
    is_same = len(ids) == len(shares)
    bars = []
    for at, share in enumerate(shares):
        text = decode([ids[at]]) if decode and is_same else None
        title = f"token {at + 1}{f', {text!r}' if text is not None else ''}{f', id {ids[at]}' if is_same else ''}"
        more = f", entropy {entropies[at]:.2f} nats" if at < len(entropies) else ""
        bars.append(TokenBar(round(share * CHART_HEIGHT, 1), f"{title}: {share:.1%}{more}", text))
    return TokenChart(model, bars, min(shares))


def digit_bars(score: Score, threshold: float) -> list[DigitBar]:
    """Return a bar for each digit, and one for all tokens that are no digit; none where no digit was asked for."""
    if score.digit_logprobs is None:
        return []
    # A damaged record may hold any numbers: they are cut to probabilities.
    shares = [math.exp(min(0.0, logprob)) for logprob in score.digit_logprobs]
    bars = [_bar(str(digit), share, enough=digit >= threshold) for digit, share in enumerate(shares)]
    return [*bars, _bar("≠", min(1.0, max(0.0, score.other_mass or 0.0)), enough=False)]


def _bar(label: str, share: float, *, enough: bool) -> DigitBar:
    return DigitBar(label, share, enough, round(share * CHART_HEIGHT, 1))


def _version(written: Step | Proposal, segments: list[Segment], *, same: bool = False) -> Version:
    kept = isinstance(written, Step)
    title = f"{written.author.capitalize()}'s version, {'committed' if kept else 'discarded'}"
    if same and segments:
        title += ", word for word the same"
    empty = "(ends the thinking)" if written.closes_thinking else "(no text)"
    return Version(title, written.author, kept, segments, empty, rendered(visible(written.text.rstrip())))
