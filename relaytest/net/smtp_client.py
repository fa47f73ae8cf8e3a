"""One TCP connection to a tested server: carries a core.dialogue over it, strictly.

aiosmtplib makes the connection. Reading and pairing are our own: its reader takes a surplus
reply for the answer to the next command, so that a server which answers MAIL twice would pass
for an open relay; it cannot pipeline (RFC 2920); it accepts 999 and -50 as codes. And its
`mail()` and `rcpt()` write addresses anew: `"a@b"` would leave as `a@b`.

Rule: once connected, whatever the server or the network does, and whenever, is a Broken in a
Got. Any exception means that the fault is ours.

BUGS: A surplus reply is known by its coming when nothing is awaited. Inside a pipelined group
it shows only as one reply too many at the end: believe no answer before dialogue.part().
"""

import asyncio
import errno
import math
import os
import re
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Self, TypeVar, cast

from aiosmtplib import SMTP, SMTPResponse
from aiosmtplib.protocol import SMTPProtocol

from relaytest.core.dialogue import Break, Broken, Content, Farewell, Got, Greeting, Move, Send
from relaytest.core.errors import RelaytestError
from relaytest.core.reply import Reply
from relaytest.core.transcript import Exchange, Transcript
from relaytest.net.reply_reader import ReplyReader

TICK = 0.001  # seconds; uvloop's clock counts in these
PARTING = timedelta(seconds=1)  # to wait for the server to close after its reply to QUIT
_LINE_END = re.compile(rb"\r\n|\r|\n")
_LEADING_DOT = re.compile(rb"^\.", re.MULTILINE)

