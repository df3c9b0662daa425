"""How a run is shown on a terminal."""

from __future__ import annotations

import typer

from specreason_graph.records import Answer, Step
from specreason_graph.runs import Launch, Run
from specreason_graph.summary import Summary, summarise

COLOURS = {"draft": typer.colors.GREEN, "base": typer.colors.YELLOW}
NOTES = {
    "score_reaches_threshold": "",
    "score_below_threshold": "draft rejected: ",
    "first_steps_by_base": "first steps are the base's",
    "proposal_ends_thinking": "draft would end the thinking",
    "proposal_is_blank": "draft wrote nothing",
    "proposal_too_long": "draft left the judge no room",
    "draft_failed": "the draft engine failed",
}


def opening(run: Run, launch: Launch, *, show_question: bool) -> None:
    """Thread, models, and the question where the caller has not just typed it."""
    typer.echo(f"thread {run.thread}   base {launch.base}   draft {launch.draft}")
    if show_question:
        typer.echo(f"\n{launch.question}")
    typer.echo()


def step(committed: Step) -> None:
    """One line a step: who wrote it, the score of the draft's version, tokens, seconds, text."""
    score = "  -" if committed.score is None else f"{committed.decision.number:3.1f}"
    seconds = sum(cost.usage.seconds for cost in committed.costs)
    author = typer.style(f"{committed.author:5}", fg=COLOURS[committed.author])
    text = visible(committed.text) or "(ends the thinking)"
    figures = f"{score} {len(committed.token_ids):4} tok {seconds:6.2f} s"
    typer.echo(f"{committed.index + 1:3} {author} {figures}  {text}{_note(committed)}")


def closing(run: Run) -> None:
    """The answer and what it took."""
    answer = run.answer
    if answer is None:
        return
    typer.echo(f"\n{visible(answer.text, keep_lines=True)}\n")
    typer.echo(f"{run.values['stop_reason']}{_shortfall(answer)}")
    summary(summarise(run.steps, answer))


def summary(totals: Summary) -> None:
    """Acceptance, tokens by model and purpose, time by stage."""
    typer.echo(
        f"accepted {totals.accepted} of {totals.proposals} proposals ({totals.acceptance:.0%}) in {totals.steps} steps"
    )
    for cost in totals.costs:
        usage = cost.usage
        typer.echo(
            f"  {cost.engine:5} {cost.purpose:10} {usage.calls:4} calls {usage.generated_tokens:6} tokens written "
            f"{usage.prompt_tokens:7} read ({usage.cached_tokens} cached) {usage.seconds:7.2f} s"
        )
    typer.echo(
        f"  of which discarded: {totals.discarded.generated_tokens} draft tokens, {totals.discarded.seconds:.2f} s"
    )


def visible(text: str, *, keep_lines: bool = False) -> str:
    """Model text without control characters, so that it cannot steer the terminal."""
    kept = "".join(c for c in text.strip() if c.isprintable() or c == "\n")
    return kept if keep_lines else " ".join(kept.split("\n"))


def _note(committed: Step) -> str:
    note = NOTES[committed.decision.reason]
    if committed.discarded and committed.decision.reason == "score_below_threshold":
        same = committed.discarded.text == committed.text
        note += "the base writes the same" if same else visible(committed.discarded.text)
    return typer.style(f"   [{note}]", dim=True) if note else ""


def _shortfall(answer: Answer) -> str:
    return "" if answer.complete else " (the answer ran into its token limit)"
