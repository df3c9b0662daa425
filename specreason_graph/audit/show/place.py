"""Where a run is kept, as the address of its page says it, and which pages lead to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self
from urllib.parse import parse_qsl, urlencode

from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.errors import ThreadError


class Link(NamedTuple):
    """A link to the page of another run."""

    label: str
    """Text of the link."""
    url: str
    """Where the page is, relative to this one."""


class Links(NamedTuple):
    """Pages of other runs that a page leads to."""

    parent: str | None = None
    """Page of the run that this one was forked from; None where there is none."""
    forks: tuple[Link, ...] = ()
    """Pages of the runs that were forked from this one."""


class Place(NamedTuple):
    """A run of a database."""

    thread: str
    """Thread id."""
    namespace: str
    """Checkpoint namespace: empty at the root."""
    run: str
    """Name of the run; empty where it cannot be read."""
    end: str = ""
    """Last checkpoint, where the name alone does not tell which run is meant."""

    @classmethod
    def of(cls, run: RecordedRun) -> Self:
        """Return the place of a run."""
        return cls(run.thread_id, run.namespace, run.run, "" if run.run and not run.other_ends else run.checkpoint_id)

    @classmethod
    def before(cls, run: RecordedRun) -> Self | None:
        """Return the place of the run that this one was forked from; None if it is no fork."""
        lineage = run.manifest.get("forked_from")
        found = [lineage.get(name) for name in ("thread_id", "namespace", "run")] if isinstance(lineage, dict) else []
        texts = [each for each in found if isinstance(each, str)]  # a damaged record may hold anything
        return cls(*texts) if len(texts) == 3 else None

    @classmethod
    def read(cls, query: str | Mapping[str, str]) -> Self:
        """Read the place from the query of an address."""
        given = dict(parse_qsl(query)) if isinstance(query, str) else query
        return cls(*(given.get(name, "") for name in cls._fields))

    @property
    def name(self) -> tuple[str, str, str]:
        """The place by which other records name the run: they know nothing of its ends."""
        return self[:3]

    @property
    def query(self) -> str:
        """The place as the query of an address."""
        return urlencode({name: value for name, value in self._asdict().items() if value}, errors="replace")

    @property
    def url(self) -> str:
        """The page of the run, relative to the list of runs."""
        return f"run?{self.query}"

    def find(self, runs: Sequence[RecordedRun]) -> RecordedRun:
        """Return the run at this place; raise `ThreadError` where there is none."""
        for run in runs:
            same = (run.thread_id, run.namespace, run.run) == self.name
            if same and self.end in ("", run.checkpoint_id):
                return run
        named = f"run {self.run!r}" if self.run else "such run"
        raise ThreadError(f"there is no {named} in thread {self.thread!r}", hint="go back to the list of runs")


def links_between(runs: Sequence[RecordedRun], urls: Sequence[str]) -> list[Links]:
    """Return for each run the pages of the run that it was forked from and of those forked from it."""
    pages = {Place.of(run).name: url for run, url in zip(runs, urls, strict=True)}
    forks: dict[tuple[str, str, str], list[Link]] = {}
    parents = [Place.before(run) for run in runs]
    for run, parent, url in zip(runs, parents, urls, strict=True):
        if parent:
            forks.setdefault(parent.name, []).append(Link(run.run[:12], url))
    return [
        Links(pages.get(parent.name) if parent else None, tuple(forks.get(Place.of(run).name, ())))
        for run, parent in zip(runs, parents, strict=True)
    ]
