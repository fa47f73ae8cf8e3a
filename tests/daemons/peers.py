"""The other ends of the daemons' wires: a scripted mail server, a mail client, a way to cut."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg

from tests.lab import SINK_DOMAIN
from tests.mta.process import fresh_address
from tests.net.hostile import Peer, serving

NAME = "mail.lab.example"
PLAIN = re.compile(rb"<[a-z2-7]{26}@%b>" % re.escape(SINK_DOMAIN.encode()))
PERCENT = re.compile(rb"<([a-z2-7]{26})%%(%b)@[^>]+>" % re.escape(SINK_DOMAIN.encode()))
POSTMASTER = b"<postmaster>"
TAKEN = b"250 2.1.5 Ok"
DEMANDS_TLS = b"530 5.7.0 Must issue a STARTTLS command first"
RELAYING_DENIED = b"550 5.7.1 Relaying denied"


@dataclass(frozen=True)
class Mail:
    """A message as a server took it, or as a client hands it over."""

    reverse: bytes
    forwards: tuple[bytes, ...]
    octets: bytes


@dataclass(eq=False)
class Talk:
    """One connection as the target saw it.

    Attributes:
        tried: Reverse-path and forward-path of each RCPT.
        refused: Replies 4yz and 5yz so far.
    """

    client: str
    lines: list[bytes] = field(default_factory=list)
    tried: list[tuple[bytes, bytes]] = field(default_factory=list)
    taken: list[Mail] = field(default_factory=list)
    refused: int = 0
    reverse: bytes = b""
    forwards: list[bytes] = field(default_factory=list)
    tls: bool = False
    name: bytes = b""

    @property
    def parted(self) -> bool:
        """The client said QUIT, and nothing after it."""
        return b"QUIT" in self.lines[-1:]


Recipient = Callable[[bytes, bytes], bytes]
# From the number of the connection, the command (b"" for none yet) and what the answer would be,
# with its line end, to what is sent instead; None: hang up.
Spoil = Callable[[int, bytes, bytes], bytes | None]
Post = Callable[["Target", Mail], Awaitable[None]]


def closed(_reverse: bytes, forward: bytes) -> bytes:
    """RCPT: only mail for postmaster."""
    return TAKEN if forward == POSTMASTER else RELAYING_DENIED


def anybody(_reverse: bytes, _forward: bytes) -> bytes:
    """RCPT: whatever it is."""
    return TAKEN


def only(pattern: re.Pattern[bytes]) -> Recipient:
    """RCPT: postmaster and what looks like `pattern`."""

    def recipient(_reverse: bytes, forward: bytes) -> bytes:
        mine = forward == POSTMASTER or pattern.fullmatch(forward)
        return TAKEN if mine else RELAYING_DENIED

    return recipient


async def discards(_target: "Target", _mail: Mail) -> None:
    """A message that was taken: gone."""


def relays(sink: tuple[str, int], pattern: re.Pattern[bytes] = PLAIN) -> Post:
    """A message that was taken: to the sink, if the forward-path looks like `pattern`.

    What the pattern's groups match becomes the mailbox.
    """

    async def post(target: Target, mail: Mail) -> None:
        for forward in mail.forwards:
            if found := pattern.fullmatch(forward):
                path = b"<" + b"@".join(found.groups()) + b">" if found.groups() else forward
                await send(sink, mail.reverse, path, octets=mail.octets, source=target.host)

    return post


class Gate:
    """Where a server stops until the test lets it go on.

    Attributes:
        reached: A client has come so far.
        opened: All go on, now and later.
    """

    def __init__(self) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()

    async def go_through(self) -> None:
        """Wait until it is open."""
        self.reached.set()
        await self.opened.wait()


class Target:
    """A mail server on an address of its own that does as it is told and remembers all.

    Attributes:
        recipient: Reply to RCPT, from reverse-path and forward-path.
        post: What becomes of a message, before the answer to the dot.
        talks: Each connection, in order.
        now: Connections at this moment.
        most: Connections at once, at most.
    """

    def __init__(
        self,
        recipient: Recipient = closed,
        post: Post = discards,
        *,
        dot: bytes | None = b"250 2.0.0 Queued",
        greeting: bytes = b"220 %b ESMTP" % NAME.encode(),
        pipelining: bool = True,
        errors: int = 1000,
        messages: int = 1000,
        at_once: int = 1000,
        gate: Gate | None = None,
        starttls: Recipient | None = None,
        demands_tls: bool = False,
        tls_first: bool = False,
        hello: Callable[[bytes], bytes | None] = lambda _: None,
        trusts: bytes = b"",
        spoil: Spoil = lambda _number, _line, octets: octets,
        delay: float = 0.0,
        **says: bytes,
    ) -> None:
        """Describe it.

        Args:
            recipient: See the attribute.
            post: Likewise.
            dot: Answer to the dot; None: none ever.
            greeting: Without the line end.
            pipelining: Announce it.
            errors: So many refusals, and it hangs up.
            messages: So many in a connection, and it hangs up.
            at_once: More connections are turned away.
            gate: Before the greeting.
            starttls: Offer it; reply to RCPT inside TLS.
            demands_tls: Refuse MAIL in clear.
            tls_first: TLS comes before the greeting.
            hello: Reply to EHLO and HELO, from the client's name; None: the usual one.
            trusts: Takes mail for anybody from a client of that name.
            spoil: See there.
            delay: Seconds before each reply.
            says: Reply to a verb instead of the usual one.
        """
        self.host = fresh_address()
        self.talks: list[Talk] = []
        self.now = self.most = 0
        self.recipient, self.post = recipient, post
        self._dot, self._gate = dot, gate
        self._greeting, self._errors, self._at_once = greeting, errors, at_once
        self._messages = messages
        self._name_check, self._trusts = hello, trusts
        self._starttls, self._demands_tls, self._tls_first = starttls, demands_tls, tls_first
        self._spoil, self._delay = spoil, delay
        self._says = {verb.encode(): reply for verb, reply in says.items()}
        self._hello = b"250-%b\r\n250 %b" % (
            NAME.encode(),
            b"PIPELINING" if pipelining else b"8BITMIME",
        )

    @property
    def tried(self) -> list[tuple[bytes, bytes]]:
        """All envelopes, in order."""
        return [envelope for talk in self.talks for envelope in talk.tried]

    @property
    def taken(self) -> list[Mail]:
        """All messages, in order."""
        return [mail for talk in self.talks for mail in talk.taken]

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[int]:
        """Serve while the block runs; give the port."""
        async with serving(self._play, self.host) as port:
            yield port

    async def _play(self, peer: Peer) -> None:
        talk = Talk(peer.writer.get_extra_info("peername")[0])
        self.talks.append(talk)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if self.now > self._at_once:
                await peer.say(b"421 4.7.0 Too many connections\r\n")
            else:
                await self._begin(peer, talk)
                await self._converse(peer, talk)
        finally:
            self.now -= 1

    async def _begin(self, peer: Peer, talk: Talk) -> None:
        if self._gate is not None:
            await self._gate.go_through()
        if self._tls_first:
            await peer.encrypt()
            talk.tls = True

    async def _converse(self, peer: Peer, talk: Talk) -> None:
        number = len(self.talks)
        if not await self._say(peer, self._spoil(number, b"", self._greeting + b"\r\n")):
            return
        while line := (await peer.hear()).rstrip(b"\r\n"):
            talk.lines.append(line)
            reply = self._reply(talk, line)
            talk.refused += reply[:1] in b"45"
            if talk.refused > self._errors:
                reply = b"421 4.7.0 Too many errors"
            if not await self._say(peer, self._spoil(number, line, reply + b"\r\n")):
                return
            if line.upper() == b"STARTTLS" and reply.startswith(b"220"):
                await peer.encrypt()
                talk.tls = True
            if reply.startswith(b"354"):
                await self._take(peer, talk)
            if reply.startswith(b"221"):
                return

    async def _say(self, peer: Peer, octets: bytes | None) -> bool:
        """Return whether the session goes on."""
        if octets is None:
            return False
        await asyncio.sleep(self._delay)
        await peer.say(octets)
        return not octets.startswith(b"421")

    def _reply(self, talk: Talk, line: bytes) -> bytes:
        verb, path = line[:4].upper(), line.partition(b":")[2]
        usual = b"250 2.0.0 Ok"
        match verb:
            case b"EHLO" | b"HELO":
                talk.name = line[5:]
                offered = b"250-STARTTLS\r\n" if self._starttls and not talk.tls else b""
                usual = self._hello.replace(b"250 ", offered + b"250 ")
                usual = self._name_check(talk.name) or usual
            case b"STAR":
                usual = b"220 2.0.0 Ready" if self._starttls else b"502 5.5.1 Not implemented"
            case b"MAIL":
                talk.reverse, talk.forwards = path, []
                usual = DEMANDS_TLS if self._demands_tls and not talk.tls else usual
            case b"RCPT":
                talk.tried.append((talk.reverse, path))
                inside = talk.tls and self._starttls
                trusted = anybody if talk.name == self._trusts else None
                usual = (trusted or inside or self.recipient)(talk.reverse, path)
                talk.forwards += [path] * usual.startswith(b"250")
            case b"DATA":
                usual = b"354 Go ahead" if talk.forwards else b"554 5.5.1 No valid recipients"
                if len(talk.taken) >= self._messages:
                    usual = b"421 4.7.0 Too many messages"
            case b"QUIT":
                usual = b"221 2.0.0 Bye"
            case _:
                pass
        return self._says.get(verb, usual)

    async def _take(self, peer: Peer, talk: Talk) -> None:
        lines = []
        while (line := await peer.hear()) not in {b".\r\n", b""}:
            lines.append(line.removeprefix(b"."))
        mail = Mail(talk.reverse, tuple(talk.forwards), b"".join(lines))
        talk.taken.append(mail)
        await self.post(self, mail)
        if self._dot is None:
            await peer.wait()
        else:
            await peer.say(self._dot + b"\r\n")


@contextlib.asynccontextmanager
async def full_disk(
    connection: asyncpg.Connection, table: str
) -> AsyncIterator[Callable[[], Awaitable[bool | None]]]:
    """Let PostgreSQL have no room for new rows of a table; give a look whether it was asked."""
    await connection.execute(f"""
        CREATE SEQUENCE public.refused;
        CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN
            PERFORM nextval('public.refused');
            RAISE SQLSTATE '53100' USING MESSAGE = 'could not extend file: No space left on device';
        END $$;
        CREATE TRIGGER full_disk BEFORE INSERT ON relaytest.{table}
            FOR EACH STATEMENT EXECUTE FUNCTION public.refuse()
    """)

    async def refused() -> bool | None:
        return await connection.fetchval("SELECT is_called FROM public.refused") or None

    yield refused
    await connection.execute("DROP FUNCTION public.refuse CASCADE; DROP SEQUENCE public.refused")


async def seen(value: object) -> bool | None:
    """For `until`: whether there is anything yet."""
    return bool(value) or None


async def send(
    place: tuple[str, int],
    reverse: bytes,
    *forwards: bytes,
    octets: bytes | None = b"Subject: x\r\n\r\nx\r\n",
    source: str = "127.0.0.1",
    helo: bytes = NAME.encode(),
) -> list[bytes]:
    """Hand a message to a mail server, as another server does.

    Args:
        place: Host and port; awaited if nobody listens there yet.
        reverse: With its brackets.
        forwards: Likewise.
        octets: Sent as they are, dots at the beginning of a line doubled; None: no DATA.
        source: Our address.
        helo: Our name.

    Returns:
        The code of each reply from RCPT on, the last one that to the dot.
    """
    reader, writer = await reach(place, source)
    commands = [b"HELO " + helo, b"MAIL FROM:" + reverse]
    commands += [b"RCPT TO:" + forward for forward in forwards]
    if octets is not None:
        text = octets.replace(b"\r\n.", b"\r\n..") + b"." if octets.endswith(b"\n") else octets
        commands += [b"DATA", text]
    try:
        codes = [(await reader.readline())[:3]]
        for command in commands:
            if codes[-1] in {b"554", b"503"}:
                break  # what follows is no message
            writer.write(command + b"\r\n")
            codes.append((await reader.readline())[:3])
        writer.write(b"QUIT\r\n")
        await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return [code for code in codes[3:] if code != b"354"]


async def reach(
    place: tuple[str, int], source: str = "127.0.0.1"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, as soon as somebody listens there."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await asyncio.open_connection(*place, local_addr=(source, 0))
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)


class Road:
    """A way to the database that can be cut and mended: a Unix socket that passes all on."""

    def __init__(self, dsn: str, folder: Path) -> None:
        query = parse_qs(urlsplit(dsn).query)
        self._there = f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}"
        self._here = folder / f".s.PGSQL.{query['port'][0]}"
        self.dsn = f"{dsn.partition('?')[0]}?host={quote(str(folder))}&port={query['port'][0]}"
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def mend(self) -> None:
        """Let everybody pass."""
        self._server = await asyncio.start_unix_server(self._pass, self._here)

    async def cut(self) -> None:
        """Break all connections, and let nobody pass."""
        if self._server is not None:
            self._server.close()
        await self.break_all()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.sleep(0)  # let the aborted transports close their sockets

    async def break_all(self) -> None:
        """Break all connections; new ones are welcome."""
        for end in self._ends:
            end.transport.abort()

    async def hand_on(self, octets: bytes, beyond: asyncio.StreamWriter) -> None:
        """Pass on what a client says."""
        await _write(octets, beyond)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._ends.add(writer)
        with contextlib.suppress(OSError):
            beyond_reader, beyond = await asyncio.open_unix_connection(self._there)
            self._ends.add(beyond)
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, beyond, self.hand_on))
                group.create_task(_copy(beyond_reader, writer))
            self._ends.discard(beyond)
        self._ends.discard(writer)


async def _write(octets: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(octets)
    await writer.drain()


async def _copy(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    write: Callable[[bytes, asyncio.StreamWriter], Awaitable[None]] = _write,
) -> None:
    with contextlib.suppress(OSError):
        while octets := await reader.read(65536):
            await write(octets, writer)
    writer.transport.abort()
