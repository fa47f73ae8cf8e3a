"""SMTP sessions over TCP: core.reception does the talking, this file the sockets and clocks.

A connection costs one object, one timer and no task; a task lives while a message is stored.
A message is answered with 250 only after `store` has returned True: when it returns anything
else, raises, or takes too long, the client hears 451 and keeps the message.

BUGS: Where the process runs out of file descriptors, asyncio stops accepting for a second and
logs it; Bounds.connections should be well below RLIMIT_NOFILE.
"""

import asyncio
import contextlib
import enum
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Generic, TypeVar, cast

from relaytest.core.errors import RelaytestError
from relaytest.core.reception import Action, Close, Deliver, Delivery, Secure, Session, Write
from relaytest.core.target import Address, parse_address
from relaytest.net.admission import Admission, Bounds

_T = TypeVar("_T")

_LINGER = timedelta(seconds=5)  # for a client that does not read our last words
_BACKLOG = 512


class Event(enum.Enum):
    """What happened to a connection; for counters and logs."""

    OPENED = "opened"
    TURNED_AWAY = "turned away"  # too many connections
    GAVE_WAY = "gave way"  # likewise, to a peer who has fewer
    STORED = "stored"
    NOT_STORED = "not stored"  # the client was told 451
    TIMED_OUT = "timed out"  # too slow, or too long
    NOT_SECURED = "not secured"  # no TLS session came about
    CLOSED = "closed"


Store = Callable[[Address, int, Delivery[_T]], Awaitable[bool]]
OnEvent = Callable[[Event, Address, Exception | None], None]


class Listener(Generic[_T]):
    """Listening sockets and the sessions on them; made by listen()."""

    def __init__(self, floor: "_Floor[_T]") -> None:
        self._floor = floor
        self._servers: list[asyncio.Server] = []

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of every listening socket, ports as the system chose them."""
        sockets = [sock for server in self._servers for sock in server.sockets]
        return [sock.getsockname()[:2] for sock in sockets]

    @property
    def connections(self) -> int:
        """Sessions that are open now."""
        return len(self._floor.connections)

    async def open(
        self, places: Iterable[tuple[str, int]], sockets: Iterable[socket.socket]
    ) -> None:
        """Listen on more places; port 0 lets the system choose.

        Raises:
            OSError: A place is taken or not ours. Those before it are open.
        """
        loop = asyncio.get_running_loop()
        for host, port in places:
            server = await loop.create_server(
                self._connection, host, port, backlog=_BACKLOG, reuse_address=True
            )
            self._servers.append(server)
        for sock in sockets:
            server = await loop.create_server(self._connection, sock=sock, backlog=_BACKLOG)
            self._servers.append(server)

    async def stop(self) -> None:
        """Listen no more, let sessions end for a while, dismiss the rest. May be repeated."""
        floor = self._floor
        floor.stopping = True  # a client that was accepted just now may still turn up
        for server in self._servers:
            server.close()
        try:
            await floor.wait_empty(floor.bounds.grace)
            for connection in floor.connections:
                connection.dismiss(b"4.3.2 Shutting down, try again later")
            await floor.wait_empty(_LINGER)
        finally:
            for connection in floor.connections:
                connection.abort()
        await floor.empty.wait()
        for server in self._servers:
            await server.wait_closed()

    def _connection(self) -> asyncio.Protocol:
        return _Connection(self._floor)


@contextlib.asynccontextmanager
async def listen(
    places: Iterable[tuple[str, int]],
    session: Callable[[Address], Session[_T]],
    store: Store[_T],
    *,
    sockets: Iterable[socket.socket] = (),
    bounds: Bounds | None = None,
    on_event: OnEvent = lambda _event, _peer, _error: None,
) -> AsyncIterator[Listener[_T]]:
    """Serve SMTP while the block runs; leaving it stops gracefully.

    Args:
        places: Hosts and ports to listen on.
        session: Makes the session for a client; v4-mapped addresses come as IPv4.
        store: Keeps a message from a peer's address and port; True when it is safe. It may be
            called after the client has gone, and may be cancelled when time is up.
        sockets: Listening sockets made by others, such as systemd; closed at the end.
        bounds: Bounds() if None.
        on_event: Told of every event, and of the error if `store` raised one or TLS failed.

    Raises:
        OSError: A place is taken or not ours.
    """
    group = contextlib.AsyncExitStack()
    tasks = await group.enter_async_context(asyncio.TaskGroup())
    listener = Listener(_Floor(session, store, bounds or Bounds(), on_event, tasks))
    try:
        await listener.open(places, sockets)
        yield listener
    finally:
        try:
            await listener.stop()
        finally:
            # Not told of the block's exception, which a TaskGroup would wrap in another.
            await group.aclose()


@dataclass(slots=True)
class _Floor(Generic[_T]):
    """What the connections of one listener share."""

    session: Callable[[Address], Session[_T]]
    store: Store[_T]
    bounds: Bounds
    on_event: OnEvent
    tasks: asyncio.TaskGroup
    connections: "Admission[_Connection[_T]]" = field(init=False)
    empty: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: bool = False

    def __post_init__(self) -> None:
        self.connections = Admission(self.bounds)
        self.empty.set()

    def admit(self, connection: "_Connection[_T]") -> bool:
        """Count the connection in, unless there are too many."""
        admitted = not self.stopping and self.connections.enter(connection, connection.peer)
        if admitted:
            self.empty.clear()
        self.on_event(Event.OPENED if admitted else Event.TURNED_AWAY, connection.peer, None)
        return admitted

    def leave(self, connection: "_Connection[_T]") -> None:
        """Count it out, unless it never came in or has left."""
        if not self.connections.leave(connection):
            return
        if not self.connections:
            self.empty.set()
        self.on_event(Event.CLOSED, connection.peer, None)

    async def wait_empty(self, longest: timedelta) -> None:
        """Wait until no connection is left, or for `longest`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest.total_seconds()):
                await self.empty.wait()


