"""Blocks in which a blank line does not end a step: code fences (CommonMark 0.31, section 4.5) and LaTeX's."""

from __future__ import annotations

import re

OPENERS = re.compile(
    r"^[ \t]*(?:[-*+>][ \t]+|\d+[.)][ \t]+)*"
    r"(?:(?P<fence>`{3,}|~{3,})[^\n`]*$|\\begin\{(?P<name>[A-Za-z]+\*?)\}|(?P<display>\\\[)|(?P<dollars>\$\$))",
    re.MULTILINE,
)
"""What opens a block at the start of a line, also in a list: a fence, an environment, display mathematics."""


def open_block(text: str, within: str = "") -> str:
    r"""The block that is open at the end of ``text``, empty where none is: a fence, ``\end{...}``, ``\]`` or ``$$``.

    ``within`` is the block that is open where the text begins. Blocks inside a block are its contents.
    """
    position = 0
    while True:
        if within:
            closed = _closing(within).search(text, position)
            if closed is None:
                return within
            position, within = closed.end(), ""
        opened = OPENERS.search(text, position)
        if opened is None:
            return ""
        position, within = opened.end(), _awaited(opened)


def _awaited(opened: re.Match[str]) -> str:
    if opened["fence"]:
        return opened["fence"]
    if opened["name"]:
        return f"\\end{{{opened['name']}}}"
    return "\\]" if opened["display"] else "$$"


def _closing(within: str) -> re.Pattern[str]:
    if within[0] in "`~":  # a fence ends with one of its kind that is at least as long, alone on its line
        return re.compile(rf"^[ \t]*{within[0]}{{{len(within)},}}[ \t]*$", re.MULTILINE)
    return re.compile(re.escape(within))
