"""A run as it is shown on a terminal, made of the events that it tells."""

from __future__ import annotations

import typer

from specreason_graph.events import Accepted, AnswerToken, Event, Finished, Regenerated
from specreason_graph.policies import seconds_of
from specreason_graph.records import Answer, Step, StopReason
from specreason_graph.summary import Summary

COLOURS = {"draft": typer.colors.GREEN, "base": typer.colors.YELLOW, "human": typer.colors.CYAN}
NOTES = {
    "score_reaches_threshold": "",
    "score_below_threshold": "draft rejected: ",
    "first_steps_by_base": "first steps are the base's",
    "proposal_ends_thinking": "draft would end the thinking",
    "proposal_is_blank": "draft wrote nothing",
    "proposal_too_long": "draft left the judge no room",
    "drafting_does_not_pay": "drafting does not pay",
    "base_is_timed": "timing the base model",
    "draft_failed": "the draft engine failed",
    "accepted_by_reviewer": "accepted by a human",
    "rejected_by_reviewer": "rejected by a human: ",
    "written_by_reviewer": "in the place of: ",
}


class LiveView:
    """Prints what it is shown: ``show(read_event(part))`` for each part of a custom stream, from any graph."""

    def __init__(self) -> None:
        self.finished = False
        self._answering = False

    def show(self, event: Event | None) -> None:
        """A step as a line once it is settled, the answer as it is written, and what it took."""
        match event:
            case Accepted() | Regenerated():
                self.step(event.step)
            case AnswerToken():
                typer.echo("" if self._answering else "\n", nl=False)
                typer.echo(printable(event.text), nl=False)
                self._answering = True
            case Finished():
                typer.echo("\n" * self._answering)
                self.closing(event.answer, event.stop_reason, event.summary)

    def step(self, committed: Step) -> None:
        """One line: who wrote it, the score of the draft's version, tokens, seconds, text."""
        score = "  -" if committed.score is None else f"{committed.decision.number:3.1f}"
        seconds = seconds_of(committed)
        author = typer.style(f"{committed.author:5}", fg=COLOURS[committed.author])
        text = visible(committed.text) or "(ends the thinking)"
        figures = f"{score} {len(committed.token_ids):4} tok {seconds:6.2f} s"
        typer.echo(f"{committed.index + 1:3} {author} {figures}  {text}{_note(committed)}")

    def closing(self, answer: Answer, reason: StopReason, totals: Summary) -> None:
        """How it ended, acceptance, tokens by model and purpose, time by stage."""
        self.finished = True
        typer.echo(f"{reason}{'' if answer.complete else ' (the answer ran into its token limit)'}")
        share = f"accepted {totals.accepted} of {totals.proposals} proposals ({totals.acceptance:.0%})"
        typer.echo(f"{share} in {totals.steps} steps")
        for cost in (cost for cost in totals.costs if not cost.lost):
            usage = cost.usage
            typer.echo(
                f"  {cost.engine:5} {cost.purpose:10} {usage.calls:4} calls {usage.generated_tokens:6} tokens written "
                f"{usage.prompt_tokens:7} read ({usage.cached_tokens} cached) {usage.seconds:7.2f} s"
            )
        discarded = totals.discarded
        typer.echo(f"  of which discarded: {discarded.generated_tokens} draft tokens, {discarded.seconds:.2f} s")
        if guessed := (work := totals.work).speculated_tokens:
            typer.echo(f"  token-level speculation: {work.speculated_accepted} of {guessed} tokens accepted")
        if totals.elapsed is not None and totals.alone is not None:
            typer.echo(
                f"  steps took {totals.elapsed:.2f} s; the base alone would have taken about {totals.alone:.2f} s"
            )
        if lost := totals.lost.calls:
            typer.echo(
                f"  ahead in vain: {lost} calls, {totals.lost.generated_tokens} tokens, {totals.lost.seconds:.2f} s"
            )


def visible(text: str) -> str:
    """Model text in one line, without control characters."""
    return " ".join(printable(text.strip()).split("\n"))


def printable(text: str) -> str:
    """Model text without control characters, so that it cannot steer the terminal."""
    return "".join(c for c in text if c.isprintable() or c == "\n")


def _note(committed: Step) -> str:
    note = NOTES[committed.decision.reason]
    if committed.discarded and note.endswith(": "):
        same = committed.discarded.text == committed.text
        note += "the base writes the same" if same else visible(committed.discarded.text)
    if committed.alternatives:
        note = f"best of {len(committed.alternatives) + 1}; {note}".rstrip("; ")
    return typer.style(f"   [{note}]", dim=True) if note else ""
