"""The far ends of the benchmarks, each a process of its own: `python -m tests.bench.peers KIND`.

A peer says "ready" on standard output once it listens, and ends when its standard input closes.
"""

import asyncio
import contextlib
import resource
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, cast

import asyncpg
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.net.hostile import server_tls

# --- a fast mail server that refuses every recipient -------------------------------------------

_GREETING = b"220 mx.refuser.example ESMTP\r\n"
_EHLO = b"250-mx.refuser.example\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250 8BITMIME\r\n"
_REPLIES = {
    b"EHLO": _EHLO,
    b"HELO": b"250 mx.refuser.example\r\n",
    b"MAIL": b"250 2.1.0 Ok\r\n",
    b"RCPT": b"550 5.7.1 Relaying denied\r\n",
    b"RSET": b"250 2.0.0 Ok\r\n",
    b"QUIT": b"221 2.0.0 Bye\r\n",
}
_UNKNOWN = b"500 5.5.2 Unknown command\r\n"
TARPIT = 0.5  # seconds from reply to reply


class Refuser(asyncio.Protocol):
    """One session: every line is answered, all lines of one read in one write."""

    def __init__(self) -> None:
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(_GREETING)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        verbs = [line[:4].upper() for line in lines]
        self._transport.write(b"".join([_REPLIES.get(verb, _UNKNOWN) for verb in verbs]))
        if b"QUIT" in verbs:
            self._transport.close()


async def refuse(host: str, port: str, *hosts: str) -> None:
    """Serve Refuser, on several addresses if there are more."""
    server = await asyncio.get_running_loop().create_server(
        Refuser, [host, *hosts], int(port), backlog=4096
    )
    async with server:
        await _until_told()


# --- a mixed population ------------------------------------------------------------------------


class Guest(asyncio.Protocol):
    """One session of the population, counted.

    Attributes:
        now: Sessions that are open, of all kinds.
        peak: The most there were.
    """

    now = 0
    peak = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Guest.now += 1
        Guest.peak = max(Guest.now, Guest.peak)
        self.begin(cast("asyncio.Transport", transport))

    def connection_lost(self, _error: Exception | None) -> None:
        Guest.now -= 1

    def begin(self, transport: asyncio.Transport) -> None:
        """Say nothing, for ever: the mute one."""


class QuickGuest(Guest, Refuser):
    """Answers at once."""

    def begin(self, transport: asyncio.Transport) -> None:
        Refuser.connection_made(self, transport)


class SlowGuest(Guest):
    """A tarpit: each reply takes its time, and so does the next."""

    def begin(self, transport: asyncio.Transport) -> None:
        self._rest, self._replies = b"", deque([_GREETING])
        self._transport = transport
        self._timer = asyncio.get_running_loop().call_later(TARPIT, self._say)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._replies.extend(_REPLIES.get(line[:4].upper(), _UNKNOWN) for line in lines)

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(error)

    def _say(self) -> None:
        if self._replies:
            self._transport.write(self._replies.popleft())
        self._timer = asyncio.get_running_loop().call_later(TARPIT, self._say)


async def mix(first: str, count: str, *hosts: str) -> None:
    """Serve so many ports of ten addresses: seven quick, a tarpit, a mute one, none on the last.

    In the end the most sessions at once are written.
    """
    kinds = [*[QuickGuest] * 7, SlowGuest, Guest]
    loop = asyncio.get_running_loop()
    for port in range(int(first), int(first) + int(count)):
        for host, kind in zip(hosts, kinds, strict=False):
            await loop.create_server(kind, host, port)
    await _until_told()
    print(Guest.peak)