class _Connection(asyncio.Protocol, Generic[_T]):
    """One client.

    Reading pauses while the client does not read our replies, and when it talks on while its
    message is being stored. So no more waits in memory than one read beyond the limits.
    """

    def __init__(self, floor: _Floor[_T]) -> None:
        self._floor = floor
        self._loop = asyncio.get_running_loop()
        self._seen = self._loop.time()  # when the client last spoke, or we let it wait
        self._ends = self._seen + floor.bounds.session.total_seconds()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable = True  # the client reads our replies
        self._ahead = False  # it talks on while its message is being stored
        self._reading = True
        self._ended = False  # it will say no more
        self._encrypted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        name = transport.get_extra_info("peername")
        if not name:  # gone already
            self._transport.abort()
            return
        self.peer, self._port = parse_address(name[0].partition("%")[0]), name[1]
        self._session = self._floor.session(self.peer)
        if self._floor.admit(self):
            self._transport.set_write_buffer_limits(self._floor.bounds.unread_octets)
            self._transport.write(self._session.greeting())
            self._watch()
        else:
            self._perform(self._session.dismiss(b"4.7.0 Too many connections, try later"))

    def connection_lost(self, _exc: Exception | None) -> None:
        """A message that came whole is stored all the same: it proves what it proves."""
        if self._timer is not None:
            self._timer.cancel()
        self._floor.leave(self)

    def data_received(self, data: bytes) -> None:
        self._seen = self._loop.time()
        self._ahead = self._session.storing
        self._perform(self._session.receive(data))
        self._regulate()

    def eof_received(self) -> bool:
        """Return whether we have something to say to a client that only ended its half."""
        self._ended = True
        return self._session.storing and not self._encrypted  # TLS has no halves

    def pause_writing(self) -> None:
        self._writable = False
        self._regulate()

    def resume_writing(self) -> None:
        self._writable = True
        self._regulate()

    def dismiss(self, why: bytes) -> None:
        """Say 421 and close; what is being stored is given up."""
        if self._task is not None:
            self._task.cancel()
        if not self._transport.is_closing():
            self._perform(self._session.dismiss(why))

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    @property
    def busy(self) -> bool:
        """Whether a message is being stored, or TLS begins."""
        return self._task is not None

    @property
    def silence(self) -> float:
        """Seconds since the client last spoke, or we let it wait."""
        return self._loop.time() - self._seen

    def give_way(self) -> None:
        """Close at once, since a peer who has fewer connections wants one."""
        self._floor.on_event(Event.GAVE_WAY, self.peer, None)
        self._floor.leave(self)
        self.dismiss(b"4.3.2 Others are waiting, try again later")
        self.abort()

    def _perform(self, actions: Iterable[Action[_T]]) -> None:
        for action in actions:
            match action:
                case Write(octets):
                    self._transport.write(octets)
                case Deliver(delivery):
                    self._task = self._floor.tasks.create_task(self._store(delivery))
                case Secure():
                    self._transport.pause_reading()  # what comes now belongs to TLS
                    self._task = self._floor.tasks.create_task(self._secure())
                case Close():
                    self._close()

    async def _secure(self) -> None:
        """Begin TLS; where none comes about the loop closes the socket, and does not tell us."""
        secured, error = None, None
        try:
            secured = await self._loop.start_tls(
                self._transport,
                self,
                self._floor.bounds.tls(),
                server_side=True,
                ssl_handshake_timeout=self._floor.bounds.handshake.total_seconds(),
                ssl_shutdown_timeout=_LINGER.total_seconds(),
            )
        except (OSError, RelaytestError) as problem:  # the client's or ours
            error = problem
        finally:
            self._task = None
            if secured is None:
                self._floor.on_event(Event.NOT_SECURED, self.peer, error)
                self._transport.abort()
                self.connection_lost(error)
        if secured is not None:
            self._transport, self._encrypted = secured, True
            self._transport.set_write_buffer_limits(self._floor.bounds.unread_octets)
            self._perform(self._session.secured())
            self._regulate()

    async def _store(self, delivery: Delivery[_T]) -> None:
        ok, error = False, None
        try:
            async with asyncio.timeout(self._floor.bounds.storing.total_seconds()):
                ok = await self._floor.store(self.peer, self._port, delivery) is True
        except Exception as problem:  # noqa: BLE001 - whatever it is, the client must hear 451
            error = problem
        finally:  # a cancelled store is one that failed
            self._answer(ok)
            self._floor.on_event(Event.STORED if ok else Event.NOT_STORED, self.peer, error)

    def _answer(self, ok: bool) -> None:
        self._task = None
        if self._transport.is_closing():
            return
        self._seen = self._loop.time()
        self._ahead = False
        self._perform(self._session.stored(ok))
        self._regulate()
        if self._ended and not self._session.storing:
            self._close()

    def _regulate(self) -> None:
        """Pause or resume reading."""
        reading = self._writable and not self._ahead
        if reading != self._reading and not self._transport.is_closing():
            self._reading = reading
            if reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _watch(self) -> None:
        """Dismiss the client if its time is up, else look again when it may be.

        One timer for a connection, set again only when it goes off: octets that come merely
        move `_seen`.
        """
        if self._transport.is_closing():
            self._transport.abort()
            return
        bounds, now = self._floor.bounds, self._loop.time()
        until = min(self._seen + bounds.idle.total_seconds(), self._ends)
        if self._session.storing:  # the client waits for us
            until = now + bounds.storing.total_seconds()
        if now < until:
            self._timer = self._loop.call_at(until, self._watch)
        else:
            self._floor.on_event(Event.TIMED_OUT, self.peer, None)
            self.dismiss(b"4.4.2 Your time is up")

    def _close(self) -> None:
        """Close once the client has read all, but do not wait for that long."""
        self._transport.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._transport.get_write_buffer_size():
            self._timer = self._loop.call_later(_LINGER.total_seconds(), self._watch)
