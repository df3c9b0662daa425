"""Streams the answer as text while it is written, and emits nothing that is not in the answer at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from specreason_graph.engines.base import Vocabulary

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What the bytes of a character that is not complete are decoded to."""


class AnswerStream:
    """Takes token ids and emits text.

    ``ends`` are texts behind which nothing belongs to the answer; what may become one is held back, and so is white
    space that may turn out to be the last. ``hidden`` tokens are not text. ``start`` was written for the model.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        emit: Callable[[str], None],
        ends: Sequence[str],
        hidden: frozenset[int],
        *,
        start: str = "",
    ) -> None:
        self._decode, self._emit, self._ends, self._hidden = vocabulary.decode, emit, tuple(ends), hidden
        self._ids: list[int] = []
        self._anchor = self._read = 0
        self._text, self._emitted = start, 0

    def token(self, token: int) -> None:
        """Take the next token."""
        if token in self._hidden:
            return
        self._ids.append(token)
        # decoded together with the tokens before: alone, some tokenizers drop the space in front of a token
        before = self._decode(self._ids[self._anchor : self._read])
        text = self._decode(self._ids[self._anchor :])
        if text.endswith(UNFINISHED):
            return
        self._text += text[len(before) :]
        self._anchor, self._read = self._read, len(self._ids)
        self._send(self._settled())

    def finish(self, answer: str) -> None:
        """Emit the rest of the whole answer."""
        self._send(answer)

    def _send(self, answer: str) -> None:
        if len(answer) > self._emitted:
            self._emit(answer[self._emitted :])
            self._emitted = len(answer)

    def _settled(self) -> str:
        """The part of the answer that later tokens cannot change."""
        found = [self._text.find(end) for end in self._ends if end in self._text]
        text = self._text[: min(found, default=len(self._text))]
        held = max((overlap(text, end) for end in self._ends), default=0)
        return text[: len(text) - held].strip()


def overlap(text: str, end: str) -> int:
    """Length of the longest start of ``end`` that ``text`` ends with."""
    return next((size for size in range(min(len(text), len(end) - 1), 0, -1) if text.endswith(end[:size])), 0)
