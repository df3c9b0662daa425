"""Rules of when the thinking ends, besides the models' own word and the limits of a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from specreason_graph.record.progress import Progress
from specreason_graph.record.records import Proposal, Step, StopReason
from specreason_graph.strategy import Probe, Stopping, register


@register
class UntilClosed(Stopping):
    """The models end the thinking, or a limit does."""

    kind: Literal["closed"] = "closed"
    """Names the rule."""


@register
class SettledAnswer(Stopping):
    """Ends the thinking once the answer no longer changes (early exit).

    In front of each step the base is asked for its answer, as if the thinking were over; that answer is evidence and
    nothing else. On MATH-500 reasoning models are right long before they stop: the idea is that of SpecExit (arXiv
    2509.24248), whose signals come from a trained head; here the answers themselves are compared.
    """

    kind: Literal["settled"] = "settled"
    """Names the rule."""
    agree: Annotated[int, Field(ge=2, le=100)] = 3
    """How many probes in a row have to give the same answer."""
    tokens: Annotated[int, Field(ge=1, le=256)] = 24
    """Most tokens of a probe."""
    prefill: str = ""
    """How the probed answer begins, as in ``The final answer is \\boxed{``, so that it comes to the point at once."""
    until: Annotated[str, Field(min_length=1)] = "\n"
    """Text that ends a probe, as in ``}``."""

    @property
    def probe(self) -> Probe:
        """What is asked."""
        return Probe(tokens=self.tokens, prefill=self.prefill, until=self.until)

    def ends(self, last: Step | Proposal, progress: Progress) -> StopReason | None:  # noqa: ARG002
        """``answer_settled`` once enough probes in a row gave one answer."""
        return "answer_settled" if progress.settled >= self.agree else None


@register
class Words(Stopping):
    """Ends the thinking behind a step that has one of some texts in it, as the code of SpecReason does."""

    kind: Literal["words"] = "words"
    """Names the rule."""
    words: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = (
        "boxed", "Answer:", "ANSWER:",
    )  # fmt: skip
    """The texts."""

    def ends(self, last: Step | Proposal, progress: Progress) -> StopReason | None:  # noqa: ARG002
        """``stopping_rule`` behind such a step."""
        return "stopping_rule" if any(word in last.text for word in self.words) else None
