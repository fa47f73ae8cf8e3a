"""The octets of one connection: pairs replies with commands, keeps time, begins TLS.

net.smtp_client carries dialogues over it. Reading and pairing are our own; see there.
"""

import asyncio
import math
import os
import ssl
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import cast

from aiosmtplib.protocol import SMTPProtocol

from relaytest.core.dialogue import Break, Broken, Got
from relaytest.core.reply import Reply
from relaytest.core.transcript import Exchange, Transcript
from relaytest.core.visit import Encryption
from relaytest.net.reply_reader import ReplyReader

TICK = 0.001  # seconds; uvloop's clock counts in these
_LAST_WORD = 5.0  # seconds to wait for the reply to QUIT
_MOST_SURPLUS = 64  # replies to one command
PARTING = timedelta(seconds=1)  # to wait for the server to close after its reply to QUIT


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
    surplus: list[Reply] | None = None  # what came beyond; None: nothing may

    def add(self, replies: list[Reply]) -> None:
        self.replies += replies
        self.lacks -= len(replies)
        if not self.lacks:
            self.end()

    def end(self) -> None:
        if not self.done.done():  # it may have been cancelled with the dialogue
            self.done.set_result(None)


class Wire(SMTPProtocol):
    """Pairs replies with commands by position, keeps time, writes the transcript.

    Attributes:
        broken: Why the connection is over.
        greeting: Awaited from the start: a server may speak before the dialogue has begun.
        gone: The socket is closed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        session: timedelta,
        settle: timedelta = timedelta(0),
    ) -> None:
        super().__init__(loop=loop)
        self.transcript = Transcript()
        self.source: IPv4Address | IPv6Address | None = None
        self.broken: Broken | None = None
        self.encryption: Encryption | None = None
        self._settle = settle.total_seconds()
        self.greeting = self._group = self._expect(1)
        self.gone = asyncio.Event()
        self._reader = ReplyReader()
        self._leaving = False
        self._begun = self._last = loop.time()  # octets came
        self._deadline = self._begun + session.total_seconds()
        self._limit = math.inf  # seconds for the next reply
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
        self._group = self._expect(count)
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
            self._wait_from(self._loop.time())
            try:
                await group.done
            except asyncio.CancelledError:
                self.break_off(Break.CLOSED, "we gave up waiting")
                raise
        if group.surplus is not None and (contradiction := await self._wait_for_more(group)):
            return Got((), contradiction)
        broken = self.broken
        if broken is not None and not group.lacks:
            broken = broken if broken.kind in {Break.DESYNC, Break.GARBAGE} else None
        return Got(tuple(group.replies), broken)

    async def _wait_for_more(self, group: _Group) -> Broken | None:
        """Take what comes soon after a reply for the same command's, unless it says otherwise."""
        left = self._settle
        while left > 0 and self.broken is None:
            await asyncio.sleep(left)
            left = self._last + self._settle - self._loop.time()
        surplus, group.surplus = group.surplus or [], None
        replies = group.replies + surplus
        if len({reply.code // 100 for reply in replies}) < 2:
            return None
        told = " / ".join(str(reply) for reply in replies[:4])
        contradiction = Broken(Break.DESYNC, f"replies that contradict each other: {told}")
        self.break_off(contradiction.kind, contradiction.text)
        return contradiction

    async def secure(self, limit: timedelta) -> Got:
        """Begin TLS. What came in clear and was not asked for is never taken for TLS's own."""
        if self._reader.in_mid_reply:
            self.break_off(Break.DESYNC, "part of a reply came before TLS")
        over = self.broken is not None
        if over:
            return Got((), self.broken)
        if self._group is self.greeting and self._group.done.done():
            self.break_off(Break.TLS, "the server speaks first, and in clear")
            return Got((), self.broken)
        self._due = math.inf
        secured: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(limit.total_seconds()):
                raw = cast("asyncio.Transport", self.transport)
                secured = await self._loop.start_tls(raw, self, _tls())
        except OSError as error:  # TimeoutError and ssl.SSLError are
            self.break_off(Break.TLS, f"TLS failed: {reason_of(error)}")
        finally:
            if secured is None:  # the loop closes the socket, and does not tell us when
                self.break_off(Break.TLS, "TLS was broken off")
                self.gone.set()
        if secured is not None:
            self.transport = secured
            self.encryption = _encryption(secured)
            if self.broken is not None:
                secured.abort()
        return Got((), self.broken)

    async def farewell(self, octets: bytes, before: int, limit: timedelta) -> Got:
        """Send `before` commands and QUIT; see that nothing follows, not even part of a line.

        A server may close or be silent instead of answering QUIT, or leave the closing to us: no
        break either. But if the last that came is a 221, another reply is missing before it.
        """
        self._leaving = True
        got = await self.exchange(octets, before + 1, limit)
        if got.broken is not None:
            if len(got.replies) < before or got.broken.kind not in {Break.CLOSED, Break.TIMEOUT}:
                return got
            if before and got.replies[-1].code == 221:
                return Got(got.replies, Broken(Break.DESYNC, "a reply before the last is missing"))
            return Got(got.replies)
        if self._settle:
            return got
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
        """Begin to watch the time."""
        super().connection_made(transport)
        self.source = ip_address(transport.get_extra_info("sockname")[0])
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Give the replies in `data` to the commands that wait, in order."""
        if self.broken is not None:
            return
        self._note(data, sent=False)
        self._last = self._loop.time()
        replies = self._reader.feed(data)
        group, lacks = self._group, self._group.lacks
        if replies and lacks:
            group.add(replies[:lacks])
            if group.lacks:
                self._wait_from(self._last)
        if len(replies) > lacks:
            self._take_surplus(replies[lacks:])
        elif self._reader.fault:
            self.break_off(Break.GARBAGE, self._reader.fault)

    def eof_received(self) -> bool:
        """Take it for the end, whatever of a reply is missing."""
        where = " in the middle of a reply" if self._reader.in_mid_reply else ""
        self.break_off(Break.CLOSED, f"the server closed the connection{where}")
        return False  # close our side as well

    def connection_lost(self, exc: Exception | None) -> None:
        """Be done."""
        super().connection_lost(exc)
        self.break_off(Break.CLOSED, "the server reset the connection")
        self.gone.set()

    def _expect(self, count: int) -> _Group:
        return _Group(count, self._loop.create_future(), surplus=[] if self._settle else None)

    def _take_surplus(self, replies: list[Reply]) -> None:
        more = self._group.surplus
        if more is None or replies[0].code == 421 or len(more) + len(replies) > _MOST_SURPLUS:
            self._refuse(replies[0])
        else:
            more += replies

    def _refuse(self, surplus: Reply) -> None:
        """Break. A server that shuts down may say 421 unasked (RFC 5321 section 3.8)."""
        if surplus.code == 421 and not self._leaving:
            self.break_off(Break.CLOSED, f"the server hung up: {surplus}")
        else:
            self.break_off(Break.DESYNC, f"a reply came that no command waited for: {surplus}")

    def _note(self, octets: bytes, *, sent: bool) -> None:
        self.transcript.add(Exchange(self._loop.time() - self._begun, sent, octets))

    def _wait_from(self, moment: float) -> None:
        """Wait for the next reply; nothing depends on the one to QUIT, so not long for that."""
        if self._leaving and self._group.lacks == 1:
            self._limit = min(self._limit, _LAST_WORD)
        self._due = moment + self._limit
        if self._alarm is None or self._alarm.when() > self._due:
            self._watch()

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


@cache
def _tls() -> ssl.SSLContext:
    """One context for all: it costs more than a session.

    We test whether a server relays, not how it encrypts: any certificate, and what old servers
    speak, too (RFC 7435).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.options |= getattr(ssl, "OP_LEGACY_SERVER_CONNECT", 0x4)
    return context


def reason_of(error: OSError) -> str:
    """Say what went wrong on the network, in words that do not differ from loop to loop."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error)
    return str(error) if error.errno is None else os.strerror(error.errno)


def _encryption(transport: asyncio.Transport) -> Encryption:
    session = transport.get_extra_info("ssl_object")
    cipher = session.cipher()
    certificate = session.getpeercert(binary_form=True) or b""
    return Encryption(session.version() or "", cipher[0] if cipher else "", certificate)
