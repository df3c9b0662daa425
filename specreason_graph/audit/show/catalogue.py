"""The runs of a database while somebody works on it: a thread of its own reads what is new, and never writes."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from langgraph.checkpoint.base import BaseCheckpointSaver
from markupsafe import Markup

from specreason_graph.audit.read.follow import FollowedThread
from specreason_graph.audit.read.reader import read_runs
from specreason_graph.audit.read.recorded import Finding, RecordedRun
from specreason_graph.audit.read.saver import ThreadMark, data_version, open_database, thread_marks
from specreason_graph.audit.show.page import fragment
from specreason_graph.audit.show.parts import digest
from specreason_graph.audit.show.place import Link, Links, Place
from specreason_graph.audit.show.run_view import RunView
from specreason_graph.errors import SpecReasonError

POLL_SECONDS = 0.3
"""Least time between two looks at the database."""
REST = 1
"""A look is followed by a rest of this many times its own length, so that it leaves the machine to the engines."""
FOLLOWED = 6
"""Threads whose checkpoints are kept in memory, those that changed last."""
LONGEST_LOOK_SECONDS = 1.0
"""Seconds after which a look leaves what nobody looks at to the next one."""
AFTER_FAILURE_SECONDS = 1.0
FIRST_LOOK_SECONDS = 2.0
"""Seconds that the list of runs waits for what is new; what takes longer follows on the page."""
UNREADABLE = (SpecReasonError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What reading a damaged record may raise; errors of the database itself are none of these."""


LIST = "\0"
"""No thread, but the list of all runs, among what somebody looks at."""


class Row(NamedTuple):
    """One run in the list of runs."""

    id: str
    """Its id on the page."""
    place: Place
    """Where it is kept."""
    parent: Place | None
    """Where the run is kept that it was forked from; None if it is no fork."""
    label: str
    """The beginning of its name."""
    latest: str
    """Its last checkpoint, by which the list is ordered."""
    html: Markup
    """Its row on the page."""