# Errors of connect() in which the target has no part. asyncio gives no number where the address
# and our source are of different families.
_OURS = {None, errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
_OURS |= {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
R = TypeVar("R")


class ConnectFailedError(RelaytestError):
    """There is no connection: REFUSED or UNREACHABLE.

    Attributes:
        broken: The kind, and a sentence.
    """

    temporary = True

    def __init__(self, kind: Break, text: str) -> None:
        super().__init__(text)
        self.broken = Broken(kind, text)


class NoSocketError(RelaytestError):
    """We could not even try: no descriptor or port is left, or the source is not ours.

    No ConnectFailedError: it must not become evidence about the target.
    """

    temporary = True


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait on one connection.

    Attributes:
        connect: For the TCP handshake.
        greeting: For the whole greeting.
        command: For the next whole reply; in a pipelined group, anew from each reply.
        end_of_data: For the reply to the final dot; RFC 5321 section 4.5.3.2.6: 10 minutes.
        session: For everything, from the first SYN on.
    """

    connect: timedelta
    greeting: timedelta
    command: timedelta
    end_of_data: timedelta
    session: timedelta


class Connection:
    """A connection made by connect(). Close it, or use it with `async with`.

    One dialogue at a time; several may follow each other, as greet(), ask() and part() do.

    Attributes:
        transcript: All octets of both directions; may be kept after the connection is gone.
        source: Our own address on it.
    """

    def __init__(self, client: SMTP, wire: "_Wire", timeouts: Timeouts) -> None:
        self.transcript = wire.transcript
        self.source = wire.source
        self._client = client
        self._wire = wire
        self._timeouts = timeouts
        self._told: Broken | None = None

    async def drive(self, dialogue: Generator[Move, Got, R]) -> R:
        """Carry out the moves of `dialogue` and return its result.

        Raises:
            ValueError: There is no line to send, or a CR or an LF in one.
        """
        try:
            move = next(dialogue)
            while True:
                move = dialogue.send(await self._carry(move))
        except StopIteration as end:
            result: R = end.value
            return result

    async def close(self) -> None:
        """Leave no socket, no task and no timer. May be called at any time, also twice."""
        self._wire.break_off(Break.CLOSED, "we closed the connection")
        if self._wire.transport is not None:
            await self._wire.gone.wait()
        self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def _carry(self, move: Move) -> Got:
        """Do one move. A dialogue that was told of a break hears the same for ever."""
        if self._told is not None:
            return Got((), self._told)
        wire, limits = self._wire, self._timeouts
        match move:
            case Greeting():
                got = await wire.answers(wire.greeting, limits.greeting)
            case Send(lines):
                got = await wire.exchange(_joined(lines), len(lines), limits.command)
            case Content(message):
                got = await wire.exchange(_stuffed(message), 1, limits.end_of_data)
            case Farewell(lines):
                got = await wire.farewell(_joined((*lines, b"QUIT")), len(lines), limits.command)
        self._told = got.broken
        return got


async def connect(
    address: IPv4Address | IPv6Address,
    port: int,
    timeouts: Timeouts,
    *,
    source_address: IPv4Address | IPv6Address | None = None,
    local_hostname: str,
) -> Connection:
    """Open a connection, saying nothing yet.

    `source_address` is one of our own; None leaves the choice to the system. `local_hostname`
    is our name; it is not sent, but without it aiosmtplib would look one up in a thread.

    Raises:
        ConnectFailedError: The server turned us away, or did not answer in time.
        NoSocketError: Our own machine could not even try.
    """
    loop = asyncio.get_running_loop()
    wire = _Wire(loop, timeouts.session)
    source = None if source_address is None else (str(source_address), 0)
    # start_tls=None, the default, would upgrade to TLS of its own accord
    client = _Client(local_hostname=local_hostname, start_tls=False)
    open_socket = partial(loop.create_connection, lambda: wire, str(address), port)
    client.opening = partial(open_socket, local_addr=source)
    limit = min(timeouts.connect, timeouts.session).total_seconds()
    try:
        await client.connect(timeout=limit)
    except TimeoutError as error:
        raise ConnectFailedError(Break.UNREACHABLE, f"no connection within {limit:g} s") from error
    except OSError as error:
        raise _failure(error) from error
    return Connection(client, wire, timeouts)


def _failure(error: OSError) -> RelaytestError:
    reason = str(error) if error.errno is None else os.strerror(error.errno)
    if error.errno in _OURS:
        return NoSocketError(f"no socket: {reason}")
    refused = isinstance(error, ConnectionError)  # refused, or reset in the handshake
    kind = Break.REFUSED if refused else Break.UNREACHABLE
    return ConnectFailedError(kind, f"no connection: {reason}")


class _Client(SMTP):
    """aiosmtplib's client with our protocol in it. Its commands, as ehlo(), do not work."""

    opening: Callable[[], Awaitable[tuple[asyncio.Transport, "_Wire"]]]

    async def _create_connection(self, timeout: float | None) -> SMTPResponse:  # noqa: ASYNC109  # aiosmtplib's signature
        """Connect and leave the greeting to the dialogue; connect() does not look at it.

        The one private method of aiosmtplib that is replaced.
        """
        async with asyncio.timeout(timeout):
            self.transport, self.protocol = await self.opening()
        return SMTPResponse(220, "")


@dataclass(slots=True)
class _Group:
    """The commands of one write, and the replies to them so far.

    Attributes:
        lacks: So many replies are still to come.
        done: All came, or the connection broke. One future for the group instead of one for
            each command: half the time, half the memory.
    """

    lacks: int
    done: asyncio.Future[None]
    replies: list[Reply] = field(default_factory=list)

    def add(self, replies: list[Reply]) -> None:
        self.replies += replies
        self.lacks -= len(replies)
        if not self.lacks:
            self.end()

    def end(self) -> None:
        if not self.done.done():  # it may have been cancelled with the dialogue
            self.done.set_result(None)


class _Wire(SMTPProtocol):
    """Pairs replies with commands by position, keeps time, writes the transcript.

    Attributes:
        broken: Why the connection is over.
        greeting: Awaited from the start: a server may speak before the dialogue has begun.
        gone: The socket is closed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, session: timedelta) -> None:
        super().__init__(loop=loop)
        self.transcript = Transcript()
        self.source: IPv4Address | IPv6Address | None = None
        self.broken: Broken | None = None
        self.greeting = self._group = _Group(1, loop.create_future())
        self.gone = asyncio.Event()
        self._reader = ReplyReader()
        self._leaving = False
        self._begun = loop.time()
        self._deadline = self._begun + session.total_seconds()
        self._limit = 0.0  # seconds for the next reply
        self._due = math.inf  # when they are over
        self._alarm: asyncio.TimerHandle | None = None  # one for the connection's whole life

    async def exchange(self, octets: bytes, count: int, limit: timedelta) -> Got:
        """Write `octets` and wait for `count` replies."""
        if self._reader.in_mid_reply:
            self.break_off(Break.DESYNC, "part of a reply came that no command waited for")
        if not self.is_connected:  # a write failed, and the news of it is on its way
            self.break_off(Break.CLOSED, "the connection was lost")
        if self.broken is not None:
            return Got((), self.broken)
        if self._group.lacks:
            raise RuntimeError("one dialogue at a time, and the greeting first")
        self._group = _Group(count, self._loop.create_future())
        if octets:
            self._note(octets, sent=True)
            self.write(octets)
        return await self.answers(self._group, limit)

    async def answers(self, group: _Group, limit: timedelta) -> Got:
        """Wait for the replies of a group, for each no longer than `limit`.

        If all came, a close or a time-out right after is left to the next move: whether it is
        seen in time for this one is chance. A surplus reply is told at once.
        """
        if not group.done.done():
            self._limit = limit.total_seconds()
            self._due = self._loop.time() + self._limit
            if self._alarm is None or self._alarm.when() > self._due:
                self._watch()
            try:
                await group.done
            except asyncio.CancelledError:
                self.break_off(Break.CLOSED, "we gave up waiting")
                raise
        broken = self.broken
        if broken is not None and not group.lacks:
            broken = broken if broken.kind in {Break.DESYNC, Break.GARBAGE} else None
        return Got(tuple(group.replies), broken)

    async def farewell(self, octets: bytes, before: int, limit: timedelta) -> Got:
        """Send `before` commands and QUIT; see that nothing follows, not even part of a line.

        A server may close instead of answering QUIT, or leave the closing to us: no break either.
        """
        self._leaving = True
        got = await self.exchange(octets, before + 1, limit)
        if got.broken is not None:
            closed = got.broken.kind is Break.CLOSED and len(got.replies) == before
            return Got(got.replies, None) if closed else got
        more = await self.exchange(b"", 1, min(limit, PARTING))
        quiet = more.broken is not None and more.broken.kind in {Break.CLOSED, Break.TIMEOUT}
        if quiet and not self._reader.in_mid_reply:
            return got
        return Got(got.replies, Broken(Break.DESYNC, "more came after the reply to QUIT"))

    def break_off(self, kind: Break, text: str) -> None:
        """End the connection. Only the first reason counts."""
        if self.broken is None:
            self.broken = Broken(kind, text)
            self._group.end()
            if self._alarm is not None:
                self._alarm.cancel()
            if self.transport is not None:
                cast("asyncio.WriteTransport", self.transport).abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.source = ip_address(transport.get_extra_info("sockname")[0])
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Give the replies in `data` to the commands that wait, in order."""
        if self.broken is not None:
            return
        self._note(data, sent=False)
        replies = self._reader.feed(data)
        group, lacks = self._group, self._group.lacks
        if replies and lacks:
            group.add(replies[:lacks])
            self._due = self._loop.time() + self._limit
        if len(replies) > lacks:
            self._refuse(replies[lacks])
        elif self._reader.fault:
            self.break_off(Break.GARBAGE, self._reader.fault)

    def eof_received(self) -> bool:
        where = " in the middle of a reply" if self._reader.in_mid_reply else ""
        self.break_off(Break.CLOSED, f"the server closed the connection{where}")
        return False  # close our side as well

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.break_off(Break.CLOSED, "the server reset the connection")
        self.gone.set()

    def _refuse(self, surplus: Reply) -> None:
        """Break. A server that shuts down may say 421 unasked (RFC 5321 section 3.8)."""
        if surplus.code == 421 and not self._leaving:
            self.break_off(Break.CLOSED, f"the server hung up: {surplus}")
        else:
            self.break_off(Break.DESYNC, f"a reply came that no command waited for: {surplus}")

    def _note(self, octets: bytes, *, sent: bool) -> None:
        self.transcript.add(Exchange(self._loop.time() - self._begun, sent, octets))

    def _watch(self) -> None:
        """Break off if a reply is overdue; else set the alarm for when the next one will be.

        A reply only moves `_due`: a timer for each would cost more than the reply.
        """
        if self._alarm is not None:
            self._alarm.cancel()
        now, self._alarm = self._loop.time() + TICK, None
        if now >= self._deadline:
            self.break_off(Break.TIMEOUT, "the session took too long")
        elif self._group.lacks and now >= self._due:
            self.break_off(Break.TIMEOUT, f"no reply within {self._limit:g} s")
        else:
            at = min(self._due, self._deadline) if self._group.lacks else self._deadline
            self._alarm = self._loop.call_at(at, self._watch)


def _joined(lines: tuple[bytes, ...]) -> bytes:
    octets = b"\r\n".join(lines) + b"\r\n"
    if not lines or octets.count(b"\r") != len(lines) or octets.count(b"\n") != len(lines):
        raise ValueError(f"not one command in each line: {lines!r}")
    return octets


def _stuffed(message: bytes) -> bytes:
    r"""Return `message` as sent after 354: CRLF, dots doubled, final dot (RFC 5321 4.5.2).

    >>> _stuffed(b"Subject: x\n\n.hidden")
    b'Subject: x\r\n\r\n..hidden\r\n.\r\n'
    """
    octets = _LEADING_DOT.sub(b"..", _LINE_END.sub(b"\r\n", message))
    return octets + (b".\r\n" if not octets or octets.endswith(b"\r\n") else b"\r\n.\r\n")
