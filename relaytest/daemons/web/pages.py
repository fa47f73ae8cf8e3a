"""Routes and pages."""

import contextlib
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

import structlog
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from relaytest import __version__
from relaytest.core.config import Config, split_endpoint
from relaytest.core.dns_check import Question, in_words
from relaytest.core.exhibit import within
from relaytest.core.target import Address, parse_address
from relaytest.core.values import parse_host_name
from relaytest.core.zone import query_name, zones_of
from relaytest.daemons import shipped
from relaytest.daemons.loop import Stop
from relaytest.daemons.names import mail_addresses
from relaytest.daemons.presence import present
from relaytest.daemons.web.api import Api
from relaytest.daemons.web.evidence import EvidencePages
from relaytest.daemons.web.guard import PREFIX, Doorman, Guard, is_api, plainly
from relaytest.daemons.web.kept import Kept
from relaytest.daemons.web.post_office import PostOffice
from relaytest.daemons.web.progress import ProgressPages
from relaytest.daemons.web.removal import RemovalPages
from relaytest.daemons.web.render import Renderer
from relaytest.daemons.web.status import StatusPage
from relaytest.net.dns import Resolver
from relaytest.net.dns_query import ask
from relaytest.net.http_server import serve_http
from relaytest.net.service_manager import take
from relaytest.store import nominations, pages
from relaytest.store.database import Database

_MOST_ID = 1 << 40
_FRESH = timedelta(seconds=10)  # of the home page's counts, which take long on a large list
_SOME_HISTORY, _WHOLE_HISTORY = 6_000, 24_000  # characters of it
_FRAME = 150  # characters around one change
_TEXTS = ("about-testing", "criteria", "faq", "using")

log = structlog.get_logger("web")


async def run(config: Config, database: Database, stop: Stop) -> None:
    """Serve pages until `stop`.

    Raises:
        OSError: web.listen is taken or not ours.
    """
    async with Resolver(config.dns.nameservers, config.dns.timeout) as resolver:
        application = make_application(config, database, resolver)
        async with serve(config, application), present("web", database, stop):
            log.info("listening", at=config.web.listen)
            await stop.wait()


def serve(
    config: Config, application: FastAPI
) -> contextlib.AbstractAsyncContextManager[tuple[str, int]]:
    """Serve on the socket that is held for us, or on one of our own."""
    place = config.web.listen
    return serve_http(*split_endpoint(place), application, listening=take([place]).get(place))


def make_application(config: Config, database: Database, resolver: Resolver) -> FastAPI:
    """Return the pages and the API as an ASGI application."""
    application = FastAPI(
        title=f"{config.publish.zone}: list of open mail relays",
        version=__version__,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
    )
    renderer = Renderer(config)
    site = Site(config, database, resolver, renderer)
    application.include_router(Api(config, database).routes())
    application.include_router(site.routes())
    application.add_exception_handler(HTTPException, site.not_so)
    application.add_exception_handler(RequestValidationError, site.wrong_values)
    application.add_middleware(Guard)
    return application


