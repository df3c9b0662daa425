"""The view of a run on a terminal: a step is seen while it is written, and then kept or struck through."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from specreason_graph.audit.ask.advice import Advice
from specreason_graph.audit.show.labels import REASONS
from specreason_graph.cli.live_view import ENDS_THINKING, LiveView, note_of, thinking_lines, waste_lines
from specreason_graph.cli.screen import Screen, Tail, is_screen, markdown
from specreason_graph.cli.terminal import printable
from specreason_graph.record.events import (
    Accepted,
    AnswerToken,
    Drafted,
    Event,
    Finished,
    Regenerated,
    Rejected,
    Scored,
    Started,
    StepToken,
)
from specreason_graph.record.manifest import ThinkingFormat
from specreason_graph.record.records import Answer, Engine, Step, StopReason
from specreason_graph.record.summary import Summary, seconds_of

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

BELOW = 4
"""Lines of a terminal that what is being written leaves free."""


def make_view() -> LiveView | ScreenView:
    """The view for standard output: one that changes on a terminal, else lines."""
    return ScreenView(Screen()) if is_screen() else LiveView()


class ScreenView:
    """Shows events on a terminal; call `show` for each, within `working` for what is under way."""

    streams: ClassVar[bool] = True
    """It shows steps while they are written."""

    def __init__(self, screen: Screen) -> None:
        self._screen, self._under_way = screen, UnderWay(screen.height - BELOW)
        self._is_plain = False

    @contextmanager
    def working(self) -> Iterator[None]:
        """Show what is under way while the context is open."""
        with self._screen.changing(self._under_way):
            yield

    def show(self, event: Event | None) -> None:
        """Take an event: what is committed is printed, what is under way is shown below it."""
        match event:
            case Started():
                self.head(event.thinking)
            case Accepted() | Regenerated():
                self.step(event.step)
            case AnswerToken() if not self._is_plain:
                self._under_way.answer += event.text
            case Finished():
                self.answer(event.answer)
                self.closing(event.answer, event.stop_reason, event.summary)
            case _:
                self._under_way.take(event)

    def head(self, thinking: Mapping[Engine, ThinkingFormat]) -> None:
        """Print how each model thinks, once where both do it in the same way."""
        from rich.text import Text

        self._is_plain = bool(thinking) and thinking["base"].kind == "none"
        for line in thinking_lines(thinking):
            self._screen.put(Text(line, "quiet"))
        self._screen.put()

    def step(self, committed: Step) -> None:
        """Print a step, wrapped at words; a proposal that it takes the place of stands struck through before it."""
        self._under_way.begin(committed.index + 1)
        self._screen.put(_rows(committed))

    def answer(self, answer: Answer) -> None:
        """Print the answer, laid out where it is Markdown."""
        self._under_way.end()
        self._screen.put()
        if answer.text:
            self._screen.put(markdown(answer.text))
            self._screen.put()

    def closing(
        self, answer: Answer, reason: StopReason, totals: Summary, advice: Advice | None = None
    ) -> None:  # fmt: skip
        """Print the stop reason, what speculation brought, and the costs by model and purpose."""
        from rich.text import Text

        cut = "" if answer.complete else " (the answer ran into its token limit)"
        back = f", {totals.taken_back} taken back" if totals.taken_back else ""
        share = f"{totals.accepted} of {totals.proposals} proposals accepted ({totals.acceptance:.0%}){back}"
        self._screen.put(Text.assemble((f"{reason}{cut}", "bold"), f"   {totals.steps} steps, {share}"))
        for number, sentence in enumerate(advice.sentences if advice else ()):
            verdict = "good" if advice and advice.gain >= 1 else "bad"
            self._screen.put(Text(sentence[:1].upper() + sentence[1:], verdict if number == 0 else ""))
        self._screen.put()
        self._screen.put(_costs(totals))
        for line in waste_lines(totals):
            self._screen.put(Text(line, "quiet"))


class UnderWay:
    """What is being written, drawn anew all the time."""

    def __init__(self, lines: int) -> None:
        self.answer = ""
        """The answer so far."""
        self._lines = lines
        self._spinner: Any = None
        self.begin(0)

    def begin(self, index: int) -> None:
        """Go on to the step with this index."""
        self._index, self._texts = index, dict[Engine, str]()
        self._verdict, self._number, self._since = "", "", time.monotonic()
        self._state = "waiting for the draft"

    def end(self) -> None:
        """Nothing more is written."""
        self.answer, self._state = "", ""
        self._texts.clear()

    def take(self, event: Event | None) -> None:
        """Take what is told of a step that is not committed yet."""
        match event:
            case StepToken():
                if event.start == 0 or event.index != self._index:
                    self._texts[event.author] = ""
                self._index = event.index
                self._texts[event.author] += event.text
                self._state = f"the {event.author} writes"
            case Drafted():
                self._index = event.index
                self._texts["draft"] = event.proposal.text
                self._state = "the base scores the draft's step"
            case Scored():
                self._number = event.decision.figure
                self._state = "" if event.decision.accepted else "the base writes the step"
            case Rejected():
                self._verdict, self._state = REASONS[event.decision.reason].note, "the base writes the step"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.console import Group

        parts = [self._written(), *self._status(options)] if not self.answer else [markdown(self.answer)]
        yield from console.render(Tail(Group(*parts), self._lines), options)

    def _written(self) -> RenderableType:
        from rich.text import Text

        table = _grid()
        for role in ("draft", "base"):
            if text := printable(self._texts.get(role, "")).strip():
                shown = Text(text, "quiet")
                if role == "draft" and self._verdict:
                    label = self._verdict.removesuffix(": ")
                    shown = Text.assemble((text, "gone"), (_told(self._number, label), "quiet"))
                table.add_row(str(self._index + 1), Text(role, f"{role}.soft"), shown)
        return table

    def _status(self, options: ConsoleOptions) -> Iterator[Any]:
        from rich.spinner import Spinner
        from rich.text import Text

        if self._state:
            self._spinner = self._spinner or Spinner("line" if options.ascii_only else "dots", style="quiet")
            seconds = time.monotonic() - self._since
            self._spinner.update(text=Text(f"step {self._index + 1}: {self._state}   {seconds:.0f} s", "quiet"))
            yield self._spinner


def _grid() -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", width=3, no_wrap=True)
    table.add_column(width=5, no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    table.expand = True
    return table


def _rows(committed: Step) -> Table:
    """A step, and the proposal before it that was not taken."""
    from rich.text import Text

    table, number = _grid(), str(committed.index + 1)
    old, label = committed.discarded, REASONS[committed.decision.reason].note
    score = "" if committed.score is None else committed.decision.figure
    shows_old = old is not None and label.endswith(": ") and old.text != committed.text
    if old and shows_old:
        told = _told(score, label.removesuffix(": "))
        rejected = Text.assemble((printable(old.text).strip(), "gone"), (told, "quiet"))
        table.add_row(number, Text("draft", "draft.soft"), rejected)
        number = score = ""
    note, took = note_of(committed, rejected=not shows_old), f"{seconds_of(committed):.2f} s"
    figures = _told(score, f"{len(committed.token_ids)} tok", took, f"[{note}]" * bool(note))
    text = printable(committed.text).strip()
    shown = Text.assemble(text or (ENDS_THINKING, "quiet"), (figures, "quiet"))
    table.add_row(number, Text(committed.author, committed.author), shown)
    return table


def _told(*parts: str) -> str:
    return "".join(f"  {part}" for part in parts if part)


def _costs(totals: Summary) -> Table:
    """What the run took, by model and purpose."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="quiet", pad_edge=False)
    for name, justify in (("engine", "left"), ("purpose", "left"), *((each, "right") for each in _FIGURES)):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for cost in (cost for cost in totals.costs if not cost.wasted):
        used = cost.usage
        figures = (used.calls, used.generated_tokens, used.prompt_tokens, used.cached_tokens, f"{used.seconds:.2f}")
        table.add_row(cost.engine, cost.purpose, *map(str, figures))
    return table


_FIGURES = ("calls", "written", "read", "cached", "seconds")
