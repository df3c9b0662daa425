"""Values that come out of a record as they went in.

Checkpoints are msgpack, and the ledger hashes canonical JSON (RFC 8785). JSON allows more than these two keep: an
integer beyond 64 bits ends the run, half a surrogate pair comes back as ``?``, and ``NaN`` as null. So whatever enters
a record from outside, from callers or in a model's calls of tools, passes here first.
"""

from __future__ import annotations

import math
from typing import Any

DEEPEST = 100
"""Levels of lists and objects in each other; the serializers behind a checkpoint give up between 250 and 300."""
INTEGERS = range(-(2**63), 2**64)
"""What msgpack has room for."""


def why_not_kept(value: Any, place: str, levels: int = DEEPEST) -> str | None:
    """What in ``value`` cannot be kept unchanged, as a sentence that begins with ``place``; None where all can.

    ``levels``: how deep it may be nested from here on.
    """
    match value:
        case str():
            return _why_no_text(value, place)
        case None | bool():
            return None
        case int():
            return None if value in INTEGERS else f"{place} is an integer beyond 64 bits"
        case float():
            return None if math.isfinite(value) else f"{place} is {value}, which is no number in JSON"
        case list() | tuple() | dict() if not levels:
            return f"{_shortened(place)} is nested deeper than {DEEPEST} levels"
        case list() | tuple():
            each = (why_not_kept(item, f"{place}[{index}]", levels - 1) for index, item in enumerate(value))
            return next(filter(None, each), None)
        case dict():
            each = (_why_no_pair(key, item, place, levels - 1) for key, item in value.items())
            return next(filter(None, each), None)
    return f"{place} is a {type(value).__name__}, which is no JSON value"


def _why_no_pair(key: Any, value: Any, place: str, levels: int) -> str | None:
    if not isinstance(key, str):
        return f"{place} has the key {key!r}, which is no text"
    return _why_no_text(key, f"a key of {place}") or why_not_kept(value, f"{place}.{key}", levels)


def _why_no_text(text: str, place: str) -> str | None:
    """JSON's escapes and broken input can make characters that UTF-8 has no bytes for."""
    found = next((character for character in text if "\ud800" <= character <= "\udfff"), None)
    return f"{place} holds {found!a}, half of a surrogate pair, which is no character" if found else None


def _shortened(place: str) -> str:
    return place if len(place) <= 80 else f"{place[:80]}..."