class Catalogue:
    """What is known of the runs of a database."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.problem: str | None = None
        """Why the database cannot be read at the moment; None while it can."""
        self.is_whole = False
        """Whether each thread has been read once."""
        self._rows: dict[str, list[Row]] = {}
        self._runs: OrderedDict[str, tuple[FollowedThread, list[RecordedRun]]] = OrderedDict()
        self._marks: dict[str, ThreadMark] = {}
        self._wanted: dict[str, int] = {}
        self._stale = set[str]()
        self._present: frozenset[str] | None = None
        self._looks = 0
        self._seen: tuple[int | None, frozenset[str]] | None = None
        self._stopped = threading.Event()
        self._lock = threading.Lock()

    @property
    def rows(self) -> list[Row]:
        """All runs that were read so far, the latest first."""
        with self._lock:
            found = [row for rows in self._rows.values() for row in rows]
        return sorted(found, key=lambda row: row.latest, reverse=True)

    def read_list(self) -> list[Row]:
        """All runs after a look at the database, the latest first."""
        before, until = self._looks, time.monotonic() + FIRST_LOOK_SECONDS
        with self.followed(LIST):
            while (self._looks == before or not self.is_whole) and time.monotonic() < until and not self.problem:
                time.sleep(POLL_SECONDS / 10)
        return self.rows

    def read_anew(self, thread: str) -> list[RecordedRun]:
        """Read all runs of a thread from the database, whatever is known of it; `ThreadError` where there is none."""
        with open_database(self.where) as saver:
            mark, followed = thread_marks(saver).get(thread), FollowedThread(thread)
            runs = followed.read(saver, mark) if mark else []
            if mark is None or not runs:
                return read_runs(saver, thread)  # which tells why there is none
        self._keep(thread, mark, followed, runs)
        return runs

    def runs(self, thread: str) -> list[RecordedRun] | None:
        """Return the runs of a thread that is `followed`, as they were read last; None before the first reading."""
        with self._lock:
            found = self._runs.get(thread)
        return found[1] if found else None

    def is_gone(self, thread: str) -> bool:
        """Whether the database holds the thread no more."""
        return self._present is not None and thread not in self._present

    def links(self, run: RecordedRun) -> Links:
        """Return the pages that the page of a run leads to."""
        here, parent = Place.of(run).name, Place.before(run)
        forks = [row for row in self.rows if row.parent and row.parent.name == here]
        with self._lock:
            known = parent is not None and parent.thread in self._marks
        return Links(parent.url if parent and known else None, tuple(Link(row.label, row.place.url) for row in forks))

    @contextmanager
    def followed(self, thread: str) -> Iterator[None]:
        """Keep reading what is new while the context is open, of this thread first; `LIST` stands for the list."""
        with self._lock:
            self._wanted[thread] = self._wanted.get(thread, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self._wanted[thread] -= 1
                if not self._wanted[thread]:
                    del self._wanted[thread]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the database in a thread of its own while the context is open."""
        worker = threading.Thread(target=self._watch, name="specreason-view", daemon=True)
        worker.start()
        try:
            yield
        finally:
            self._stopped.set()
            worker.join()

    def _watch(self) -> None:
        while not self._stopped.is_set():
            try:
                with open_database(self.where) as saver:
                    self._watch_open(saver)
            except Exception as error:  # whatever a database does: it is opened again
                known = isinstance(error, SpecReasonError)
                self.problem = str(error) if known else f"the database cannot be read: {type(error).__name__}"
            self._stopped.wait(AFTER_FAILURE_SECONDS)

    def _watch_open(self, saver: BaseCheckpointSaver[Any]) -> None:
        self._seen = None
        while not self._stopped.is_set():
            begun = time.monotonic()
            if self._wanted:
                self._look(saver)
                self._looks += 1
                self.problem = None
            self._stopped.wait(max(POLL_SECONDS, REST * (time.monotonic() - begun)))

    def _look(self, saver: BaseCheckpointSaver[Any]) -> None:
        """Read the threads that have changed, first those that somebody looks at, then the latest ones."""
        looked_at, version = frozenset(self._wanted), data_version(saver)
        if self.is_whole and version is not None and self._seen == (version, looked_at):
            return  # nobody has written, and nobody looks at anything else
        marks = thread_marks(saver)
        self._present = frozenset(marks)
        for thread in self._rows.keys() - marks.keys():
            self._forget(thread)
        changed = [
            thread for thread, mark in marks.items()
            if self._marks.get(thread) != mark or (thread in self._wanted and thread not in self._runs)
            or (thread in self._stale and LIST in self._wanted)
        ]  # fmt: skip
        begun, others = time.monotonic(), 0
        for thread in sorted(changed, key=lambda each: each not in self._wanted):
            if self._stopped.is_set() or (others and time.monotonic() - begun > LONGEST_LOOK_SECONDS):
                self.is_whole = False
                return  # what somebody looks at may have gone on meanwhile: the rest is read at the next look
            others += thread not in self._wanted
            self._read(saver, thread, marks[thread])
        self.is_whole, self._seen = True, (version, looked_at)

    def _read(self, saver: BaseCheckpointSaver[Any], thread: str, mark: ThreadMark) -> None:
        followed = self._runs[thread][0] if thread in self._runs else FollowedThread(thread)
        try:
            runs = followed.read(saver, mark)
        except UNREADABLE as error:  # the other threads are shown, whatever is stored in this one
            broken = RecordedRun(thread, "", checkpoint_id=mark.latest)
            broken.findings.append(Finding(step=None, problem=f"it cannot be read: {error}"))
            runs = [broken]
        self._keep(thread, mark, followed, runs)

    def _keep(self, thread: str, mark: ThreadMark, followed: FollowedThread, runs: list[RecordedRun]) -> None:
        # To make the rows of the list takes as long as to read a run: they wait until somebody looks at the list.
        is_stale = LIST not in self._wanted and thread in self._rows and not all(run.finished for run in runs)
        rows = None if is_stale else [self._row(run) for run in runs]
        with self._lock:
            self._marks[thread] = mark
            self._runs[thread] = followed, runs
            self._runs.move_to_end(thread)
            if rows is None:
                self._stale.add(thread)
            else:
                self._stale.discard(thread)
                self._rows[thread] = rows
            spare = [each for each in self._runs if each not in self._wanted][: max(0, len(self._runs) - FOLLOWED)]
            for each in spare:
                del self._runs[each]

    def _forget(self, thread: str) -> None:
        with self._lock:
            self._rows.pop(thread, None)
            self._runs.pop(thread, None)
            self._marks.pop(thread, None)
            self._stale.discard(thread)

    def _row(self, run: RecordedRun) -> Row:
        place, parent = Place.of(run), Place.before(run)
        name = f"run-{digest(place)}"
        try:
            shown = RunView(run, links=Links(parent.url if parent else None))
            html = fragment("index_row.html", "row", shown, place.url, name, place.query)
        except UNREADABLE as error:
            html = fragment("index_row.html", "broken", run, place.url, name, str(error))
        return Row(name, place, parent, run.run[:12], run.checkpoint_id, html)
