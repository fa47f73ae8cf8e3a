"""What holds for every request: its bounds, its answer's headers, and how often it may come."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from math import ceil

import structlog
from fastapi import Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from relaytest.core.config import Config
from relaytest.core.errors import DatabaseAwayError
from relaytest.core.nomination import LARGEST
from relaytest.core.target import Address
from relaytest.core.website import client_of, one_client
from relaytest.daemons import metrics
from relaytest.daemons.clock import utcnow
from relaytest.store import allowances
from relaytest.store.database import Connection

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
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


async def guard(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
    """Answer, and count how often and how fast."""
    with metrics.REQUEST_SECONDS.time():
        response = await _guarded(request, proceed)
    method = request.method if request.method in {"GET", "HEAD", "POST"} else "other"
    metrics.REQUESTS.labels(method, response.status_code).inc()
    return response


async def _guarded(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
    """Bound the body, answer for the database, and set the headers of every answer."""
    length = request.headers.get("content-length", "0")
    longest = _longest_body(request.url.path)
    if not length.isdecimal() or len(length) > 12 or int(length) > longest:
        response = plainly(request, 413, f"The body is too long; {longest} octets at most.")
    elif "chunked" in request.headers.get("transfer-encoding", ""):
        response = plainly(request, 411, "Send the body with a Content-Length.")
    else:
        try:
            response = await proceed(request)
        except DatabaseAwayError:
            response = plainly(request, 503, "The database is away; please try again.")
            response.headers["Retry-After"] = "5"
        except Exception:
            log.exception("page failed", path=request.url.path)
            response = plainly(request, 500, "Something is wrong here; we can see what.")
    response.headers.update(_HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")
    return response


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


class Doorman:
    """Knows who asks, and how often he did."""

    def __init__(self, config: Config) -> None:
        self._web = config.web

    def client(self, request: Request) -> Address | None:
        """Return who asks; None if that cannot be told."""
        peer = request.client.host if request.client else ""
        forwarded = ",".join(request.headers.getlist("x-forwarded-for"))
        return client_of(peer, forwarded, self._web.proxies)

    async def admit(self, connection: Connection, request: Request, what: str) -> int:
        """Count a request that costs something; return 0, or the seconds until he may come back."""
        client = one_client(self.client(request))
        for key, most in (
            (f"{what} {client}", self._web.client_requests),
            (what, self._web.requests),
        ):
            until = await allowances.use(connection, key, most, _WINDOW)
            if until is not None:
                log.info("asks too often", client=client, what=what)
                return max(1, ceil((until - utcnow()).total_seconds()))
        return 0
