"""The console as an aiohttp application: routes, login, pages and downloads."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jinja2
from aiohttp import web

from farthing.kit.clock import Clock
from farthing.kit.errors import FarthingError, PermissionDenied, Unauthenticated
from farthing.kit.version import __version__
from farthing.ledger.console import csv_files, formats, security
from farthing.ledger.console.overview import read_overview
from farthing.ledger.console.sessions import Sessions
from farthing.ledger.console.trace_view import make_trace_view
from farthing.ledger.console.windows import Window, read_window, window_choices
from farthing.ledger.core.spend import MAX_ROW_LIMIT, UNROLLED, Dimension, SpendQuery
from farthing.ledger.store import LedgerStore

COOKIE = "farthing_console"
_MAX_FORM_BYTES = 16 * 1024
_COMPARED_TRACE_COUNT = 500
_OPEN_PATHS = ("/login", "/static/")
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_FOLDER = Path(__file__).parent

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_console(
    store: LedgerStore, sessions: Sessions, clock: Clock, *, session_s: int, secure_cookie: bool
) -> web.Application:
    """The application. `secure_cookie` when browsers reach it over HTTPS."""
    console = _Console(store, sessions, clock, session_s, secure_cookie)
    application = web.Application(
        client_max_size=_MAX_FORM_BYTES, middlewares=[console.guard, console.explain]
    )
    application.on_response_prepare.append(security.add_headers)
    application.router.add_get("/", console.overview)
    application.router.add_get("/spend/{dimension}.csv", console.spend_file)
    application.router.add_get("/traces/{trace_id}", console.trace)
    application.router.add_get("/traces/{trace_id}/charges.csv", console.charges_file)
    application.router.add_get("/books", console.books)
    application.router.add_get("/books/traces.csv", console.balances_file)
    application.router.add_get("/login", console.login_form)
    application.router.add_post("/login", console.login)
    application.router.add_post("/logout", console.logout)
    application.router.add_static("/static/", _FOLDER / "static")
    return application


class _Console:
    def __init__(
        self,
        store: LedgerStore,
        sessions: Sessions,
        clock: Clock,
        session_s: int,
        secure_cookie: bool,
    ) -> None:
        self._store, self._sessions, self._clock = store, sessions, clock
        self._session_s, self._secure_cookie = session_s, secure_cookie
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(
            money=formats.show_money,
            count=formats.show_count,
            quantity=formats.show_quantity,
            time=formats.show_time,
            duration=formats.show_duration,
        )
        self._templates.globals.update(
            share=formats.show_share, windows=window_choices(), version=__version__
        )

    @web.middleware
    async def guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Lets nobody past the login without a session, and takes forms from our own pages only."""
        if request.method == "POST" and not security.comes_from_our_page(request):
            raise web.HTTPForbidden(text="this form was sent from another site\n")
        if not request.path.startswith(_OPEN_PATHS):
            if not await self._sessions.check(request.cookies.get(COOKIE)):
                raise web.HTTPSeeOther("/login")
        return await handler(request)

    @web.middleware
    async def explain(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Shows errors as pages."""
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return self._fail(error.status, error.reason)
        except FarthingError as error:
            return self._fail(503, error.message)

    async def overview(self, request: web.Request) -> web.Response:
        """Spend by tenant, model and region, and the newest requests."""
        window = self._window(request)
        page = await read_overview(self._store, window)
        return self._render("overview.html", window=window, page=page, path="/")

    async def spend_file(self, request: web.Request) -> web.Response:
        """One of the overview's tables, whole."""
        try:
            dimension = Dimension(request.match_info["dimension"])
        except ValueError:
            raise web.HTTPNotFound from None
        if dimension in UNROLLED:
            raise web.HTTPNotFound
        window = self._window(request)
        bounds = (window.start_ns, window.end_ns)
        result, whole = await self._store.query_spend(
            [
                SpendQuery(*bounds, (dimension,), row_limit=MAX_ROW_LIMIT, with_lines=False),
                SpendQuery(*bounds, with_lines=False),
            ]
        )
        text = csv_files.write_spend(dimension, result, whole.rows[0])
        return _file(text, f"spend-by-{dimension}-{window.name}.csv")

    async def trace(self, request: web.Request) -> web.Response:
        """The waterfall of one trace with its decisions and charges."""
        trace_id = _trace_id(request)
        spans = await self._store.trace_spans(trace_id)
        charges = await self._store.trace_charges(trace_id)
        if not spans and not charges:
            raise web.HTTPNotFound(reason="No span and no charge of this trace is known")
        page = make_trace_view(trace_id, spans, charges)
        return self._render("trace.html", page=page, path="")

    async def charges_file(self, request: web.Request) -> web.Response:
        """The charges of one trace, line by line."""
        trace_id = _trace_id(request)
        charges = await self._store.trace_charges(trace_id)
        return _file(csv_files.write_charges(charges), f"charges-{trace_id}.csv")

    async def books(self, request: web.Request) -> web.Response:
        """Whether the books balance and the spans tell the same as the charges."""
        window = self._window(request)
        return self._render(
            "books.html",
            window=window,
            books=await self._store.books(),
            balances=await self._compare(window),
            most=_COMPARED_TRACE_COUNT,
            path="/books",
        )

    async def balances_file(self, request: web.Request) -> web.Response:
        """The comparison of spans and charges."""
        window = self._window(request)
        text = csv_files.write_balances(await self._compare(window))
        return _file(text, f"traces-{window.name}.csv")

    async def login_form(self, request: web.Request) -> web.Response:
        """Asks for a key."""
        return self._render("login.html", fault="")

    async def login(self, request: web.Request) -> web.Response:
        """Opens a session for an administrator's key."""
        key = str((await request.post()).get("key", "")).strip()
        try:
            token = await self._sessions.open(key)
        except (Unauthenticated, PermissionDenied) as error:
            return self._render("login.html", HTTPStatus.FORBIDDEN, fault=error.message)
        except FarthingError as error:
            return self._render(
                "login.html", HTTPStatus.SERVICE_UNAVAILABLE, fault=error.message
            )
        response = web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": "/"})
        response.set_cookie(
            COOKIE,
            token,
            httponly=True,
            samesite="Strict",
            secure=self._secure_cookie,
            max_age=self._session_s,
            path="/",
        )
        return response

    async def logout(self, request: web.Request) -> web.Response:
        """Ends the session."""
        self._sessions.close(request.cookies.get(COOKIE))
        response = web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": "/login"})
        response.del_cookie(COOKIE, path="/")
        return response

    def _window(self, request: web.Request) -> Window:
        return read_window(request.query.get("range"), self._clock.time_ns())

    async def _compare(self, window: Window) -> list[Any]:
        return list(
            await self._store.compare_traces(
                window.start_ns, window.end_ns, _COMPARED_TRACE_COUNT
            )
        )

    def _fail(self, status: int, message: str) -> web.Response:
        return self._render("error.html", status, message=message, status_code=status)

    def _render(self, template: str, status: int = 200, /, **values: Any) -> web.Response:
        text = self._templates.get_template(template).render(values)
        return web.Response(text=text, status=status, content_type="text/html")


def _trace_id(request: web.Request) -> str:
    trace_id = request.match_info["trace_id"]
    if not _TRACE_ID.fullmatch(trace_id):
        raise web.HTTPNotFound(reason="A trace id has 32 lower-case hex digits")
    return trace_id


def _file(text: str, name: str) -> web.Response:
    return web.Response(
        text=text,
        content_type="text/csv",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
