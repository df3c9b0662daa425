"""The view of a run as lines of text, made from the events that the run emits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import typer

from specreason_graph.audit.ask.advice import Advice
from specreason_graph.audit.show.labels import REASONS
from specreason_graph.cli.terminal import Coloured, echo, echo_text, visible
from specreason_graph.cli.terminal import printable as printable
from specreason_graph.record.events import Accepted, AnswerToken, Event, Finished, Regenerated, Started
from specreason_graph.record.manifest import ThinkingFormat
from specreason_graph.record.records import Answer, Engine, Step, StopReason
from specreason_graph.record.summary import Summary, seconds_of

ENDS_THINKING = "(ends the thinking)"
"""Stands for the text of a step that has none."""
COLOURS = {"draft": typer.colors.GREEN, "base": typer.colors.MAGENTA, "human": typer.colors.CYAN}


class LiveView:
    """Prints events as lines: call ``show(read_event(part))`` for each part of a graph's ``custom`` stream."""

    streams: ClassVar[bool] = False
    """Whether it shows steps while they are written, so that it is worth to ask for `StepToken`."""

    def __init__(self) -> None:
        self._answering = self._is_plain = False

    def show(self, event: Event | None) -> None:
        """Print a committed step as one line, the answer token by token, and the totals at the end."""
        match event:
            case Started():
                self.head(event.thinking)
            case Accepted() | Regenerated():
                self.step(event.step)
            case AnswerToken() if not self._is_plain:
                echo_text(event.text if self._answering else f"\n{event.text}", end="")
                self._answering = True
            case Finished():
                self.answer(event.answer)
                self.closing(event.answer, event.stop_reason, event.summary)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Work goes on while the context is open."""
        yield

    def answer(self, answer: Answer) -> None:
        """Print the answer, or end the line of one that was printed token by token."""
        if self._answering:
            echo_text("\n")
        else:
            echo_text(f"\n{answer.text}\n" if answer.text else "")

    def head(self, thinking: Mapping[Engine, ThinkingFormat]) -> None:
        """Print how each model thinks, once where both do it in the same way."""
        self._is_plain = bool(thinking) and thinking["base"].kind == "none"
        for line in thinking_lines(thinking):
            echo(line)
        echo()

    def step(self, committed: Step) -> None:
        """Print one line: author, score of the draft's version, tokens, seconds and text."""
        score = "  -" if committed.score is None else f"{committed.decision.figure:>3}"
        seconds = seconds_of(committed)
        author = Coloured(f"{committed.author:5}", COLOURS[committed.author])
        text = visible(committed.text) or ENDS_THINKING
        figures = f"{score} {len(committed.token_ids):4} tok {seconds:6.2f} s"
        echo(f"{committed.index + 1:3} ", author, f" {figures}  {text}", _note(committed))

    def closing(
        self, answer: Answer, reason: StopReason, totals: Summary, advice: Advice | None = None
    ) -> None:  # fmt: skip
        """Print the stop reason, the acceptance, the costs by model and purpose, and what speculation brought."""
        echo(f"{reason}{'' if answer.complete else ' (the answer ran into its token limit)'}")
        share = f"accepted {totals.accepted} of {totals.proposals} proposals ({totals.acceptance:.0%})"
        back = f", {totals.taken_back} of them taken back" if totals.taken_back else ""
        echo(f"{share} in {totals.steps} steps{back}")
        for cost in (cost for cost in totals.costs if not cost.wasted):
            usage = cost.usage
            echo(
                f"  {cost.engine:5} {cost.purpose:10} {usage.calls:4} calls {usage.generated_tokens:6} tokens written "
                f"{usage.prompt_tokens:7} read ({usage.cached_tokens} cached) {usage.seconds:7.2f} s"
            )
        for line in waste_lines(totals):
            echo(f"  {line}")
        for sentence in advice.sentences if advice else ():
            echo(f"  {sentence}")


def thinking_lines(thinking: Mapping[Engine, ThinkingFormat]) -> Iterator[str]:
    """How each model thinks, once where both do it in the same way."""
    lines = {role: describe_format(form) for role, form in thinking.items()}
    same = len(set(lines.values())) == 1
    for role, line in lines.items():
        if role == "base" or not same:
            yield f"thinking {'' if same else f'of the {role} '}{line}"


def waste_lines(totals: Summary) -> Iterator[str]:
    """What a run has written and not committed, and what came of speculation on tokens."""
    lost, wasted, work = totals.discarded, totals.wasted, totals.work
    yield f"of which discarded: {lost.generated_tokens} draft tokens, {lost.seconds:.2f} s"
    if work.speculated_tokens:
        yield f"token-level speculation: {work.speculated_accepted} of {work.speculated_tokens} tokens accepted"
    if wasted.calls:
        figures = f"{wasted.calls} calls, {wasted.generated_tokens} tokens, {wasted.seconds:.2f} s"
        yield f"wasted speculation: {figures}"


def describe_format(form: ThinkingFormat) -> str:
    """Say in one line how a model thinks, and by what that was chosen."""
    tags = f" {visible(form.tags[0])} ... {visible(form.tags[1])}" if form.tags else ", the reply is the trace"
    return f"{form.kind}{tags} ({form.source})"


def _note(committed: Step) -> Coloured | str:
    note = note_of(committed)
    return Coloured(f"   [{note}]", dim=True) if note else ""


def note_of(committed: Step, *, rejected: bool = True) -> str:
    """What is to be told of a step besides its text; ``rejected``: also of a proposal that it takes the place of."""
    note = REASONS[committed.decision.reason].note
    if committed.decision.writer:
        note += f" ({visible(committed.decision.writer)})"
    if committed.discarded and note.endswith(": "):
        same = committed.discarded.text == committed.text
        text = "the base writes the same" if same else visible(committed.discarded.text)
        note = f"{note}{text}" if rejected else ""
    if gone := ", ".join(str(position + 1) for position in committed.taken_back):
        note = f"takes the place of {gone}; {note}"
    if committed.alternatives:
        note = f"best of {len(committed.alternatives) + 1}; {note}".rstrip("; ")
    return note
