"""Peers that misbehave on purpose: one mode each, and how a session with it must end."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from relaytest.core.dialogue import Break

GREETING = b"220 mx.example ESMTP\r\n"
POLITE = {
    b"EHLO": b"250-mx.example\r\n250 PIPELINING\r\n",
    b"HELO": b"250 mx.example\r\n",
    b"MAIL": b"250 2.1.0 Ok\r\n",
    b"RCPT": b"550 5.7.1 Relaying denied\r\n",
    b"RSET": b"250 2.0.0 Ok\r\n",
    b"DATA": b"354 Go ahead\r\n",
    b"QUIT": b"221 2.0.0 Bye\r\n",
}
CERTIFICATE = Path(__file__).with_name("certificate.pem")
SHORT = 0.03  # seconds; well below the time-outs of the tests


def server_tls() -> ssl.SSLContext:
    """What a server needs for TLS, with a certificate that nobody has signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


class Peer:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, octets: bytes) -> None:
        """Write, and wait while the client does not read."""
        self.writer.write(octets)
        await self.writer.drain()

    async def encrypt(self) -> None:
        """Be the server's side of a TLS handshake."""
        await self.writer.start_tls(server_tls())

    async def hear(self) -> bytes:
        """Return the next line, or b"" when the client has gone."""
        return await self.reader.readline()

    async def wait(self) -> None:
        """Say nothing more until the client has gone."""
        while await self.reader.read(65536):
            pass

    def reset(self) -> None:
        """Send a TCP RST."""
        linger = struct.pack("ii", 1, 0)
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def converse(self, *, greeting: bytes = GREETING, **answers: bytes) -> None:
        """Be a decent server, apart from `answers`: what to say to that verb instead."""
        await self.say(greeting)
        while line := await self.hear():
            verb = line[:4].upper()
            await self.say(answers.get(verb.decode("latin-1"), POLITE.get(verb, b"500 What?\r\n")))
            if verb == b"QUIT":
                return


