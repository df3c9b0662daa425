"""Texts that try to steer a terminal or to hide something, and a database whose every text is one."""

from __future__ import annotations

import unicodedata
from typing import Any

from specreason_graph import EnginePair, create_specreason
from specreason_graph.engines.fake import FakeEngine, PlainText
from tests.support.databases import opened
from tests.support.scripts import CLOSE

STEERING = [
    "\x1b]0;title\x07", "\x1b[2J\x1b[H", "\x1b]8;;http://there\x1b\\link\x1b]8;;\x1b\\", "\x1bPq\x1b\\", "\x07", "\b\b",
    "\r", "\x0b", "\x0c", "\x7f", "\x80", "\x85", "\x9b2J", "\x9d0;t\x9c", "\u202a", "\u202e", "\u2066", "\u2069",
    "\u200b", "\u200d", "\u200e", "\u2028", "\u2029", "\ufeff", "\u00ad", "\U000e0041", "\u3164", "\U000e0100",
]  # fmt: skip
HOSTILE = "a" + "b".join(STEERING) + "c"
FORGED = f"{HOSTILE}\nrun 0123: 9 entries, as written\tx"
"""Would be two lines, the second of which looks like one of ours."""


def steering(text: str) -> set[str]:
    """The characters in a text that no output of ours may hold."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    unseen = "\u3164\U000e0100"
    return {char for char in text if char in unseen or (char not in "\n\t" and unicodedata.category(char) in kinds)}


def hostile_pair() -> EnginePair:
    """A pair with names, steps and an answer that are hostile."""
    draft = FakeEngine([PlainText(f"{HOSTILE} {number}\n\n") for number in range(3)] + [CLOSE], name=FORGED)
    base = FakeEngine([PlainText(f"{HOSTILE}\n\n"), CLOSE, PlainText(f"So {HOSTILE}")], [9, 2, 9], name=FORGED)
    return EnginePair(draft, base)


def write_hostile(file: str, thread: str = FORGED) -> None:
    """Write a database with one run in which everything is hostile that a model or a caller may choose."""
    config: Any = {"configurable": {"thread_id": thread}}
    with opened(file) as saver, hostile_pair() as pair:
        graph = create_specreason(pair, stop=[f"{HOSTILE} stop"]).compile(checkpointer=saver)
        graph.invoke({"question": f"What of {FORGED}?"}, config)
