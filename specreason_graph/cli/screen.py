"""What is laid out for a terminal, or changes on it; cleaned piece by piece, as `terminal` does with lines.

Rich lays out and moves the cursor. What it is given may come from models, servers and records, so each piece of text is
cleaned again behind the layout: no text can bring a control character, a link or a change of direction of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from specreason_graph.cli.terminal import TerminalStream, printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.live import Live

NARROWEST, WIDEST = 40, 120
"""Columns between which texts are wrapped; longer lines are hard to read."""
STYLES = {
    "draft": "bold green", "base": "bold magenta", "human": "bold cyan", "good": "bold green", "bad": "bold magenta",
    "draft.soft": "dim green", "base.soft": "dim magenta",
    "quiet": "dim", "gone": "dim strike", "markdown.code": "bold", "markdown.code_block": "none",
    "markdown.h1": "bold underline", "markdown.h2": "bold", "markdown.h3": "bold", "markdown.link": "none",
    "markdown.link_url": "dim", "markdown.block_quote": "none", "markdown.item.bullet": "none",
    "markdown.item.number": "none", "markdown.table.border": "dim", "markdown.table.header": "bold",
}  # fmt: skip
"""Colours of the sixteen that each terminal has its own shades for, so that light and dark themes can be read."""
FRAMES_A_SECOND = 8
NOT_READ = ["escape", "entity", "reference", "image"]
"""Rules of Markdown by which characters would vanish."""


def is_screen(*, err: bool = False) -> bool:
    """Whether a stream is a terminal on which things can change: standard output, or standard error if ``err``."""
    stream = sys.stderr if err else sys.stdout
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")
    except ValueError:  # it is closed
        return False


_drawn: list[Live] = []
"""What changes on a screen at the moment."""


def stop_drawing() -> None:
    """Take away what changes, so that a line can be printed from wherever the program is."""
    for live in _drawn:
        live.stop()


class Screen:
    """A terminal: prints what Rich lays out, and keeps something that changes below it while `changing` is open."""

    def __init__(self, *, err: bool = False) -> None:
        from rich.console import Console
        from rich.theme import Theme

        stream: Any = TerminalStream(err=err)
        self._console = Console(file=stream, theme=Theme(STYLES), highlight=False, markup=False, emoji=False)
        self._width = max(NARROWEST, min(WIDEST, self._console.width))

    @property
    def height(self) -> int:
        """Lines of the terminal."""
        return self._console.height

    def put(self, shown: RenderableType = "") -> None:
        """Print something above what changes."""
        self._console.print(Cleaned(shown), width=self._width)

    @contextmanager
    def changing(self, shown: RenderableType) -> Iterator[Live]:
        """Show something that is drawn anew all the time, and is gone when the context closes."""
        from rich.live import Live

        to_terminal = sys.stderr is not None and sys.stderr.isatty()
        live = Live(
            Cleaned(shown, self._width), console=self._console, transient=True, refresh_per_second=FRAMES_A_SECOND,
            redirect_stdout=False, redirect_stderr=to_terminal, vertical_overflow="crop",
        )  # fmt: skip
        _drawn.append(live)
        try:
            with live:
                yield live
        finally:
            _drawn.remove(live)


class Cleaned:
    """Something that Rich lays out, without what could control a terminal."""

    def __init__(self, shown: RenderableType, width: int | None = None) -> None:
        self._shown, self._width = shown, width

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        options = options.update(width=min(self._width, options.max_width)) if self._width else options
        for each in console.render(self._shown, options):
            style = each.style.update_link(None) if each.style and each.style.link else each.style
            yield each if each.control else Segment(printable(each.text), style)


class Tail:
    """The last lines of something that grows, as many as there is room for."""

    def __init__(self, shown: RenderableType, lines: int) -> None:
        self._shown, self._lines = shown, max(1, lines)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        for line in console.render_lines(self._shown, options, pad=False)[-self._lines :]:
            yield from line
            yield Segment.line()


def markdown(text: str) -> RenderableType:
    """A text of a model, laid out where it is Markdown; what is no Markdown keeps each of its characters.

    LaTeX has backslashes, and products have asterisks: neither is taken for Markdown. Nor are HTML and entities, which
    could hide text. Line breaks stay.
    """
    from rich.markdown import CodeBlock, Heading, Markdown
    from rich.padding import Padding
    from rich.text import Text

    class PlainCode(CodeBlock):
        """Code as it is, indented: a theme of colours would suit dark or light terminals only."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            yield Padding(Text(str(self.text).rstrip()), (0, 0, 0, 4))

    class LeftHeading(Heading):
        LEVEL_ALIGN = dict.fromkeys(Heading.LEVEL_ALIGN, "left")

    class Answer(Markdown):
        elements = {  # noqa: RUF012 - as in the base class
            **Markdown.elements, "fence": PlainCode, "code_block": PlainCode, "heading_open": LeftHeading,
        }  # fmt: skip

    shown = Answer("", hyperlinks=False)
    shown.parsed = _parsed(printable(text))
    return shown


def _parsed(text: str) -> list[Any]:
    from markdown_it import MarkdownIt
    from markdown_it.rules_inline import emphasis

    def between_words(state: Any, silent: bool) -> bool:  # noqa: FBT001 - as the library calls it
        """Emphasis that begins and ends at words, so that 25*18*3 keeps its asterisks."""
        scan = state.scanDelims
        state.scanDelims = lambda start, _: scan(start, False)  # noqa: FBT003
        try:
            return emphasis.tokenize(state, silent)
        finally:
            del state.scanDelims

    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(NOT_READ)
    parser.inline.ruler.at("emphasis", between_words)
    tokens = parser.parse(text)
    for each in (child for token in tokens for child in token.children or ()):
        if each.type == "softbreak":
            each.type = "hardbreak"
    return tokens
