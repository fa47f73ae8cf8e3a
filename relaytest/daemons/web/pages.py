"""Routes and pages."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any

import structlog
from fastapi import FastAPI, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from relaytest.core.config import Config, split_endpoint
from relaytest.core.dns_check import Question, in_words
from relaytest.core.errors import DatabaseAwayError, RefusedRequestError
from relaytest.core.target import Address, parse_address
from relaytest.core.token import mask
from relaytest.core.transcript import visible
from relaytest.core.values import format_value
from relaytest.core.zone import query_name, zones_of
from relaytest.daemons import shipped
from relaytest.daemons.loop import Stop
from relaytest.net.dns_query import ask
from relaytest.net.http_server import serve_http
from relaytest.store import jobs, pages
from relaytest.store.database import Database

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_TEXTS = ("about-testing", "criteria", "faq", "using")
_LONGEST_BODY = 2048  # octets of a form

log = structlog.get_logger("web")


async def run(config: Config, database: Database, stop: Stop) -> None:
    """Serve pages until `stop`.

    Raises:
        OSError: web.listen is taken or not ours.
    """
    application = make_application(config, database)
    async with serve_http(*split_endpoint(config.web.listen), application):
        log.info("listening", at=config.web.listen)
        await stop.wait()


def make_application(config: Config, database: Database) -> FastAPI:
    """Return the pages as an ASGI application."""
    application = FastAPI(title="relaytest", docs_url=None, redoc_url=None, openapi_url=None)
    site = Site(config, database)
    application.get("/", response_class=HTMLResponse)(site.home)
    application.get("/lookup")(site.find)
    application.get("/lookup/{address:path}", response_class=HTMLResponse)(site.lookup)
    application.get("/evidence/{trial}", response_class=HTMLResponse)(site.evidence)
    application.get("/fix", response_class=HTMLResponse)(site.fix_anything)
    application.get("/fix/{address:path}", response_class=HTMLResponse)(site.fix)
    for name in _TEXTS:
        application.get(f"/{name}", response_class=HTMLResponse)(partial(site.text, f"{name}.html"))
    application.post("/removal", response_class=HTMLResponse)(site.removal)
    application.add_exception_handler(404, site.no_page)
    application.add_exception_handler(405, site.wrong_use)
    application.add_exception_handler(RequestValidationError, site.wrong_use)
    application.middleware("http")(_guard)
    return application


async def _guard(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
    """Bound the body, answer for the database, and set the headers of every page."""
    length = request.headers.get("content-length", "0")
    if request.method == "POST" and (not length.isdigit() or int(length) > _LONGEST_BODY):
        response: Response = PlainTextResponse("The form is too long.\n", 413)
    elif request.method == "POST" and "chunked" in request.headers.get("transfer-encoding", ""):
        response = PlainTextResponse("Send the form with a Content-Length.\n", 411)
    else:
        try:
            response = await proceed(request)
        except DatabaseAwayError:
            response = PlainTextResponse("The database is away; please try again.\n", 503)
            response.headers["Retry-After"] = "5"
        except Exception:
            log.exception("page failed", path=request.url.path)
            response = PlainTextResponse("Something is wrong here; we can see what.\n", 500)
    response.headers.update(_HEADERS)
    return response


class Site:
    """The pages' handlers: rows in, HTML out."""

    def __init__(self, config: Config, database: Database) -> None:
        self._config = config
        self._database = database
        self._forms = shipped.battery_of(config).by_number()
        self._asked = shipped.battery_of(config).up_to(config.tier)
        self._templates = Environment(
            loader=PackageLoader("relaytest.daemons.web"),
            autoescape=True,
            undefined=StrictUndefined,
        )
        self._templates.filters["visible"] = lambda octets: mask(visible(octets))
        self._templates.filters["masked"] = mask
        self._templates.filters["duration"] = format_value
        self._templates.filters["plain"] = lambda path: path.replace("${", "").replace("}", "")

    async def home(self) -> HTMLResponse:
        """One field, and how much is listed."""
        async with self._database.transaction() as connection:
            counts = await pages.counts(connection)
        return self._page("home.html", counts=counts)

    async def text(self, template: str) -> HTMLResponse:
        """One of the pages that hold no more than the configuration and our word."""
        return self._page(template, config=self._config, forms=len(self._asked))

    async def find(self, address: str = "") -> Response:
        """The home page's form lands here."""
        try:
            return RedirectResponse(f"/lookup/{parse_address(address)}", 303)
        except ValueError:
            return self._not_an_address(address)

    async def lookup(self, address: str) -> HTMLResponse:
        """Everything about one address."""
        try:
            parsed = parse_address(address)
        except ValueError:
            return self._not_an_address(address)
        return await self._lookup(parsed)

    async def _lookup(self, address: Address, message: str = "", status: int = 200) -> HTMLResponse:
        async with self._database.transaction() as connection:
            standing = await pages.standing_of(connection, address)
        zones = reversed(zones_of(self._config))  # of several with one code the first counts
        names = {apex.code: query_name(address, apex.zone) for apex in zones}
        values = {"standing": standing, "names": names, "dns": await self._dns(address)}
        return self._page("lookup.html", status, address=address, message=message, **values)

    async def _dns(self, address: Address) -> str:
        """What the list's DNS server says at this moment; empty if we do not know it."""
        publish = self._config.publish
        if not publish.server:
            return ""
        question = Question(query_name(address, publish.zone), "A")
        return in_words(await ask(publish.server, question, self._config.dns.timeout))

    async def evidence(self, trial: int) -> HTMLResponse:
        """Transcripts and returned messages of one trial."""
        async with self._database.transaction() as connection:
            found = None
            if 0 < trial < 1 << 40:
                found = await pages.trial_evidence(connection, trial)
        if found is None:
            return self._page("message.html", 404, title="No such evidence", text="")
        response = self._page("evidence.html", evidence=found, forms=self._forms)
        response.headers["X-Robots-Tag"] = "noindex"
        return response

    async def fix_anything(self) -> HTMLResponse:
        """What closes a relay, product by product."""
        return self._page("fix-all.html", advice=shipped.advice())

    async def fix(self, address: str) -> HTMLResponse:
        """What closes this relay."""
        try:
            parsed = parse_address(address)
        except ValueError:
            return self._not_an_address(address)
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

    async def removal(
        self, address: Annotated[str, Form(max_length=60)], port: Annotated[int, Form()] = 25
    ) -> HTMLResponse:
        """Ask for the retest that takes a listed address off the list.

        Only what is listed is tested; for any other address no packet is sent.
        """
        try:
            parsed = parse_address(address)
        except ValueError:
            return self._not_an_address(address)
        async with self._database.transaction() as connection:
            standing = await pages.standing_of(connection, parsed)
            listed = port in {row["port"] for row in standing.listings}
            if listed:
                request = jobs.Request(
                    str(parsed), "removal-request", port=port, requester="removal form"
                )
                try:
                    await jobs.enqueue(connection, request)
                except RefusedRequestError as error:
                    return self._page("message.html", 409, title="Not possible", text=str(error))
        if not listed:
            return await self._lookup(parsed, "This address is not listed: nothing to do.", 409)
        log.info("removal requested", address=str(parsed), port=port)
        return await self._lookup(
            parsed, "Your request is in. The server is tested again now; reload to see.", 202
        )

    async def no_page(self, _: Request, __: Exception) -> HTMLResponse:
        """Say that there is nothing under this URL."""
        return self._page("message.html", 404, title="No such page", text="")

    async def wrong_use(self, _: Request, error: Exception) -> HTMLResponse:
        """Say that a form was not sent as it is meant to be."""
        status = 422 if isinstance(error, RequestValidationError) else 405
        return self._page("message.html", status, title="Please use the form", text="")

    def _not_an_address(self, text: str) -> HTMLResponse:
        return self._page(
            "message.html",
            400,
            title="Not an address",
            text=f"{text[:60]!r} is no IPv4 or IPv6 address, such as 192.0.2.1 or 2001:db8::1.",
        )

    def _page(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:  # noqa: ANN401 - template values
        text = self._templates.get_template(template).render(
            zone=self._config.publish.zone, contact=self._config.identity.contact, **values
        )
        return HTMLResponse(text, status)
