"""The page of a run in parts, so that a page that follows it is sent only what has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from markupsafe import Markup

from specreason_graph.audit.show.page import fragment
from specreason_graph.audit.show.run_view import RunView
from specreason_graph.audit.show.step_view import StepView
from specreason_graph.record.records import Plain

PARTS = {
    "head": "run_parts.html", "question": "run_parts.html", "answer": "parts.html", "verification": "parts.html",
    "in_flight": "run_parts.html", "sums": "run_parts.html", "made": "run_parts.html",
}  # fmt: skip
"""The parts of a page besides the steps, each a macro, with the template that holds it."""
SLOW = ("verification", "sums")
"""Parts whose time grows with the length of the run."""


def render_parts(view: RunView, names: Iterable[str] = PARTS) -> dict[str, Markup]:
    """Render these parts of a page."""
    return {name: fragment(PARTS[name], name, view) for name in names}


class PageState(NamedTuple):
    """What a page shows, as digests."""

    parts: dict[str, str]
    """Of each part, by name."""
    steps: tuple[str, ...]
    """Of each step, in order."""
    latest: str
    """The checkpoint that it shows."""

    @property
    def name(self) -> str:
        """Names the state: another one has another name."""
        return digest((sorted(self.parts.items()), self.steps, self.latest))

    def change_to(
        self, view: RunView, parts: dict[str, Markup], digests: Digests | None = None
    ) -> tuple[PageState, dict[str, Any] | None]:
        """Return the state of a page that shows these parts and steps, and what is to be sent to get it there.

        Parts that are not given stay as they are. None where nothing changes.
        """
        after = state_of(view, parts, digests)
        merged = after._replace(parts={**self.parts, **after.parts})
        changed = {f"part-{name}": html for name, html in parts.items() if merged.parts[name] != self.parts.get(name)}
        before = [*self.steps, *[""] * len(after.steps)]
        steps = [_sent(view.steps[at]) for at, each in enumerate(after.steps) if each != before[at]]
        if not changed and not steps and len(after.steps) == len(self.steps):
            return merged, None
        return merged, {"parts": changed, "steps": steps, "length": len(after.steps)}


class Digests:
    """The digests of records that are asked for again and again while their run goes on."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Plain, str]] = {}

    def of(self, plain: Plain) -> str:
        """Return the digest of a record; the same dictionary gives the same one."""
        known = self._known.get(id(plain))
        if known is None or known[0] is not plain:
            known = self._known[id(plain)] = plain, digest(plain)
        return known[1]


def state_of(view: RunView, parts: dict[str, Markup], digests: Digests | None = None) -> PageState:
    """Return the state of a page that shows these parts and the steps of a run."""
    known = digests or Digests()
    steps = tuple(
        digest((known.of(plain), each.problems, each.change, each.inherited, each.gone_at, _prompts(each)))
        for plain, each in zip(view.run.trace, view.steps, strict=True)
    )
    return PageState({name: digest(html) for name, html in parts.items()}, steps, view.run.checkpoint_id)


def digest(value: object) -> str:
    """Return a short hash of a value, by its text."""
    return hashlib.blake2b(repr(value).encode(), digest_size=12).hexdigest()


def _prompts(step: StepView) -> list[tuple[int, int]]:
    return [(len(each.before.steps), each.before.tokens) for each in step.prompts]


def _sent(step: StepView) -> dict[str, Any]:
    article, entry = fragment("step.html", "article", step), fragment("step.html", "outline", step)
    return {"number": step.number, "article": article, "outline": entry}
