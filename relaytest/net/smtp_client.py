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
import re
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Self, TypeVar

from aiosmtplib import SMTP, SMTPResponse

from relaytest.core.dialogue import (
    Break,
    Broken,
    Content,
    Farewell,
    Got,
    Greeting,
    Move,
    Secure,
    Send,
)
from relaytest.core.errors import RelaytestError
from relaytest.core.visit import Encryption
from relaytest.net.smtp_wire import Wire, reason_of

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
        settle: How long after a reply more replies still belong to its command; zero: a reply
            too many breaks the connection. One command at a time only.
    """

    connect: timedelta
    greeting: timedelta
    command: timedelta
    end_of_data: timedelta
    session: timedelta
    settle: timedelta = timedelta(0)


class Connection:
    """A connection made by connect(). Close it, or use it with `async with`.

    One dialogue at a time; several may follow each other, as greet(), ask() and part() do.

    Attributes:
        transcript: All octets of both directions; may be kept after the connection is gone.
        source: Our own address on it.
    """

    def __init__(self, client: SMTP, wire: Wire, timeouts: Timeouts) -> None:
        self.transcript = wire.transcript
        self.source = wire.source
        self._client = client
        self._wire = wire
        self._timeouts = timeouts
        self._told: Broken | None = None

    @property
    def encryption(self) -> Encryption | None:
        """What TLS came to; None as long as we talk in clear."""
        return self._wire.encryption

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
            case Secure():
                got = await wire.secure(limits.command)
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
    wire = Wire(loop, timeouts.session, timeouts.settle)
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
    reason = reason_of(error)
    if error.errno in _OURS:
        return NoSocketError(f"no socket: {reason}")
    refused = isinstance(error, ConnectionError)  # refused, or reset in the handshake
    kind = Break.REFUSED if refused else Break.UNREACHABLE
    return ConnectFailedError(kind, f"no connection: {reason}")


class _Client(SMTP):
    """aiosmtplib's client with our protocol in it. Its commands, as ehlo(), do not work."""

    opening: Callable[[], Awaitable[tuple[asyncio.Transport, Wire]]]

    async def _create_connection(self, timeout: float | None) -> SMTPResponse:  # noqa: ASYNC109  # aiosmtplib's signature
        """Connect and leave the greeting to the dialogue; connect() does not look at it.

        The one private method of aiosmtplib that is replaced.
        """
        async with asyncio.timeout(timeout):
            self.transport, self.protocol = await self.opening()
        return SMTPResponse(220, "")


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