Play = Callable[[Peer], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(play: Play, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Yield a port where each connection is treated by `play`; leave nothing behind."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            # the client hung up on us, or the test is over
            with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
                await play(Peer(reader, writer))
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, host, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await server.wait_closed()
        await asyncio.sleep(0)  # let the aborted transports close their sockets


@dataclass(frozen=True)
class Mode:
    """One kind of misbehaviour.

    Attributes:
        end: How the connection broke; None: it did not.
        kept: Of three refused forms, asked in one pipelined group where the server announced
            PIPELINING: how many answers stand after the farewell.
        hung_up: What Answers.hung_up must say.
        says: Part of the text of the Broken.
    """

    name: str
    play: Play
    end: Break | None
    kept: int = 0
    hung_up: bool = False
    says: str = ""


def says(octets: bytes) -> Play:
    """Greet with `octets`, then be silent."""

    async def play(peer: Peer) -> None:
        await peer.say(octets)
        await peer.wait()

    return play


def ends(octets: bytes) -> Play:
    """Greet with `octets`, then close."""

    async def play(peer: Peer) -> None:
        await peer.say(octets)

    return play


def repeats(first: bytes, again: bytes) -> Play:
    """Say `again` for ever."""

    async def play(peer: Peer) -> None:
        await peer.say(first)
        while True:
            await peer.say(again)

    return play


def answers(**verbs: bytes) -> Play:
    """Be decent but for some verbs."""

    async def play(peer: Peer) -> None:
        await peer.converse(**verbs)

    return play


def greets(greeting: bytes) -> Play:
    """Be decent but for the greeting."""

    async def play(peer: Peer) -> None:
        await peer.converse(greeting=greeting)

    return play


async def drip(peer: Peer) -> None:
    """An octet at a time, never a line."""
    await peer.say(b"220-")
    while True:
        await peer.say(b"x")
        await asyncio.sleep(SHORT)


async def drip_lines(peer: Peer) -> None:
    """A line at a time, never a reply."""
    while True:
        await peer.say(b"220-please wait\r\n")
        await asyncio.sleep(SHORT)


async def single_octets(peer: Peer) -> None:
    """Decent, but each octet in a segment of its own."""
    sock = peer.writer.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    octets = GREETING
    while octets:
        for octet in octets:
            await peer.say(bytes([octet]))
            await asyncio.sleep(0)
        octets = POLITE.get((await peer.hear())[:4], b"")


async def slow_replies(peer: Peer) -> None:
    """Each reply in time, the group as a whole not."""
    await peer.say(GREETING)
    while line := await peer.hear():
        await asyncio.sleep(2 * SHORT)
        await peer.say(POLITE[line[:4]])


async def reset_at_once(peer: Peer) -> None:
    await asyncio.sleep(SHORT)  # else the client may see it as a refused connection
    peer.reset()


async def reset_in_group(peer: Peer) -> None:
    """A whole form is answered, then RST."""
    await until(peer, b"RSET")
    await asyncio.sleep(SHORT)  # an RST may overtake what was written just before
    peer.reset()


async def until(peer: Peer, verb: bytes) -> None:
    """Be decent up to the first `verb`, which is answered."""
    await peer.say(GREETING)
    while line := await peer.hear():
        await peer.say(POLITE[line[:4]])
        if line[:4] == verb:
            return


async def silent_after_rset(peer: Peer) -> None:
    """Throws away what was pipelined behind RSET."""
    await until(peer, b"RSET")
    await peer.wait()


async def closes_after_rset(peer: Peer) -> None:
    await until(peer, b"RSET")


async def closes_in_mid_reply(peer: Peer) -> None:
    await until(peer, b"RSET")
    await peer.say(b"250-2.1.0 O")


async def no_newline_at_end(peer: Peer) -> None:
    await until(peer, b"RSET")
    await peer.say(b"250 2.1.0 Ok")


async def hangs_up_in_group(peer: Peer) -> None:
    await until(peer, b"RSET")
    await peer.say(b"421 4.7.0 Too many errors\r\n")


async def hangs_up_and_goes_on(peer: Peer) -> None:
    """421 in the middle of a group, whose other commands are answered all the same."""
    await until(peer, b"RSET")
    await peer.say(b"421 4.7.0 Try again later\r\n" + POLITE[b"RCPT"] + POLITE[b"RSET"])
    await peer.wait()


async def answers_first_only(peer: Peer) -> None:
    """Announces PIPELINING and answers the first line of each segment."""
    await peer.say(GREETING)
    while octets := await peer.reader.read(65536):
        await peer.say(POLITE[octets[:4]])


async def resets_at_pipelining(peer: Peer) -> None:
    """Announces PIPELINING and cannot bear it."""
    await peer.say(GREETING)
    while (octets := await peer.reader.read(65536)).count(b"\n") == 1:
        await peer.say(POLITE[octets[:4]])
    peer.reset()


async def never_reads(peer: Peer) -> None:
    await peer.say(GREETING)
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # typeshed: WriteTransport
    await asyncio.sleep(60)  # cancelled when the client has given up


async def half_closes(peer: Peer) -> None:
    await peer.say(GREETING)
    peer.writer.write_eof()
    await peer.wait()


async def stays_after_quit(peer: Peer) -> None:
    await peer.converse()
    await peer.wait()


async def closes_at_quit(peer: Peer) -> None:
    await peer.say(GREETING)
    while (line := await peer.hear())[:4] != b"QUIT":
        await peer.say(POLITE[line[:4]])


async def resets_at_quit(peer: Peer) -> None:
    await closes_at_quit(peer)
    peer.reset()


async def mute_at_quit(peer: Peer) -> None:
    await closes_at_quit(peer)
    await peer.wait()


async def mute_at_one_mail(peer: Peer) -> None:
    """One reply is missing, and all that follow seem to belong to the command before theirs."""
    await peer.say(GREETING)
    mails = 0
    while verb := (await peer.hear())[:4]:
        mails += verb == b"MAIL"
        if verb != b"MAIL" or mails != 2:
            await peer.say(POLITE[verb])


def says_later(octets: bytes) -> Play:
    """Be decent, but add something some time after the 221."""

    async def play(peer: Peer) -> None:
        await peer.converse()
        await asyncio.sleep(SHORT)
        await peer.say(octets)
        await peer.wait()

    return play


LINE = b"220-" + b"x" * 1000 + b"\r\n"
MODES = (
    Mode("polite", answers(), None, 3),
    # ---- no SMTP at all
    Mode("ssh", ends(b"SSH-2.0-OpenSSH_9.2\r\n"), Break.GARBAGE, says="no SMTP reply"),
    Mode("http", ends(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Break.GARBAGE),
    Mode("binary", says(bytes(range(256)) * 4), Break.GARBAGE),
    Mode("tls-alert", says(b"\x15\x03\x03\x00\x02\x02\x28"), Break.GARBAGE),
    Mode("empty-lines", says(b"\r\n\r\n"), Break.TIMEOUT),
    Mode("endless-empty-lines", repeats(b"", b"\r\n" * 1000), Break.GARBAGE),
    Mode("empty-lines-between", answers(RSET=b"\r\n250 Ok\r\n\r\n"), None, 3),
    Mode("nul", says(b"220 mx\0example\r\n"), Break.GARBAGE),
    Mode("nul-at-start", says(b"\x00220 mx.example\r\n"), Break.GARBAGE),
    Mode("bare-cr-only", says(b"220 mx.example\r250 Ok\r"), Break.TIMEOUT),
    # ---- too slow, too long
    Mode("mute", says(b""), Break.TIMEOUT, says="no reply within 0.2 s"),
    Mode("drip", drip, Break.TIMEOUT),
    Mode("drip-lines", drip_lines, Break.TIMEOUT),
    Mode("single-octets", single_octets, None, 3),
    Mode("slow-replies", slow_replies, None, 3),
    Mode("never-reads", never_reads, Break.TIMEOUT),
    Mode("endless-line", repeats(b"220 ", b"x" * 65536), Break.GARBAGE, says="4096 octets"),
    Mode("endless-reply", repeats(b"", b"220-x\r\n" * 100), Break.GARBAGE, says="512 lines"),
    Mode("long-line", says(b"220 " + b"x" * 4091 + b"\r\n"), Break.GARBAGE, says="4096 octets"),
    Mode("huge-reply", says(LINE * 70 + b"220 x\r\n"), Break.GARBAGE, says="65536 octets"),
    # ---- gone
    Mode("close-at-once", ends(b""), Break.CLOSED, says="closed"),
    Mode("close-in-greeting", ends(b"220-mx.example\r\n"), Break.CLOSED, says="middle"),
    Mode("no-newline", ends(b"220 mx.example"), Break.CLOSED, says="middle"),
    Mode("close-after-greeting", ends(GREETING), Break.CLOSED),
    Mode("close-after-rset", closes_after_rset, Break.CLOSED, 1),
    Mode("close-in-mid-reply", closes_in_mid_reply, Break.CLOSED, 1, says="middle"),
    Mode("no-newline-at-end", no_newline_at_end, Break.CLOSED, 1, says="middle"),
    Mode("half-close", half_closes, Break.CLOSED),
    Mode("rst-at-once", reset_at_once, Break.CLOSED, says="reset"),
    Mode("rst-in-group", reset_in_group, Break.CLOSED, 1, says="reset"),
    # ---- hangs up as RFC 5321 section 3.8 has it
    Mode("421-greeting", ends(b"421 Too busy\r\n"), None),
    Mode("554-greeting", greets(b"554 No SMTP service here\r\n"), None),
    Mode("421-in-group", hangs_up_in_group, Break.CLOSED, 1, hung_up=True),
    Mode("421-and-on", hangs_up_and_goes_on, Break.TIMEOUT, 1, hung_up=True),
    Mode(
        "421-unasked",
        answers(EHLO=POLITE[b"EHLO"] + b"421 Shutting down\r\n"),
        Break.CLOSED,
        says="hung up: 421 Shutting down",
    ),
    # ---- replies that are none
    Mode("code-999", answers(MAIL=b"999 Ok\r\n"), Break.GARBAGE),
    Mode("code-600", answers(MAIL=b"600 Ok\r\n"), Break.GARBAGE),
    Mode("code-199", answers(MAIL=b"199 Ok\r\n"), Break.GARBAGE),
    Mode("code-minus-50", answers(MAIL=b"-50 Ok\r\n"), Break.GARBAGE),
    Mode("code-2_5", answers(MAIL=b"2_5 Ok\r\n"), Break.GARBAGE),
    Mode("code-four-digits", answers(MAIL=b"2500 Ok\r\n"), Break.GARBAGE),
    Mode("code-then-tab", answers(MAIL=b"250\tOk\r\n"), Break.GARBAGE),
    Mode("code-in-wide-digits", answers(MAIL="٢٥٠ Ok\r\n".encode()), Break.GARBAGE),
    Mode("bare-cr", answers(MAIL=b"250 Ok\r550 No\r\n"), Break.GARBAGE),
    Mode("garbage-at-rset", answers(RSET=b"OK\r\n"), Break.GARBAGE),
    # ---- odd, but replies
    Mode("bare-lf", answers(MAIL=b"250 Ok\n", RCPT=b"550-No\n550 No\n", RSET=b"250\n"), None, 3),
    Mode("cr-cr-lf", answers(MAIL=b"250 Ok\r\r\n", RCPT=b"550 No\r\r\n"), None, 3),
    Mode("code-only", answers(MAIL=b"250\r\n", RCPT=b"550-\r\n550\r\n"), None, 3),
    Mode("mixed-codes", answers(RCPT=b"250-first\r\n550-second\r\n550 third\r\n"), None, 3),
    Mode("not-utf-8", answers(RCPT=b"550 Ung\xfcltig \x1b[2J\r\n"), None, 3),
    Mode("ehlo-refused", answers(EHLO=b"502 What?\r\n"), None, 3),
    Mode("longest-line", greets(b"220 " + b"x" * 4090 + b"\r\n"), None, 3),
    # ---- more replies than commands; hung_up, because a 550 then stands where RSET's 250 should
    Mode("two-for-one", answers(MAIL=b"250 Ok\r\n250 Ok\r\n"), Break.DESYNC, hung_up=True),
    Mode("two-greetings", greets(GREETING + GREETING), Break.DESYNC),
    Mode("early-reply", answers(EHLO=POLITE[b"EHLO"] + b"250 Ok\r\n"), Break.DESYNC),
    Mode("half-an-early-reply", answers(EHLO=POLITE[b"EHLO"] + b"250-"), Break.DESYNC, says="part"),
    Mode("one-more-at-rset", answers(RSET=b"250 Ok\r\n250 Ok\r\n"), Break.DESYNC, hung_up=True),
    Mode("flood", repeats(GREETING, b"250 Ok\r\n" * 1000), Break.DESYNC),
    # ---- PIPELINING announced and broken
    Mode("answers-first-only", answers_first_only, Break.TIMEOUT),
    Mode("silent-after-rset", silent_after_rset, Break.TIMEOUT, 1),
    Mode("resets-at-pipelining", resets_at_pipelining, Break.CLOSED),
    Mode("rset-refused", answers(RSET=b"502 What?\r\n"), None, hung_up=True),
    # ---- at the end
    Mode("stays-after-quit", stays_after_quit, None, 3),
    Mode("closes-at-quit", closes_at_quit, None, 3),
    Mode("resets-at-quit", resets_at_quit, None, 3),
    Mode("mute-at-quit", mute_at_quit, None, 3),
    Mode("mute-at-one-mail", mute_at_one_mail, Break.DESYNC),
    Mode("500-at-quit", answers(QUIT=b"500 What?\r\n"), None, 3),
    Mode("421-at-quit", answers(QUIT=b"421 Time is up\r\n"), None, 3),
    Mode("garbage-at-quit", answers(QUIT=b"Bye\r\n"), Break.GARBAGE),
    Mode("one-more-after-quit", answers(QUIT=b"221 Bye\r\n250 Ok\r\n"), Break.DESYNC),
    Mode("421-after-quit", answers(QUIT=b"221 Bye\r\n421 Bye\r\n"), Break.DESYNC),
    Mode("one-more-later", says_later(b"250 Ok\r\n"), Break.DESYNC),
    Mode("half-a-line-later", says_later(b"250 O"), Break.DESYNC),
    Mode("garbage-later", says_later(b"Bye\r\n"), Break.DESYNC),
    Mode("half-a-line-more", answers(QUIT=b"221 Bye\r\n2"), Break.DESYNC),
    Mode("garbage-after-quit", answers(QUIT=b"221 Bye\r\nBye\r\n"), Break.GARBAGE),
)
MODES_BY_NAME = {mode.name: mode for mode in MODES}
