"""The pages of a database as a local server, which follow its runs while they go on.

It answers on this machine only, to whoever has the token in the address, and only reads. Its pages ask nobody else for
anything.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import uvicorn
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from specreason_graph.audit.check.verify import Verification, verify
from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.audit.show.catalogue import LIST, POLL_SECONDS, Catalogue
from specreason_graph.audit.show.page import Served, served_policy
from specreason_graph.audit.show.parts import PARTS, SLOW, Digests, PageState, digest, render_parts, state_of
from specreason_graph.audit.show.place import Links, Place
from specreason_graph.audit.show.report import render_comparison, render_list, render_run, render_view
from specreason_graph.audit.show.run_view import RunView, StepMemory, Verified
from specreason_graph.errors import SpecReasonError, ThreadError, UsageError

HOST = "127.0.0.1"
KEPT_STATES = 64
"""States of pages that are remembered, so that a page is sent only what it lacks; a page of an older one loads anew."""
REST = 10
"""What takes long, the verification and the drawings, is made anew after this many times the time that it took."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every answer."""


class ViewServer:
    """Serves the runs of one database."""

    def __init__(self, where: str, token: str | None = None) -> None:
        self.catalogue = Catalogue(where)
        self.token = token or secrets.token_urlsafe(16)
        self._states = OrderedDict[str, tuple[Any, Verified | None]]()
        self._lock = threading.Lock()
        self.app = Starlette(
            routes=[
                Mount(
                    f"/{self.token}",
                    routes=[
                        Route("/", self._list),
                        Route("/events", self._list_events),
                        Route("/run", self._run),
                        Route("/run/events", self._run_events),
                        Route("/run/saved", self._saved),
                        Route("/compare", self._compare),
                    ],
                )
            ],
            middleware=[
                Middleware(_Guard, token=self.token),
                Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False),
            ],
            exception_handlers={SpecReasonError: _explain, Exception: _bug},
            lifespan=self._lifespan,
        )

    def url(self, port: int) -> str:
        """Return the address of the list of runs."""
        return f"http://{HOST}:{port}/{self.token}/"

    def run(self, port: int, ready: Callable[[str], None]) -> None:
        """Serve until interrupted; ``ready`` is called with the address. Raises `UsageError` for a port that is taken.

        ``port``: 0 takes a free one.
        """
        try:
            listening = socket.create_server((HOST, port))
        except OSError as error:
            hint = "choose another one with --port, or leave it out"
            raise UsageError(f"port {port} cannot be used: {error.strerror}", hint=hint) from None
        with listening:
            ready(self.url(listening.getsockname()[1]))
            config = uvicorn.Config(
                self.app,
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=1,
            )
            with suppress(KeyboardInterrupt):  # uvicorn raises it once more when it has ended
                uvicorn.Server(config).run(sockets=[listening])

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        with self.catalogue.watching():
            yield

    def _list(self, _: Request) -> Response:
        rows = self.catalogue.read_list()
        state = self._remember({row.id: digest(row.html) for row in rows})
        live = Served(home="./", events=f"events?from={state}", compare="compare")
        return HTMLResponse(render_list([row.html for row in rows], live))

    def _run(self, request: Request) -> Response:
        place = Place.read(request.query_params)
        run, view = self._view(place)
        shown = render_parts(view)
        state = self._remember(state_of(view, shown), view.verification)
        query = Place.of(run).query
        live = Served(home="./", events=f"run/events?{query}&from={state}", saved=f"run/saved?{query}")
        return HTMLResponse(render_view(view, shown, live))

    def _saved(self, request: Request) -> Response:
        run, view = self._view(Place.read(request.query_params))
        name = f"run-{re.sub('[^0-9A-Za-z]', '', run.run)[:12] or 'unnamed'}.html"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return HTMLResponse(render_run(run, view.verification), headers=headers)

    def _compare(self, request: Request) -> Response:
        places = [Place.read(request.query_params.get(name, "")) for name in ("one", "other")]
        one, other = (place.find(self.catalogue.read_anew(place.thread)) for place in places)
        page = render_comparison(
            one, other, _verified(one), _verified(other), pages=(places[0].url, places[1].url), live=Served(home="./")
        )
        return HTMLResponse(page)

    def _list_events(self, request: Request) -> Response:
        state, _ = self._states.get(request.query_params.get("from", ""), (None, None))
        return EventSourceResponse(self._list_changes(state))

    def _run_events(self, request: Request) -> Response:
        name = request.headers.get("last-event-id") or request.query_params.get("from", "")
        state, verification = self._states.get(name, (None, None))
        return EventSourceResponse(self._run_changes(Place.read(request.query_params), state, verification))

    async def _list_changes(self, sent: dict[str, str] | None) -> AsyncIterator[dict[str, str]]:
        """Yield each row that is new, has changed or is gone."""
        if sent is None:
            yield _event("reload")
            return
        sent, told = dict(sent), None
        with self.catalogue.followed(LIST):
            while True:
                rows = {row.id: row.html for row in self.catalogue.rows}
                for name in sent.keys() - rows.keys():
                    del sent[name]
                    yield _event("row", {"id": name, "row": ""})
                for name, html in rows.items():
                    if sent.get(name) != (found := digest(html)):
                        sent[name] = found
                        yield _event("row", {"id": name, "row": html})
                problem = self.catalogue.problem or ("" if self.catalogue.is_whole else "reading the database")
                if told != problem:
                    told = problem
                    yield _told(told)
                await anyio.sleep(POLL_SECONDS)

    async def _run_changes(
        self, place: Place, state: PageState | None, verification: Verified | None
    ) -> AsyncIterator[dict[str, str]]:
        """Yield what changes on the page of a run."""
        if state is None:
            yield _event("reload")
            return
        page, told = FollowedPage(self.catalogue, place, state, verification), None
        with self.catalogue.followed(place.thread):
            while True:
                change = await run_in_threadpool(page.change)
                if change:
                    yield _event("run", change, id=self._remember(page.state, page.verification))
                problem = self.catalogue.problem or page.problem or ""
                if told != problem:
                    told = problem
                    yield _told(told)
                await anyio.sleep(POLL_SECONDS)

    def _view(self, place: Place) -> tuple[RecordedRun, RunView]:
        """Read a run from the database, and verify it."""
        run = place.find(self.catalogue.read_anew(place.thread))
        return run, RunView(run, _verified(run), self.catalogue.links(run))

    def _remember(self, state: Any, verification: Verified | None = None) -> str:
        name = state.name if isinstance(state, PageState) else digest(state)
        with self._lock:
            self._states[name] = state, verification
            self._states.move_to_end(name)
            while len(self._states) > KEPT_STATES:
                self._states.popitem(last=False)
        return str(name)