class Staller(asyncio.Protocol):
    """Greets, answers EHLO, and never says another word."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(_GREETING)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"EHLO"):
            self._transport.write(_EHLO)


async def stall(clear: str, secure: str, *hosts: str) -> None:
    """Serve Staller on two ports of each host: in clear, and inside TLS from the beginning."""
    loop = asyncio.get_running_loop()
    await loop.create_server(Staller, hosts, int(clear), backlog=4096)
    await loop.create_server(Staller, hosts, int(secure), backlog=4096, ssl=server_tls())
    await _until_told()


# --- a line with a long delay ------------------------------------------------------------------


class Leg(asyncio.Protocol):
    """One of the two connections that make a long one: what it reads, the other writes later.

    Attributes:
        transport: None until the connection stands.
        other: The other one.
    """

    def __init__(self, seconds: float) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: Leg | None = None
        self._seconds = seconds
        self._under_way: deque[bytes] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._under_way.append(data)
        asyncio.get_running_loop().call_later(self._seconds, self._arrive)

    def connection_lost(self, _error: Exception | None) -> None:
        self.data_received(b"")

    def _arrive(self) -> None:
        octets = self._under_way.popleft()
        if self.other is None or self.other.transport is None:
            return  # a client that left before its third packet arrived
        if not octets:
            self.other.transport.close()
        elif not self.other.transport.is_closing():
            self.other.transport.write(octets)


async def delay(host: str, port: str, to_host: str, to_port: str, milliseconds: str) -> None:
    """Pass TCP on as if the round trip took so long.

    The system's handshake with us takes no time. So the far end is met only when a client's
    third packet would have reached it, 1.5 round trips later: from then on each direction takes
    half a round trip, and a greeting arrives after two, as it does on a real line.
    """
    trip = float(milliseconds) / 1000
    loop = asyncio.get_running_loop()

    async def reach(near: Leg) -> None:
        await asyncio.sleep(1.5 * trip)
        near.other = far = Leg(trip / 2)
        far.other = near
        await loop.create_connection(lambda: far, to_host, int(to_port))

    async with asyncio.TaskGroup() as group:

        def accept() -> Leg:
            near = Leg(trip / 2)
            group.create_task(reach(near))
            return near

        async with await loop.create_server(accept, host, int(port)):
            await _until_told()


# --- who connects when -------------------------------------------------------------------------


def note_accepts(port: str, *hosts: str) -> None:
    """Listen on many addresses; in the end write `host monotonic-seconds` for each first accept.

    CLOCK_MONOTONIC is one clock for all processes of a machine.
    """
    first: dict[str, float] = {}
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as open_sockets:
        for host in hosts:
            listener = open_sockets.enter_context(socket.create_server((host, int(port))))
            selector.register(listener, selectors.EVENT_READ, host)
        selector.register(sys.stdin, selectors.EVENT_READ)
        _ready()
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    print(*(f"{host} {at}" for host, at in first.items()), sep="\n")
                    return
                peer, _ = cast("socket.socket", key.fileobj).accept()
                first.setdefault(key.data, time.monotonic())
                peer.close()


# --- aiosmtpd in place of our sink -------------------------------------------------------------


class Keeper:
    """Stores a message as simply as can be: one INSERT."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def handle_DATA(  # noqa: N802 - aiosmtpd looks for this name
        self, _server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        await self._pool.execute(
            "INSERT INTO bench_kept (peer, recipients, content) VALUES ($1, $2, $3)",
            str(session.peer),
            envelope.rcpt_tos,
            envelope.content,
        )
        return "250 kept"


@contextlib.asynccontextmanager
async def _pool(dsn: str) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(dsn, min_size=0, max_size=8) as pool:
        await pool.execute(
            "CREATE TABLE IF NOT EXISTS bench_kept"
            " (id bigserial PRIMARY KEY, peer text, recipients text[], content bytea)"
        )
        yield pool


async def keep(host: str, port: str, dsn: str) -> None:
    """Serve aiosmtpd with a Keeper."""
    async with _pool(dsn) as pool:
        keeper = Keeper(pool)
        server = await asyncio.get_running_loop().create_server(
            lambda: SMTP(keeper, hostname="mx.keeper.example"), host, int(port)
        )
        async with server:
            await _until_told()


# --- running them ------------------------------------------------------------------------------


def _ready() -> None:
    print("ready", flush=True)


async def _until_told() -> None:
    """Say that we listen, then wait for the end of standard input."""
    _ready()
    await asyncio.to_thread(sys.stdin.read)


def fast_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's loop, or asyncio's where there is no uvloop."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def exact_loop() -> asyncio.AbstractEventLoop:
    """Return a loop whose timers keep microseconds; epoll and uvloop count in milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


PEERS: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    "refuse": refuse,
    "mix": mix,
    "stall": stall,
    "delay": delay,
    "keep": keep,
}


def main(kind: str, *arguments: str) -> None:
    """Run one peer to its end."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if kind == "note-accepts":
        note_accepts(*arguments)
        return
    factory: Callable[[], asyncio.AbstractEventLoop]
    factory = exact_loop if kind == "delay" else fast_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(PEERS[kind](*arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
