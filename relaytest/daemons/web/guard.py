"""What holds for every request: its bounds, its answer's headers, and how often it may come."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import ceil

import structlog
from fastapi import Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relaytest.core.config import Config
from relaytest.core.errors import DatabaseAwayError
from relaytest.core.nomination import LARGEST
from relaytest.core.target import Address
from relaytest.core.website import client_of, one_client
from relaytest.daemons import metrics
from relaytest.daemons.clock import utcnow
from relaytest.store import allowances
from relaytest.store.database import Connection

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_LONGEST_BODY = 2048  # octets of a form
_LONGEST_JSON = 128 * 1024  # a bulk look-up of a thousand addresses has half of it
_WINDOW = timedelta(hours=1)
_TITLES = {
    400: "Bad request",
    401: "No token",
    403: "Not allowed",
    404: "Not found",
    405: "Wrong method",
    409: "Refused",
    411: "Length wanted",
    413: "Too long",
    422: "Wrong values",
    429: "Too often",
    503: "Try again later",
}
PREFIX = "/api/v1"

log = structlog.get_logger("web")


class Guard:
    """Bounds every body, answers for the database, sets every answer's headers, and counts.

    An ASGI application around another: a middleware of Starlette's own kind costs each request
    another tenth of a millisecond.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _protect(MutableHeaders(scope=message))
            await send(message)

        request = Request(scope, receive)
        with metrics.REQUEST_SECONDS.time():
            answer = _refusal(request)
            if answer is None:
                try:
                    await self._app(scope, receive, send_with_headers)
                except DatabaseAwayError:
                    answer = plainly(request, 503, "The database is away; please try again.")
                    answer.headers["Retry-After"] = "5"
                except Exception:
                    log.exception("page failed", path=request.url.path)
                    answer = plainly(request, 500, "Something is wrong here; we can see what.")
            if answer is not None and not status:  # else the rest of an answer is missing
                await answer(scope, receive, send_with_headers)
        method = request.method if request.method in {"GET", "HEAD", "POST"} else "other"
        metrics.REQUESTS.labels(method, status).inc()


def _protect(headers: MutableHeaders) -> None:
    """Set what keeps a browser safe, where a page has not set something stricter."""
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)


def _refusal(request: Request) -> Response | None:
    """Return the answer to a body that is too long, or of unknown length."""
    length = request.headers.get("content-length", "0")
    longest = _longest_body(request.url.path)
    if not length.isdecimal() or len(length) > 12 or int(length) > longest:
        return plainly(request, 413, f"The body is too long; {longest} octets at most.")
    if "chunked" in request.headers.get("transfer-encoding", ""):
        # RFC 9112 section 6.1: with both, what is a body to a proxy may be a request to us.
        why = "Send the body with a Content-Length."
        return plainly(request, 411, why, {"Connection": "close"})
    return None


def plainly(
    request: Request, status: int, detail: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an error: for programs a problem document (RFC 9457), for people a line of text."""
    if not is_api(request):
        return PlainTextResponse(f"{detail}\n", status, headers)
    told = {"status": status, "title": _TITLES.get(status, "Error"), "detail": detail[:2000]}
    return JSONResponse(told, status, headers, "application/problem+json")


def is_api(request: Request) -> bool:
    """Whether a program asks."""
    return request.url.path.startswith("/api/")


def _longest_body(path: str) -> int:
    if path.endswith("/nominations"):
        return LARGEST
    return _LONGEST_JSON if path.startswith("/api/") else _LONGEST_BODY


@dataclass(frozen=True, slots=True)
class Limit:
    """How often something may be asked for in an hour.

    Attributes:
        key: Of the allowance in the database.
        whose: It is, as the end of "there were too many requests ...".
    """

    key: str
    most: int
    whose: str


@dataclass(frozen=True, slots=True)
class TooOften:
    """A request beyond a limit.

    Attributes:
        seconds: Until it may come again.
        whose: See Limit.
    """

    seconds: int
    whose: str


class Doorman:
    """Knows who asks, and how often he did."""

    def __init__(self, config: Config) -> None:
        self._web = config.web

    def client(self, request: Request) -> Address | None:
        """Return who asks; None if that cannot be told."""
        peer = request.client.host if request.client else ""
        forwarded = ",".join(request.headers.getlist("x-forwarded-for"))
        return client_of(peer, forwarded, self._web.proxies)

    def limits(self, request: Request, what: str) -> list[Limit]:
        """Return those of who asks, and those of all together."""
        client = one_client(self.client(request))
        return [
            Limit(f"{what} {client}", self._web.client_requests, "from your network"),
            Limit(what, self._web.requests, "in all"),
        ]

    async def admit(self, connection: Connection, limits: Sequence[Limit]) -> TooOften | None:
        """Count a request that costs something; return None, or that it comes too often."""
        for limit in limits:
            until = await allowances.use(connection, limit.key, limit.most, _WINDOW)
            if until is not None:
                log.info("asked too often", limit=limit.key)
                return TooOften(max(1, ceil((until - utcnow()).total_seconds())), limit.whose)
        return None


async def share_used(connection: Connection, limits: Sequence[Limit]) -> float:
    """Return how much of the limit that is nearest to its end is used; 1 and more: all of it."""
    used = await allowances.used(connection, [limit.key for limit in limits])
    return max((used.get(limit.key, 0) / limit.most for limit in limits), default=0)
