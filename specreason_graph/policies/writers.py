"""Who writes the next step: the draft whenever it may, or the base model where the steps before call for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Annotated, Literal

from pydantic import Field

from specreason_graph.strategy import AnyWriter, PastStep, Writer, register

CUES = (
    "wait", "hmm", "alternatively", "hold on", "let me check", "let me verify", "let me double-check",
    "let me think again",
)  # fmt: skip
Steps = Annotated[int, Field(ge=1, lt=2**31)]


@register
class DraftWriter(Writer):
    """The draft is asked for every step (SpecReason, arXiv 2504.07891)."""

    kind: Literal["draft"] = "draft"
    """Names the writer."""

    def handover(self, trail: Sequence[PastStep]) -> str | None:  # noqa: ARG002
        """Never."""
        return None


@register
class CuesWriter(Writer):
    """Reflection words hand the next steps over to the base model (Speculative Thinking, arXiv 2504.12329).

    Only steps for which the draft was asked count: what the base writes on a cue is no cue.
    """

    kind: Literal["cues"] = "cues"
    """Names the writer."""
    words: Annotated[tuple[Annotated[str, Field(pattern=r"\S")], ...], Field(min_length=1)] = CUES
    """Words or phrases with which a step reflects, in any case."""
    where: Literal["start", "anywhere"] = "start"
    """Where in a step they are looked for."""
    steps: Steps = 1
    """How many steps the base writes on a cue."""

    def handover(self, trail: Sequence[PastStep]) -> str | None:
        """The cue in one of the last steps."""
        pattern = _pattern(self.words, anywhere=self.where == "anywhere")
        for past in reversed(trail[-self.steps :]):
            if past.asked and (found := pattern.search(past.text)):
                return " ".join(found[1].casefold().split())
        return None


@cache
def _pattern(words: tuple[str, ...], *, anywhere: bool) -> re.Pattern[str]:
    phrases = "|".join(r"\s+".join(map(re.escape, phrase.split())) for phrase in words)
    before = r"(?<!\w)" if anywhere else r"\A\W*"
    return re.compile(rf"{before}({phrases})(?!\w)", re.IGNORECASE)


@register
class TriggersWriter(Writer):
    """The base model plans, and takes over where the draft is too sure or goes in circles (TrigReason, 2604.14847)."""

    kind: Literal["triggers"] = "triggers"
    """Names the writer."""
    plan_steps: Annotated[int, Field(ge=0, lt=2**31)] = 2
    """How many steps at the start the base writes."""
    confident_above: Annotated[float, Field(le=0, allow_inf_nan=False)] | None = -0.02
    """Mean log-probability of a step's tokens under the draft, in nats, above which it is too sure; None never is."""
    confident_steps: Steps = 4
    """How many of the draft's steps in a row must be too sure; the base then writes one."""
    loop_steps: Annotated[int, Field(ge=0, lt=2**31)] = 8
    """How many steps the last one is compared with; where it repeats one the base writes the next."""
    loop_similarity: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of words that two steps have in common from which one repeats the other."""

    def handover(self, trail: Sequence[PastStep]) -> str | None:
        """The first trigger that there is."""
        if len(trail) < self.plan_steps:
            return "plan"
        if self._is_confident(trail):
            return "overconfidence"
        return next((f"loop, as in step {number}" for number in self._repeated(trail)), None)

    @property
    def may_need(self) -> frozenset[str]:
        """The draft's probabilities, where they count."""
        return frozenset[str]() if self.confident_above is None else frozenset({"confidence"})

    def _is_confident(self, trail: Sequence[PastStep]) -> bool:
        limit, last = self.confident_above, trail[-self.confident_steps :]
        if limit is None or len(last) < self.confident_steps:
            return False
        return all(past.author == "draft" and past.logprob is not None and past.logprob > limit for past in last)

    def _repeated(self, trail: Sequence[PastStep]) -> Iterator[int]:
        """Numbers, from 1, of the steps that the last one repeats."""
        if not trail or not trail[-1].asked:  # the base has had its turn
            return
        *before, last = [set(past.text.casefold().split()) for past in trail[-self.loop_steps - 1 :]]
        for number, words in enumerate(before, len(trail) - len(before)):
            if words and len(words & last) >= self.loop_similarity * len(words | last):
                yield number


@register
class AfterRejectionWriter(Writer):
    """After a rejection the base model goes on writing until a probe of the draft is accepted.

    Acceptance has two states: on public traces of AIME problems 93% of the steps behind an accepted one were accepted,
    and 26% of those behind a rejected one.
    """

    kind: Literal["after_rejection"] = "after_rejection"
    """Names the writer."""
    probe_every: Steps = 3
    """How many steps behind a rejection, and behind each probe that was rejected, the draft is asked again."""

    def handover(self, trail: Sequence[PastStep]) -> str | None:
        """The last step for which the draft was asked, if it did not get in and the next probe is not due."""
        for steps, past in enumerate(reversed(trail[-self.probe_every :]), 1):
            if past.asked:
                rejected = past.author != "draft" and steps < self.probe_every
                return f"step {len(trail) - steps + 1} was rejected" if rejected else None
        return None


@register
class SeveralWriters(Writer):
    """Several writers in one: the base model writes where any of them says so."""

    kind: Literal["several"] = "several"
    """Names the writer."""
    writers: Annotated[tuple[AnyWriter, ...], Field(min_length=1)]
    """Who is asked, in this order."""

    def handover(self, trail: Sequence[PastStep]) -> str | None:
        """Who says so first, and why."""
        said = ((writer.kind, writer.handover(trail)) for writer in self.writers)
        return next((f"{kind}: {why}" for kind, why in said if why is not None), None)

    @property
    def may_need(self) -> frozenset[str]:
        """All that one of them may need."""
        return frozenset[str]().union(*(writer.may_need for writer in self.writers))
