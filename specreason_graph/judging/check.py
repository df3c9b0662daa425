"""Arithmetic inside a step, checked by a library and by no model (the idea is START's, arXiv 2503.04625)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from specreason_graph.judging.asking import Asking
from specreason_graph.judging.statements import statements
from specreason_graph.record.records import Score
from specreason_graph.strategy import Judge, register


@register
class CheckJudge(Judge):
    """Computes the equations and comparisons in a step, and by default rejects only what is wrong; it costs no call.

    0 where a statement is wrong, 1 where all that were checked hold, 0.5 where there is nothing to check.
    """

    needs: ClassVar = ("check",)
    scale: ClassVar = (0.0, 1.0)
    trials: ClassVar = (0.0, 0.5, 1.0)
    kind: Literal["check"] = "check"
    """Names the judge."""
    threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5
    """Number from which a proposal is accepted; 1 asks for a statement that holds."""

    async def measure(self, asking: Asking) -> list[dict[str, Any]]:
        """Each statement that could be read, and whether it holds."""
        return checked(asking.proposal.text)

    def number(self, score: Score) -> float:
        """0, 0.5 or 1."""
        found = score.found["check"]
        return float(all(each["holds"] for each in found)) if found else 0.5


def checked(text: str) -> list[dict[str, Any]]:
    """The evidence about a text: each statement that could be read, and whether it holds."""
    return [{"statement": each.text, "holds": each.holds} for each in statements(text)]