class FollowedPage:
    """One page of a run in a browser, and what it is still to be sent."""

    def __init__(
        self, catalogue: Catalogue, place: Place, state: PageState, verification: Verified | None = None
    ) -> None:
        self.state, self.verification = state, verification
        self.problem: str | None = None
        """Why the run cannot be followed at the moment; None while it can."""
        self._catalogue, self._place = catalogue, place
        self._shown: tuple[RecordedRun, Links] | None = None
        self._steps, self._digests = StepMemory(), Digests()
        self._slow_from = 0.0
        self._lacks_slow = False

    def change(self) -> dict[str, Any] | None:
        """Return what has changed since the last time; None where nothing has."""
        runs = self._catalogue.runs(self._place.thread)
        if runs is None:
            is_gone = self._catalogue.is_gone(self._place.thread)
            self.problem = "the thread is no longer in the database" if is_gone else None
            return None
        try:
            run = self._place.find(runs)
        except ThreadError as error:
            self.problem = str(error)
            return None
        self.problem = None
        if run.checkpoint_id < self.state.latest:  # the page was made from the database itself, a moment ago
            return None
        links, is_slow_due = self._catalogue.links(run), time.monotonic() >= self._slow_from
        if self._shown and self._shown[0] is run and self._shown[1] == links and not (self._lacks_slow and is_slow_due):
            return None
        self._shown = run, links
        return self._changed(run, whole=is_slow_due or run.finished)

    def _changed(self, run: RecordedRun, *, whole: bool) -> dict[str, Any] | None:
        """Render the parts, and what takes long if ``whole``; return those that the page does not show yet."""
        begun = time.monotonic()
        found = self.verification
        if whole and (found is None or (found.head, found.finished) != (run.head, run.finished)):
            self.verification = _verified(run)
        view = RunView(run, self.verification, self._catalogue.links(run), self._steps)
        parts = render_parts(view, [name for name in PARTS if whole or name not in SLOW])
        self.state, change = self.state.change_to(view, parts, self._digests)
        self._lacks_slow = not whole
        if whole:
            now = time.monotonic()
            self._slow_from = now + REST * (now - begun)
        return change


class _Guard:
    """Lets in who has the token, and puts the headers on every answer."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()
        headers = {**HEADERS, "Content-Security-Policy": f"{served_policy()}; frame-ancestors 'none'"}
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in self._headers}
                kept = [each for each in message["headers"] if each[0].lower() not in own]
                message = {**message, "headers": [*kept, *self._headers]}
            await send(message)

        given = scope["path"].split("/")[1].encode()
        app = self._app if secrets.compare_digest(given, self._token) else _REFUSED
        await app(scope, receive, with_headers)


_REFUSED = PlainTextResponse("the address lacks the token that specreason view printed\n", status_code=403)


def _explain(_: Request, error: Exception) -> Response:
    status = 404 if isinstance(error, ThreadError) else 503
    return PlainTextResponse(f"{error}\n", status_code=status)


def _bug(_: Request, error: Exception) -> Response:
    """Say on the page what nobody foresaw: the other pages go on."""
    return PlainTextResponse(f"this is a bug of specreason: {type(error).__name__}: {error}\n", status_code=500)


def _verified(run: RecordedRun) -> Verification | None:
    """Verify a run; return None for a run without a ledger, or of a later version."""
    try:
        return verify(run)
    except ThreadError:
        return None


def _event(kind: str, data: Any = None, id: str = "") -> dict[str, str]:  # noqa: A002 - as the standard calls it
    return {"event": kind, "data": json.dumps(data), **({"id": id} if id else {})}


def _told(problem: str) -> dict[str, str]:
    return _event("problem", problem) if problem else _event("well")
