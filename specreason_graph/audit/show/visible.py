"""Characters that cannot be seen, or that turn a text around, as their code points."""

from __future__ import annotations

import unicodedata
from typing import Any

from markupsafe import Markup

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that are shown as code points: control and format characters, surrogates, line separators."""
KEPT = "\n\t\u200c\u200d"
"""Characters of these categories that texts need: line breaks, tabs, and the joiners of scripts and emoji."""


def visible(value: Any) -> Any:
    """Replace characters that are invisible, or change the direction of text, by their code points."""
    if isinstance(value, Markup):  # our own style and script, and what the templates' macros return
        return value
    text = str(value)
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(char: str) -> str:
    hidden = unicodedata.category(char) in HIDDEN and char not in KEPT
    return f"⟨U+{ord(char):04X}⟩" if hidden else char
