"""The only way to the terminal: every text is cleaned here, so that what a model, a server or a record says stays text.

Commands print with `echo` (one line), `echo_text` (a text with lines of its own) and `echo_json` (a document). Nothing
in them can move the cursor, clear the screen, set a title, hide text or turn its direction; colours are put on later.
`screen` lays out and draws what changes; it cleans with `printable`, and writes through `TerminalStream`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TextIO

import typer

from specreason_graph.errors import SpecReasonError

CLEAR_LINE = "\r\x1b[K"
"""Moves a terminal's cursor to the start of the line and clears the line."""
DEEPEST = 200
"""Levels of lists and objects in a JSON document; what lies deeper in a record is left out."""
SEPARATORS = "\r\v\f\x1c\x1d\x1e\x1f\x85\u2028\u2029"
"""Characters that end a line somewhere, besides the newline; shown as spaces."""
HIDDEN = ("Cc", "Cf", "Cs")
"""Unicode categories that are left out: control and format characters, and halves of characters."""
IGNORABLE = (
    (0x034F, 0x034F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x3164, 0x3164), (0xFE00, 0xFE0F),
    (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0xE0000, 0xE0FFF),
)  # fmt: skip
"""Ranges of characters that take no room and could carry hidden text, though they are in other categories."""


class OutputClosed(Exception):  # noqa: N818 - it is no error: who reads the output has seen enough
    """Nobody reads the output any more, as behind ``| head``."""


@dataclass(frozen=True)
class Coloured:
    """A part of a line that has a colour on a terminal."""

    text: str
    """The part; it is cleaned like all others."""
    colour: str | None = None
    """Name of the colour; None keeps that of the terminal."""
    dim: bool = False
    """Whether it is shown darker."""


class _Shown(dict[int, str]):
    """What is shown for each character, for `str.translate`; found when it is first asked for."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if char in "\n\t":
            shown = char
        elif char in SEPARATORS or unicodedata.category(char) == "Zs":
            shown = " "
        else:
            shown = "" if _is_hidden(char) else char
        self[code] = shown
        return shown


class _Escapes(dict[int, str]):
    """What stands for each character in JSON, for `str.translate`."""

    def __missing__(self, code: int) -> str:
        # json.dumps has escaped those below U+0020; only strings hold others.
        char = chr(code)
        is_bare = code != 10 and (_is_hidden(char) or char in SEPARATORS)
        self[code] = json.dumps(char)[1:-1] if is_bare else char
        return self[code]


_SHOWN, _ESCAPES = _Shown(), _Escapes({0x7F: "\\u007f"})  # json.dumps leaves this one as it is


def _is_hidden(char: str) -> bool:
    return unicodedata.category(char) in HIDDEN or any(first <= ord(char) <= last for first, last in IGNORABLE)


def printable(text: object) -> str:
    """Return a text without what could control a terminal; its lines and tabs stay."""
    return str(text).replace("\r\n", "\n").translate(_SHOWN)


def visible(text: object) -> str:
    """Return a text in one line, without what could control a terminal and without spaces around it."""
    return _line(str(text).strip())


def echo(*parts: object, err: bool = False) -> None:
    """Print one line, on standard error if ``err``; line breaks inside become spaces."""
    _write("".join(map(_part, parts)) + "\n", err=err)


def echo_text(text: str, *, end: str = "\n", err: bool = False) -> None:
    """Print a text with its lines and tabs, and ``end`` behind it."""
    _write(printable(text) + end, err=err)


def echo_json(document: Any, *, indent: int | None = None) -> None:
    """Print one JSON document, in one line or, with ``indent``, for people."""
    _write(to_json(document, is_ascii="utf" not in _encoding(sys.stdout), indent=indent) + "\n", err=False)


def clear_line() -> None:
    """Clear the line that a progress bar stands in, on standard error."""
    _write(CLEAR_LINE, err=True)


def to_json(document: Any, *, is_ascii: bool = False, indent: int | None = None) -> str:
    """Return one JSON document, valid whatever the records hold; in one line where no ``indent`` is given.

    Control, format and separating characters and lone surrogates are escaped. NaN and infinite numbers become null,
    keys become texts, values that JSON does not know are described, and so is what is nested deeper than `DEEPEST`.
    """
    text = json.dumps(_plain(document, DEEPEST), ensure_ascii=is_ascii, allow_nan=False, indent=indent)
    return text.translate(_ESCAPES)


def log_to_stderr() -> None:
    """Send log messages and warnings to standard error, cleaned; standard output is for results only."""
    handler = _ErrorHandler()
    handler.setFormatter(_CleanFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.captureWarnings(capture=True)
    logging.getLogger("specreason_graph").setLevel(logging.INFO)


def close_quietly() -> None:
    """Flush both streams; one that nobody reads is turned away, else Python would complain of it at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            _turn_away(stream)


class TerminalStream:
    """Standard output, or standard error if ``err``, for what draws by itself and has cleaned its texts.

    It keeps the stream that was there when it was made, and shows what the stream cannot encode by its code.
    """

    def __init__(self, *, err: bool) -> None:
        self._stream = sys.stderr if err else sys.stdout

    @property
    def encoding(self) -> str:
        """The stream's encoding, by which a drawing chooses its characters."""
        return _encoding(self._stream)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor of the stream."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write a text as it is."""
        _write_to(self._stream, text)
        return len(text)

    def flush(self) -> None:
        """Do nothing: what is written is flushed."""


class _ErrorHandler(logging.Handler):
    """Writes to standard error as it is at the moment: above what changes on a screen."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OutputClosed, SpecReasonError):
            echo_text(self.format(record), err=True)


class _CleanFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - of the base class
        return _line(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))  # also what is put behind the message: a traceback


def _part(part: object) -> str:
    if not isinstance(part, Coloured):
        return _line(str(part))
    text = _line(part.text)
    if os.environ.get("TERM") == "dumb":
        return text
    colour = None if os.environ.get("NO_COLOR") else part.colour
    return typer.style(text, fg=colour, dim=part.dim or None)


def _line(text: str) -> str:
    return printable(text).replace("\n", " ").replace("\t", " ")


def _plain(value: Any, levels: int) -> Any:
    """Return a value that JSON knows in the place of one that a record holds."""
    if isinstance(value, Mapping | list | tuple) and levels == 0:
        return f"(nested deeper than {DEEPEST} levels)"
    if isinstance(value, Mapping):
        return {str(key): _plain(each, levels - 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, levels - 1) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    return value.hex() if isinstance(value, bytes) else str(value)


def _write(text: str, *, err: bool) -> None:
    _write_to(sys.stderr if err else sys.stdout, text)


def _write_to(stream: TextIO | None, text: str) -> None:
    if stream is None:  # it was closed by who started the command
        return
    encoding = _encoding(stream)
    try:
        # The stream is named, because typer would replace one that knows ASCII alone.
        typer.echo(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, nl=False)
    except BrokenPipeError:
        _turn_away(stream)
        raise OutputClosed from None
    except OSError as error:
        _turn_away(stream)
        raise SpecReasonError(f"the output cannot be written: {error.strerror or error}") from None


def _encoding(stream: TextIO | None) -> str:
    return (getattr(stream, "encoding", None) or "utf-8").lower()


def _turn_away(stream: TextIO) -> None:
    """Send what is left in a stream nowhere."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # a stream without a file behind it, or one that is closed
        return
