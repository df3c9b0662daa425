"""Streams the answer as text while it is written, and emits nothing that is not in the answer at the end."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from specreason_graph.engines.base import Vocabulary
from specreason_graph.prompting.tool_formats import ToolFormat

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What the bytes of a character that is not complete are decoded to."""
BLANK_LINES = re.compile(r"(?:[^\S\n]*\n)+")
"""What models write between a thinking and the answer behind it."""


class AnswerStream:
    """Takes token ids and emits text: each new piece, with the whole answer so far.

    ``stops`` are texts behind which nothing belongs to the answer; what may become one, or a call of ``form``, is held
    back, and so is white space that may turn out to be the last. ``hidden`` tokens end the answer. ``start`` was
    written before; ``emitted`` tells whether what is settled of it was emitted, too.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        emit: Callable[[str, str], None],
        stops: Sequence[str],
        hidden: frozenset[int],
        *,
        form: ToolFormat | None = None,
        start: str = "",
        emitted: bool = False,
    ) -> None:
        self._decode, self._emit, self._stops, self._hidden = vocabulary.decode, emit, tuple(stops), hidden
        self._form = form
        self._ids: list[int] = []
        self._ended = False
        self._anchor = self._read = 0
        self._text, self._start = start, len(start)
        self._emitted = len(settled(start, self._stops, form, self._start)) if emitted else 0

    def token(self, token: int) -> None:
        """Take the next token."""
        self._ended |= token in self._hidden
        if self._ended:
            return
        self._ids.append(token)
        # decoded together with the tokens before: alone, some tokenizers drop the space in front of a token
        before = self._decode(self._ids[self._anchor : self._read])
        text = self._decode(self._ids[self._anchor :])
        if text.endswith(UNFINISHED):
            return
        self._text += text[len(before) :]
        self._anchor, self._read = self._read, len(self._ids)
        self._send(settled(self._text, self._stops, self._form, self._start))

    @property
    def has_emitted(self) -> bool:
        """Whether anything was emitted."""
        return self._emitted > 0

    def finish(self, answer: str) -> None:
        """Emit the rest of the whole answer."""
        self._send(answer)

    def _send(self, answer: str) -> None:
        if len(answer) > self._emitted:
            self._emit(answer[self._emitted :], answer)
            self._emitted = len(answer)


def settled(text: str, stops: Sequence[str], form: ToolFormat | None, after: int = 0) -> str:
    """The part of an answer that begins with ``text`` which later tokens cannot change.

    Stop strings are looked for behind the first ``after`` characters.
    """
    whole = text[:after] + before_stop(text[after:], stops)
    shown = form.visible(whole) if form else whole
    cut = whole != text or (form and shown != whole and whole.startswith(shown))
    if not cut:  # else what follows is known, and no more text can make a stop of its end
        held = max((overlap(whole, end) for end in (*stops, *(form.openings if form else ()))), default=0)
        shown = shown[: max(0, len(shown) - held)]
    return trimmed(shown)


def trimmed(written: str) -> str:
    """What was written as an answer: without blank lines at its start and white space at its end, else as it is.

    Both part it from what is around it, and how much of them there is, is up to the model and its template; the
    indentation of the first line is content.
    """
    return (written[blank.end() :] if (blank := BLANK_LINES.match(written)) else written).rstrip()


def before_stop(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stop strings."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]


def plain_reply(steps: Sequence[Mapping[str, Any]]) -> str:
    """What the steps of a plain reply say together."""
    return "".join(step["text"] for step in steps)


def overlap(text: str, end: str) -> int:
    """Length of the longest start of ``end`` that ``text`` ends with."""
    return next((size for size in range(min(len(text), len(end) - 1), 0, -1) if text.endswith(end[:size])), 0)
