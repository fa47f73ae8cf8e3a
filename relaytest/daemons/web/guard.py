"""What holds for every request: its bounds, its answer's headers, and how often it may come."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from math import ceil

import structlog
from fastapi import Request
from fastapi.responses import PlainTextResponse, Response

from relaytest.core.config import Config
from relaytest.core.errors import DatabaseAwayError
from relaytest.core.target import Address
from relaytest.core.website import client_of, one_client
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
_WINDOW = timedelta(hours=1)

log = structlog.get_logger("web")


async def guard(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
    """Bound the body, answer for the database, and set the headers of every answer."""
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
    response.headers.setdefault("Cache-Control", "no-store")
    return response


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
