"""How arithmetic is written in LaTeX, in signs and in words, and the one plain form that it is read in."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from unicodedata import normalize


def _mixed(match: re.Match[str]) -> str:
    """A mixed number, as 3 1/2, as a sum; what is no such number as it stands."""
    whole, over, under = match.groups()
    return f"({whole}+{over}/{under})" if int(over) < int(under) else match.group()


def _small_fraction(match: re.Match[str]) -> str:
    """One sign, as ½, as a fraction."""
    return " " + normalize("NFKC", match.group()).replace("\u2044", "/")


_LATEX: Sequence[tuple[str, str]] = (
    (r"\{,\}", ","), (r"\\(?:left|right|displaystyle|quad|qquad)(?![a-zA-Z])|\\[,;! ]|&", " "),
    (r"\\(?:text|mathrm|textbf|mathbf|boxed)\s*\{([^{}]*)\}", r" \1 "),
    (r"(?<![\d.])(\d{1,9})\s*\\[dt]?frac\s*\{(\d{1,9})\}\s*\{(\d{1,9})\}", r"\1 \2/\3"),  # a mixed number
    (r"\\[()\[\]]|\$\$", "\n"), (r"\\([%$])", r"\1"),
    (r"\\(?:times|cdot|ast)(?![a-zA-Z])", "*"), (r"\\div(?![a-zA-Z])", "/"),
    (r"\\approx(?![a-zA-Z])", "≈"), (r"\\leq?(?![a-zA-Z])", "<="), (r"\\geq?(?![a-zA-Z])", ">="),
    (r"\\neq?(?![a-zA-Z])", " != "), (r"\^\{([^{}]*)\}", r"**(\1)"),
)  # fmt: skip
"""Patterns of LaTeX, and how they are written plainly."""
_PLAIN: Sequence[tuple[str, str | Callable[[re.Match[str]], str]]] = (
    (r"^[ \t]*(?:[-*•#]+|\d{1,3}[.)])[ \t]+", ""),  # the mark of a list
    (r"(?<!\S)\*\*(?=\S)|(?<=\S)\*\*(?=[\s.,;:!?)]|$)", ""), ("`", " "),  # bold, code
    (r"[\u2212\u2013]", "-"), (r"[\u00d7\u00b7\u2219\u22c5]", "*"),
    ("[\u00bc-\u00be\u2153-\u215e]", _small_fraction),
    (r"(?<![\w.,/])(\d{1,9}) (\d{1,3})/(\d{1,3})(?![\w/.]|,\d)", _mixed),
    (r"√\s*(\d+(?:\.\d+)?)", r"sqrt(\1)"), (r"√\s*(?=\()", "sqrt"),
    (r"\b(?:the )?square root of (\d+(?:\.\d+)?)", r"sqrt(\1)"),
    ("÷", "/"), (r"\^", "**"), ("²", "**2"), ("³", "**3"), ("≤", "<="), ("≥", ">="),
    ("≠", " != "), (r"(?<=\d)(?<!\b0)(\s?)[xX]\1(?=\$?\d)", "*"), (r"\b(?:multiplied by|times)(?=\s[\d($])", "*"),
    (r"\bdivided by(?=\s[\d($])", "/"), (r"\bplus(?=\s[\d($])", "+"), (r"\bminus(?=\s[\d($])", "-"),
    (r"(?<=[^\W_])/(?=[^\W\d_]{2})", " per "), (r"(%|\d/\d{1,9}|\)) of(?=\s[\d($])", r"\1 *"),
)  # fmt: skip
"""The same for signs and words."""
_ROOT = re.compile(r"\\sqrt\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")


def plain(text: str) -> str:
    """The text with signs and parentheses in the place of what stands for them."""
    for pattern, plainly in _LATEX if "\\" in text or "^" in text else ():
        text = re.sub(pattern, plainly, text)
    for _ in range(4):  # fractions in fractions, and in roots
        text = _ROOT.sub(r"sqrt(\1)", _FRACTION.sub(r"((\1)/(\2))", text))
    for sign, instead in _PLAIN:
        text = re.sub(sign, instead, text, flags=re.MULTILINE)
    return text
