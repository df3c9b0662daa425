"""Whether the draft's step means what the base would have written (Lookahead Reasoning, arXiv 2506.19830)."""

from __future__ import annotations

import math
import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from specreason_graph.engines.base import pick
from specreason_graph.judging.asking import Asking, Measured
from specreason_graph.record.records import Score, Usage
from specreason_graph.strategy import Judge, register

VERSION = "{version}"


@register
class CompareJudge(Judge):
    """The base writes its own version of the step, and says whether both mean the same.

    A rejected step is that version, so it is written once. For an accepted one the base has written a whole step, which
    is counted as wasted: this judge saves time only where the base has time to write beside the draft.
    """

    needs: ClassVar = ("compare",)
    scale: ClassVar = (0.0, 1.0)
    trials: ClassVar = tuple(twentieth / 20 for twentieth in range(21))
    kind: Literal["compare"] = "compare"
    """Names the judge."""
    threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5
    """Probability of "same" from which a proposal is accepted; that of equal texts is 1."""
    by: Literal["exact", "base"] = "base"
    """Who compares: ``exact`` takes texts for the same that differ in spaces, case and the form of numbers only; with
    ``base`` the base model is asked about the others."""
    instruction: Annotated[str, Field(min_length=1)] = (
        f"Another version of the last reasoning step: {VERSION}\n"
        "Do both say the same and come to the same result? Answer same or different."
    )
    """User turn put behind the trace; the version takes the place of ``{version}``."""
    prefill: str = "Answer:"
    """Start of the base's reply."""
    same: Annotated[str, Field(min_length=1)] = " same"
    """How the reply goes on where both mean the same."""
    different: Annotated[str, Field(min_length=1)] = " different"
    """How it goes on where they do not."""

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        if VERSION not in self.instruction:
            raise ValueError(f"the instruction has no {VERSION}")
        if self.same.startswith(self.different) or self.different.startswith(self.same):
            raise ValueError(f"same = {self.same!r} and different = {self.different!r} begin the same")
        return self

    async def measure(self, asking: Asking) -> Measured:
        """The base's version, whether the texts are the same, and else how the base answers."""
        written, usage = await asking.regenerate()
        exact = plain(written.text) == plain(asking.proposal.text)
        told = {"version": written.text, "exact": exact}
        if self.by == "base" and not exact and written.text.strip():
            logprobs, other_mass, more = await self._ask(asking, written.text.strip())
            told, usage = {**told, "logprobs": logprobs, "other_mass": other_mass}, usage + more
        return Measured(told, usage)

    async def _ask(self, asking: Asking, version: str) -> tuple[list[float] | None, float | None, Usage]:
        """Log-probabilities of both answers, by the first token in which they differ; None where there is no room."""
        base, instruction = asking.base, self.instruction.replace(VERSION, version)
        yes, no = (
            base.prompts.follow_up_ids(instruction, self.prefill + answer) for answer in (self.same, self.different)
        )
        begun = next(at for at, (one, other) in enumerate(zip(yes, no, strict=False)) if one != other)
        prompt, answers = [*base.before_ids, *base.step_ids, *yes[:begun]], [yes[begun], no[begun]]
        if len(prompt) >= base.engine.context:
            return None, None, Usage()
        found = await base.engine.next_token(prompt, answers)
        logprobs, _ = pick(found.logprobs, answers, base.engine.name, chosen=True)
        return list(logprobs.values()), found.other_mass, found.usage

    def number(self, score: Score) -> float:
        """1 for the same text, else the probability of "same" against "different"; 0 where nobody was asked."""
        found = score.found["compare"]
        if found["exact"] or not found.get("logprobs"):
            return float(found["exact"])
        same, different = found["logprobs"]
        return 1 / (1 + math.exp(min(different - same, 700.0)))


def plain(text: str) -> list[str]:
    """The words and signs of a text, with numbers in one form: 1,200.50 is 1200.5."""
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text.casefold().strip().rstrip("."))
    text = re.sub(r"(\.\d*?)0+(?!\d)", lambda match: match[1].rstrip("."), text)
    return re.findall(r"\d+(?:\.\d+)?|[^\W\d]+|[^\w\s]", text)
