"""An HTTP server for an ASGI application: the only place that knows uvicorn."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from relaytest.core.target import parse_address
from relaytest.net.admission import Admission, Bounds

_MOST = 500  # connections; of one peer too, for a proxy in front of us is one
_GRACE = 2  # seconds for requests to end when the program stops
_LAST_ASK = 0.5  # seconds of them for a client who has connected to say what he wants
_LOOK = 5.0  # seconds between two looks at a connection
_SLOW = 15.0  # seconds for a client to send a request, and to take something of an answer
_LITTLE = 1024  # octets; to take less from look to look is to take nothing
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n"
    b"Retry-After: 30\r\n\r\n"
)


class _Connection(H11Protocol):
    """A client, or a proxy's connection for one.

    Cuts off a client who takes his time; uvicorn itself waits for half a request for ever.

    At the end a client who has only just connected is answered still: his request may lie
    unread, and to close then would reset the connection under it (RFC 9112 section 9.6).
    """

    admission: Admission["_Connection"]
    _ends = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to look, unless there are too many."""
        super().connection_made(cast("asyncio.Transport", transport))
        self._heard = self.loop.time()
        self._since: float | None = None  # when the request was first seen not to be whole
        self._stuck = 0.0  # seconds without progress of the answer
        self._unsent = 0
        self._timer = self.loop.call_later(_LOOK, self._look)
        name = transport.get_extra_info("peername")  # none: he has gone already
        if not name or not self.admission.enter(self, parse_address(name[0].partition("%")[0])):
            self.transport.write(_TOO_MANY)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End looking."""
        self._timer.cancel()
        self.admission.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Note when."""
        self._heard = self.loop.time()
        super().data_received(data)

    @property
    def busy(self) -> bool:
        """Whether a request is whole and its answer is not."""
        request = self._request
        waits = self.conn.their_state in {h11.IDLE, h11.SEND_BODY}
        return request is not None and not request.response_complete and not waits

    @property
    def silence(self) -> float:
        """Seconds since the client last said something."""
        return self.loop.time() - self._heard

    def give_way(self) -> None:
        """Close, since a peer who has fewer connections wants one."""
        self.admission.leave(self)
        self.transport.abort()

    def on_response_complete(self) -> None:
        """Give the next request its own time."""
        self._since = None
        super().on_response_complete()

    def shutdown(self) -> None:
        """End, but hear first who has not been heard yet."""
        if self._request is None and not self._ends:
            self._ends = True
            self.loop.call_later(_LAST_ASK, self.shutdown)
        elif not self.transport.is_closing():
            super().shutdown()

    def handle_events(self) -> None:
        """Take what has come in; at the end it is the last."""
        super().handle_events()
        if self._ends and self._request is not None:
            self._request.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        """Say that this is no HTTP, unless an answer has begun; then all that is left is to go."""
        if self._request is not None:
            self._request.disconnected = True  # the application's answer would come too late
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            super().send_400_response(msg)
        else:
            self.transport.close()

    @property
    def _request(self) -> RequestResponseCycle | None:
        return self.cycle  # None until the first request, whatever its annotation says

    def _look(self) -> None:
        now = self.loop.time()
        if self.conn.their_state not in {h11.IDLE, h11.SEND_BODY}:
            self._since = None
        elif self._since is None:
            self._since = now
        unsent = self.transport.get_write_buffer_size()
        moves = unsent <= self._unsent - _LITTLE
        self._stuck = 0.0 if moves or not unsent else self._stuck + _LOOK
        self._unsent = unsent
        if self._stuck > _SLOW or (self._since is not None and now - self._since > _SLOW):
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(_LOOK, self._look)


def _connections(bounds: Bounds) -> type[_Connection]:
    """Return the class of one server's connections, which share its bounds."""

    class Connection(_Connection):
        admission = Admission[_Connection](bounds)

    return Connection


class _Server(uvicorn.Server):
    """Leaves the signals to the program."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serve_http(
    host: str,
    port: int,
    application: Any,  # noqa: ANN401 - ASGI
    *,
    listening: socket.socket | None = None,
) -> AsyncIterator[tuple[str, int]]:
    """Serve while the block runs; give the bound address.

    Args:
        host: Where to listen.
        port: Likewise.
        application: What answers.
        listening: A socket that listens there already; closed at the end.

    Raises:
        OSError: The address is taken or not ours.
    """
    if listening is None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=512)
    server = _Server(
        uvicorn.Config(
            application,
            http=_connections(Bounds(connections=_MOST, per_peer=_MOST)),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # X-Forwarded-For is what a stranger typed
            lifespan="off",
            h11_max_incomplete_event_size=16 * 1024,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=_GRACE,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listening]))  # noqa: TID251 - awaited below
    try:
        yield listening.getsockname()[:2]
    finally:
        server.should_exit = True
        try:
            await serving
        finally:  # uvicorn, broken off, leaves its sockets open; uvloop would wait for them
            for one in server.servers:
                one.close()
            listening.close()
