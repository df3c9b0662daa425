"""Arithmetic and code inside a step, checked by libraries and by no model (the idea is START's, arXiv 2503.04625)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from specreason_graph.judging.asking import Asking
from specreason_graph.judging.code import code_statements
from specreason_graph.judging.statements import LONGEST_STEP, MOST, statements
from specreason_graph.record.records import Score
from specreason_graph.strategy import Judge, register


@register
class CheckJudge(Judge):
    """Computes what a step states about numbers and Python code, and by default rejects only what is wrong; no call.

    Equations and comparisons are computed, fenced Python is parsed, and pure expressions are held against the values
    that the step gives them: in assertions, remarks, sessions (``>>>``), and within a sentence. No code is run.

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
    found, prose = code_statements(text[:LONGEST_STEP])
    return [{"statement": each.text, "holds": each.holds} for each in [*found, *statements(prose)][:MOST]]
