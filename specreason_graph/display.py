"""What a notebook shows of a run: how it ended, its answer, and a short table of its steps. Model text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from specreason_graph.record.records import Plain, Step
from specreason_graph.record.summary import Summary

FIRST, LAST = 8, 3
"""Steps that are shown of a long trace: so many from its start, and from its end."""
CHARACTERS = 300
"""Most characters that are shown of a step."""
TEXT = 'style="text-align:left;white-space:pre-wrap"'


class ShownOutcome(dict[str, Any]):
    """What a run ends with: a mapping as any other, which notebooks show as a table."""

    def _repr_html_(self) -> str:
        trace, summary = self.get("trace") or [], self.get("trace_summary")
        return run_html(
            trace,
            self.get("answer") or "",
            str(self.get("stop_reason") or ""),
            Summary.load(summary) if summary else None,
        )


def run_html(
    trace: Sequence[Plain], answer: str, stop_reason: str, summary: Summary | None = None
) -> str:  # fmt: skip
    """A run as HTML: its steps as `records.Step` dumps them, its answer, and why the thinking ended.

    Without a stop reason it is one that waits for a human, or was interrupted.
    """
    gone = {position for step in trace for position in Step.load(step).taken_back} if _takes_back(trace) else set()
    places = range(len(trace))
    ends = places if len(trace) <= FIRST + LAST + 1 else (*places[:FIRST], *places[-LAST:])
    rows = [_row(Step.load(trace[place]), gone) for place in ends]
    if len(rows) < len(trace):
        rows.insert(FIRST, f'<tr><td></td><td colspan="4">{len(trace) - len(rows)} more steps</td></tr>')
    head = "<tr><th>step</th><th>author</th><th>score</th><th>why</th><th style='text-align:left'>text</th></tr>"
    table = f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>" if rows else ""
    said = f"<p {TEXT}><b>{escape(answer)}</b></p>" if answer else ""
    return f"<div>{said}<p>{escape(_ended(len(trace), stop_reason, summary))}</p>{table}</div>"


def _takes_back(trace: Sequence[Plain]) -> bool:
    """Whether a decision in the trace took steps back; told without a look at their tokens."""
    return any(step["decision"].get("taken_back") for step in trace)


def _row(step: Step, gone: set[int]) -> str:
    score = step.decision.figure
    why = step.decision.reason.replace("_", " ") + (" (taken back later)" if step.index in gone else "")
    text = step.text.strip()
    text = text if len(text) <= CHARACTERS else text[:CHARACTERS] + "\N{HORIZONTAL ELLIPSIS}"
    cells = (str(step.index + 1), step.author, score, why)
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}<td {TEXT}>{escape(text)}</td></tr>"


def _ended(steps: int, stop_reason: str, summary: Summary | None) -> str:
    """One line about how it ended and what it took."""
    parts = [stop_reason.replace("_", " ") or "not finished", f"{steps} steps"]
    if summary and summary.proposals:
        parts.append(f"{summary.accepted} of {summary.proposals} proposals accepted")
    if summary and summary.elapsed is not None:
        parts.append(f"{summary.elapsed:.1f} s of thinking")
    return " \N{MIDDLE DOT} ".join(parts)
