"""Self-contained HTML pages from templates, with a policy that lets only the page's own script run."""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from specreason_graph.audit.show.labels import ENDINGS, PURPOSES, REASONS, duration, moment
from specreason_graph.audit.show.step_view import score_bar_of

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that are shown as code points: control and format characters, surrogates, line separators."""
KEPT = "\n\t\u200c\u200d"
"""Characters of these categories that texts need: line breaks, tabs, and the joiners of scripts and emoji."""


def render(template: str, **values: Any) -> str:
    """Render a page from a template; all values are escaped."""
    return _environment().get_template(template).render(**values)


def visible(value: Any) -> Any:
    """Replace characters that are invisible, or change the direction of text, by their code points."""
    if isinstance(value, Markup):  # our own style and script, and what the templates' macros return
        return value
    text = str(value)
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(char: str) -> str:
    hidden = unicodedata.category(char) in HIDDEN and char not in KEPT
    return f"⟨U+{ord(char):04X}⟩" if hidden else char


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("specreason_graph.audit.show"), autoescape=True, finalize=visible,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style, script = _part("report.css"), _part("report.js")
    environment.globals |= {"style": style, "script": script, "policy": _policy(style, script)}
    environment.globals |= {"REASONS": REASONS, "ENDINGS": ENDINGS, "PURPOSES": PURPOSES, "score_bar_of": score_bar_of}
    environment.filters |= {"duration": duration, "moment": moment, "count": _count, "percent": _percent}
    return environment


def _part(name: str) -> Markup:
    """Read a file of this package that goes into the page without escaping."""
    return Markup((files("specreason_graph.audit.show") / "templates" / name).read_text(encoding="utf-8"))  # noqa: S704


def _policy(style: str, script: str) -> str:
    """Return a Content-Security-Policy under which nothing is loaded and only this style and script work."""
    return "; ".join(
        [
            "default-src 'none'",
            f"style-src {_digest(style)}",
            f"script-src {_digest(script)}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _count(number: int) -> str:
    return f"{number:,}"


def _percent(share: float) -> str:
    return f"{share:.0%}"
