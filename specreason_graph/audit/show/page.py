"""Self-contained HTML pages from templates, with a policy that lets only the page's own script run."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from specreason_graph.audit.show.labels import ENDINGS, PURPOSES, REASONS, duration, moment
from specreason_graph.audit.show.step_view import score_bar_of
from specreason_graph.audit.show.visible import visible

LONG = 200
"""Steps from which on browsers lay out only those in view."""


class Served(NamedTuple):
    """What a page shows besides, when it is served and not written to a file."""

    home: str
    """Address of the list of runs."""
    events: str = ""
    """Address of the events that the page follows; empty where it follows nothing."""
    saved: str = ""
    """Address of the same page as a file."""
    compare: str = ""
    """Address of the page that compares two runs."""

    @property
    def policy(self) -> str:
        """The Content-Security-Policy of a page that may ask its own server for events."""
        return served_policy()


def render(template: str, *, live: Served | None = None, **values: Any) -> str:
    """Render a page from a template; all values are escaped. ``live``: how it is served."""
    return _environment().get_template(template).render(live=live, **values)


def fragment(template: str, macro: str, *values: Any) -> Markup:
    """Render one macro of a template, a part of a page."""
    return Markup(getattr(_environment().get_template(template).module, macro)(*values))  # noqa: S704 - it is escaped


def served_policy() -> str:
    """Return the Content-Security-Policy of served pages: they may also ask their own server for events."""
    return f"{_environment().globals['policy']}; connect-src 'self'"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("specreason_graph.audit.show"), autoescape=True, finalize=visible,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style, script = _part("report.css"), _part("report.js")
    environment.globals |= {"style": style, "script": script, "policy": _policy(style, script)}
    environment.globals["LONG"] = LONG
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