class Site:
    """The pages' handlers: rows in, HTML out."""

    def __init__(
        self, config: Config, database: Database, resolver: Resolver, renderer: Renderer
    ) -> None:
        self._config = config
        self._database = database
        self._resolver = resolver
        self._renderer = renderer
        self._page = renderer.page
        self._doorman = Doorman(config)
        self._post = PostOffice(config, database, renderer)
        self._parts = (
            self._post,
            RemovalPages(config, database, renderer, self._post, self._lookup),
            EvidencePages(config, database, renderer),
            ProgressPages(database, renderer),
            StatusPage(database, renderer),
        )
        self._counts = Kept(self._count, _FRESH)
        self._forms = shipped.battery_of(config).by_number()
        self._asked = shipped.battery_of(config).up_to(config.tier)

    async def _count(self) -> pages.Row:
        async with self._database.transaction() as connection:
            return await pages.counts(connection)

    def routes(self) -> APIRouter:
        """Return all pages."""
        router = APIRouter(include_in_schema=False)
        page = partial(router.get, response_class=HTMLResponse)
        router.get("/static/{name}")(self.file)
        page("/")(self.home)
        router.get("/lookup")(self.find)
        page("/lookup/{address:path}")(self.lookup)
        page("/history/{address:path}")(self.history)
        page("/fix")(self.fix_anything)
        page("/fix/{address:path}")(self.fix)
        for name in _TEXTS:
            page(f"/{name}")(partial(self.text, f"{name}.html"))
        for part in self._parts:
            part.add_to(router)
        return router

    async def home(self, request: Request) -> HTMLResponse:
        """One field, how things are with the visitor's own address, and how much is listed."""
        visitor = self._doorman.client(request)
        counts = await self._counts()
        async with self._database.transaction() as connection:
            listed = await pages.listed(connection, [visitor] if visitor else [])
        return self._page("home.html", counts=counts, visitor=visitor, visitor_listed=bool(listed))

    async def file(self, name: str) -> Response:
        """A style sheet or a script."""
        try:
            return self._renderer.file(name)
        except KeyError:
            return self._renderer.message(404, "No such page")

    async def text(self, template: str) -> HTMLResponse:
        """One of the pages that hold no more than the configuration and our word."""
        return self._page(template, config=self._config, forms=len(self._asked))

    async def find(self, request: Request, address: str = "") -> Response:
        """The home page's form lands here."""
        try:
            return RedirectResponse(f"/lookup/{parse_address(address)}", 303)
        except ValueError:
            try:
                name = parse_host_name(address.strip())
            except ValueError:
                return self._renderer.not_an_address(address)
        return await self._find_name(request, name)

    async def _find_name(self, request: Request, name: str) -> Response:
        """Show the addresses that take mail for a name."""
        async with self._database.transaction() as connection:
            limits = self._doorman.limits(request, "name")
            often = await self._doorman.admit(connection, limits)
        if often:
            return self._renderer.too_often(often)
        answer = await mail_addresses(self._resolver, name)
        async with self._database.transaction() as connection:
            listed = await pages.listed(connection, list(answer.found))
        rows = [(address, host, address in listed) for address, host in answer.found.items()]
        status = 200 if rows else 503 if answer.silent else 404
        return self._page("names.html", status, name=name, rows=rows, why=answer.why)

    async def lookup(self, address: str) -> HTMLResponse:
        """Everything about one address."""
        try:
            parsed = parse_address(address)
        except ValueError:
            return self._renderer.not_an_address(address)
        return await self._lookup(parsed)

    async def _lookup(self, address: Address, message: str = "", status: int = 200) -> HTMLResponse:
        async with self._database.transaction() as connection:
            standing = await pages.standing_of(connection, address)
            samples = await nominations.of_address(connection, address)
        zones = reversed(zones_of(self._config))  # of several with one code the first counts
        names = {apex.code: query_name(address, apex.zone) for apex in zones}
        values = {"standing": standing, "names": names, "dns": await self._dns(address)}
        values |= {"samples": samples, "mail": self._post.possible}
        values |= _some_of(standing.history, _SOME_HISTORY)
        return self._page("lookup.html", status, address=address, message=message, **values)

    async def _dns(self, address: Address) -> str:
        """What the list's DNS server says at this moment; empty if we do not know it."""
        publish = self._config.publish
        if not publish.server:
            return ""
        question = Question(query_name(address, publish.zone), "A")
        return in_words(await ask(publish.server, question, self._config.dns.timeout))

    async def history(self, address: str, before: int = pages.LAST) -> HTMLResponse:
        """All changes of an address's listings, the newest first, page by page."""
        try:
            parsed = parse_address(address)
        except ValueError:
            return self._renderer.not_an_address(address)
        if not 0 < before <= pages.LAST:
            return self._renderer.message(404, "No such page")
        async with self._database.transaction() as connection:
            rows = await pages.history_of(connection, parsed, before)
        return self._page("history.html", 200, address=parsed, **_some_of(rows, _WHOLE_HISTORY))

    async def fix_anything(self) -> HTMLResponse:
        """What closes a relay, product by product."""
        return self._page("fix-all.html", advice=shipped.advice())

    async def fix(self, address: str) -> HTMLResponse:
        """What closes this relay."""
        try:
            parsed = parse_address(address)
        except ValueError:
            return self._renderer.not_an_address(address)
        async with self._database.transaction() as connection:
            verdict = (await pages.standing_of(connection, parsed)).decisive
            said = await pages.said_in(connection, verdict["trial"]) if verdict else ""
        advice, by_id = shipped.advice(), {form.id: form for form in self._forms.values()}
        relayed = [by_id[id_] for id_ in (verdict["forms"] if verdict else ()) if id_ in by_id]
        return self._page(
            "fix.html",
            address=parsed,
            verdict=verdict,
            forms=relayed,
            product=advice.product_of(said),
            holes=advice.holes_of(relayed) if relayed else (),
        )

    async def not_so(self, request: Request, error: Exception) -> Response:
        """Say that there is nothing under this URL, or not in this way."""
        assert isinstance(error, HTTPException)
        if is_api(request):
            return plainly(request, error.status_code, str(error.detail), error.headers)
        title = "No such page" if error.status_code == 404 else "Please use the form"
        return self._renderer.message(error.status_code, title)

    async def wrong_values(self, request: Request, error: Exception) -> Response:
        """Say that a form was not sent as it is meant to be."""
        assert isinstance(error, RequestValidationError)
        if is_api(request):
            faults = [(one["loc"][1:], one["msg"]) for one in error.errors()[:10]]
            told = "; ".join(f"{'.'.join(map(str, place))}: {why}" for place, why in faults)
            return plainly(request, 422, told)
        return self._renderer.message(422, "Please use the form")


def _some_of(history: Sequence[pages.Row], most: int) -> dict[str, object]:
    """Return the newest changes, so many characters of them, and the id of the last if not all."""
    shown, whole = within((row["why"] for row in history), most, each=_FRAME)
    rows = list(zip(history, shown, strict=False))
    whole = whole and len(history) < pages.MOST_HISTORY
    return {"history": rows, "before": None if whole else rows[-1][0]["id"]}
