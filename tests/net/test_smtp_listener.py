"""The listener on real sockets, on both event loops: answers, caps, clocks and the way out."""

import asyncio
import contextlib
import smtplib
import socket
import ssl
import warnings
from dataclasses import replace
from datetime import timedelta
from functools import partial
from ipaddress import IPv4Address, IPv6Address

import aiosmtplib
import pytest
import uvloop

from relaytest.core.reception import Limits, Session
from relaytest.net import smtp_listener
from relaytest.net.admission import Bounds
from relaytest.net.server_tls import server_tls
from relaytest.net.smtp_listener import Event, listen
from tests.net.hostile import CERTIFICATE

TOKEN = "aebagbafaydqqcikbmga2dqpcaireeyu@sink.example"
OPEN = b"EHLO relay.example\r\nMAIL FROM:<>\r\nRCPT TO:<%b>\r\nDATA\r\n" % TOKEN.encode()
MESSAGE = b"Subject: test\r\n\r\ntext\r\n"
WHOLE = OPEN + MESSAGE + b".\r\nQUIT\r\n"
RESET = b"\1\0\0\0\0\0\0\0"  # SO_LINGER: close() resets the connection
LOCALHOST = ("127.0.0.1", 0)
SHORT = timedelta(milliseconds=30)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    """Run a coroutine; every one within the same generous time."""

    async def bounded(act):
        async with asyncio.timeout(20):
            return await act

    with asyncio.Runner(loop_factory=request.param) as runner:
        yield lambda act: runner.run(bounded(act))


class Watched(Session[bool]):
    """Remembers the most that it ever held."""

    most_held = 0
    taken = 0

    def receive(self, octets):
        actions = super().receive(octets)
        self.most_held = max(self.most_held, self.held_octets)
        self.taken += len(octets)
        return actions


class Sink:
    """A store that keeps what it gets, and the sessions that brought it."""

    def __init__(self, limits=None, answer=True, *, tls=False):
        self.limits = limits or Limits()
        self.tls = tls
        self.answer = answer
        self.sessions = []
        self.peers = []
        self.deliveries = []
        self.events = []
        self.errors = []
        self.news = asyncio.Event()
        self.asked = asyncio.Event()
        self.may_store = asyncio.Event()
        self.may_store.set()

    def session(self, peer):
        self.peers.append(peer)
        self.sessions.append(Watched(b"sink.example", self.limits, self.accept, tls=self.tls))
        return self.sessions[-1]

    def accept(self, local_part, domain):
        return (local_part + b"@" + domain == TOKEN.encode()) or None

    async def store(self, peer, port, delivery):
        self.asked.set()
        await self.may_store.wait()
        if isinstance(self.answer, BaseException):
            raise self.answer
        self.deliveries.append((peer, port, delivery))
        return self.answer

    def on_event(self, event, _peer, error):
        self.events.append(event)
        self.errors.append(error)
        self.news.set()

    async def until(self, event):
        """Wait until `event` has happened."""
        while event not in self.events:
            self.news.clear()
            await self.news.wait()

    def listen(self, *places, bounds=None, **options):
        return listen(
            places or [LOCALHOST],
            self.session,
            self.store,
            bounds=bounds,
            on_event=self.on_event,
            **options,
        )


@contextlib.asynccontextmanager
async def dial(listener, **options):
    """Connect; yield reader and writer."""
    reader, writer = await asyncio.open_connection(*listener.addresses[0], **options)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def talk(listener, octets, **options):
    """Send all at once and return all that comes until the listener closes."""
    async with dial(listener, **options) as (reader, writer):
        writer.write(octets)
        return await rest(reader)


async def rest(reader):
    """Return what comes until the end; a reset is an end, too."""
    try:
        return await reader.read(-1)
    except ConnectionResetError:
        return b""


def codes(octets):
    return [int(line[:3]) for line in octets.split(b"\r\n") if line[3:4] == b" "]


# ---- clients as they are


def send_by_smtplib(address, recipient):
    host, port = address
    with smtplib.SMTP(host, port, local_hostname="relay.example") as client:
        client.sendmail("a@relay.example", [recipient], MESSAGE)


def test_smtplib_delivers_to_a_token_mailbox(run):
    async def act():
        sink = Sink()
        async with sink.listen() as listener:
            await asyncio.to_thread(send_by_smtplib, listener.addresses[0], TOKEN)
        return sink.deliveries[0][2].message

    assert run(act()) == MESSAGE


def test_smtplib_is_refused_any_other_mailbox(run):
    async def act():
        async with Sink().listen() as listener:
            with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
                await asyncio.to_thread(send_by_smtplib, listener.addresses[0], "a@sink.example")
        return caught.value.recipients["a@sink.example"][0]

    assert run(act()) == 550


def test_aiosmtplib_delivers_many_messages_in_one_session(run):
    async def act():
        sink = Sink()
        async with sink.listen() as listener:
            host, port = listener.addresses[0]
            async with aiosmtplib.SMTP(hostname=host, port=port, start_tls=False) as client:
                for _ in range(5):
                    await client.sendmail("a@relay.example", [TOKEN], MESSAGE)
        return [delivery.message for _, _, delivery in sink.deliveries]

    assert run(act()) == 5 * [MESSAGE]


# ---- STARTTLS

ENCRYPTED = Bounds(tls=partial(server_tls, str(CERTIFICATE)), handshake=timedelta(seconds=10))


def anybody():
    """What a client needs that checks no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def send_inside_tls(address, messages, context):
    host, port = address
    with smtplib.SMTP(host, port, local_hostname="relay.example") as client:
        client.starttls(context=context)
        for _ in range(messages):
            client.sendmail("a@relay.example", [TOKEN], MESSAGE)


def old():
    """TLS 1.0, as servers of old speak it."""
    context = anybody()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
    return context


@pytest.mark.parametrize("client", [anybody, old])
def test_relay_that_hands_on_mail_inside_tls_only_can(run, client):
    async def act():
        sink = Sink(tls=True)
        async with sink.listen(bounds=ENCRYPTED) as listener:
            place = listener.addresses[0]
            await asyncio.to_thread(send_inside_tls, place, 3, client())
            await sink.until(Event.CLOSED)
            assert listener.connections == 0
        return [delivery.message for _, _, delivery in sink.deliveries]

    assert run(act()) == 3 * [MESSAGE]


async def until_tls(listener, stack):
    """Say what comes before TLS; return reader and writer."""
    reader, writer = await stack.enter_async_context(dial(listener))
    writer.write(b"EHLO relay.example\r\nSTARTTLS\r\n")
    await reader.readuntil(b"220 2.0.0 Go ahead\r\n")
    return reader, writer


@pytest.mark.parametrize("octets", [b"NOOP\r\n", b"\x16\x03\x01\x00\x05aaaaa", b""])
def test_what_is_no_tls_ends_the_connection_and_leaves_nothing(run, octets):
    async def act():
        sink = Sink(tls=True)
        async with sink.listen(bounds=ENCRYPTED) as listener, contextlib.AsyncExitStack() as stack:
            reader, writer = await until_tls(listener, stack)
            writer.write(octets)
            writer.write_eof()
            await rest(reader)
            await sink.until(Event.CLOSED)
            return sink.events, listener.connections

    assert run(act()) == ([Event.OPENED, Event.NOT_SECURED, Event.CLOSED], 0)


def test_who_never_begins_tls_is_sent_away(run):
    async def act():
        sink = Sink(tls=True)
        bounds = replace(ENCRYPTED, handshake=SHORT)
        async with sink.listen(bounds=bounds) as listener, contextlib.AsyncExitStack() as stack:
            reader, _ = await until_tls(listener, stack)
            await rest(reader)
            await sink.until(Event.NOT_SECURED)
            await sink.until(Event.CLOSED)
            return set(sink.events)

    assert run(act()) == {Event.OPENED, Event.NOT_SECURED, Event.CLOSED}


def test_listener_stops_amid_a_handshake(run):
    async def act():
        sink = Sink(tls=True)
        bounds = replace(ENCRYPTED, grace=SHORT)
        async with contextlib.AsyncExitStack() as stack:
            async with sink.listen(bounds=bounds) as listener:
                await until_tls(listener, stack)
            return sink.events

    assert run(act()) == [Event.OPENED, Event.NOT_SECURED, Event.CLOSED]


def test_certificate_that_is_gone_ends_the_connection_and_is_told(run, tmp_path):
    async def act():
        sink = Sink(tls=True)
        bounds = Bounds(tls=partial(server_tls, str(tmp_path / "none.pem")))
        async with sink.listen(bounds=bounds) as listener, contextlib.AsyncExitStack() as stack:
            reader, _ = await until_tls(listener, stack)
            await rest(reader)
            await sink.until(Event.CLOSED)
            return sink.events, str(sink.errors[1])

    events, why = run(act())
    assert events == [Event.OPENED, Event.NOT_SECURED, Event.CLOSED]
    assert "none.pem" in why


def test_client_that_pipelines_everything_is_answered_in_order(run):
    async def act():
        async with Sink().listen() as listener:
            return codes(await talk(listener, 3 * (OPEN + MESSAGE + b".\r\n") + b"QUIT\r\n"))

    assert run(act()) == [220, *3 * [250, 250, 250, 354, 250], 221]


def test_client_that_ended_its_half_is_answered_all_the_same(run):
    async def act():
        sink = Sink()
        sink.may_store.clear()
        async with sink.listen() as listener, dial(listener) as (reader, writer):
            writer.write(OPEN + MESSAGE + b".\r\nNOOP\r\n")
            writer.write_eof()
            await sink.asked.wait()
            await asyncio.sleep(0.01)  # let the end arrive before the answer
            sink.may_store.set()
            return codes(await rest(reader))

    assert run(act()) == [220, 250, 250, 250, 354, 250, 250]


def test_client_that_ended_its_half_with_nothing_open_is_closed(run):
    async def act():
        async with Sink().listen() as listener, dial(listener) as (reader, writer):
            writer.write(b"NOOP\r\n")
            writer.write_eof()
            return codes(await rest(reader))

    assert run(act()) == [220, 250]


# ---- who it is


def test_store_learns_the_clients_address_and_port(run):
    async def act():
        sink = Sink()
        async with sink.listen() as listener, dial(listener) as (reader, writer):
            writer.write(WHOLE)
            await rest(reader)
            own = writer.get_extra_info("sockname")
        return sink.deliveries[0][:2], (IPv4Address(own[0]), own[1])

    found, expected = run(act())
    assert found == expected


def test_listener_speaks_ipv6(run):
    async def act():
        sink = Sink()
        async with sink.listen(("::1", 0)) as listener:
            answers = codes(await talk(listener, WHOLE))
        return sink.deliveries[0][0], answers[-1]

    assert run(act()) == (IPv6Address("::1"), 221)


def test_mapped_address_on_a_socket_of_others_is_an_ipv4_address(run):
    async def act():
        sink = Sink()
        with socket.socket(socket.AF_INET6) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(("::ffff:127.0.0.1", 0))
            async with listen([], sink.session, sink.store, sockets=[sock]) as listener:
                port = listener.addresses[0][1]
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(WHOLE)
                await sink.asked.wait()
                writer.close()
                await writer.wait_closed()
        return sink.peers

    assert run(act()) == [IPv4Address("127.0.0.1")]


def test_every_place_has_its_port(run):
    async def act():
        async with Sink().listen(LOCALHOST, ("127.0.0.2", 0), ("::1", 0)) as listener:
            return [(host, port > 0) for host, port in listener.addresses]

    assert run(act()) == [("127.0.0.1", True), ("127.0.0.2", True), ("::1", True)]


def test_place_that_is_taken_raises_and_frees_the_others(run):
    async def act():
        with socket.create_server(LOCALHOST) as taken, socket.create_server(LOCALHOST) as other:
            free = other.getsockname()
            other.close()
            with pytest.raises(OSError, match="in use"):
                async with Sink().listen(free, taken.getsockname()):
                    pass
            socket.create_server(free).close()

    run(act())


# ---- 250 is a promise


@pytest.mark.parametrize(
    "answer",
    [False, None, 1, "stored", OSError("no"), TimeoutError(), asyncio.CancelledError()],
    ids=repr,
)
def test_message_that_is_not_stored_is_answered_451(run, answer):
    async def act():
        sink = Sink(answer=answer)
        async with sink.listen() as listener:
            return codes(await talk(listener, WHOLE))[-2:], sink.events

    assert run(act()) == ([451, 221], [Event.OPENED, Event.NOT_STORED, Event.CLOSED])


def test_store_that_takes_too_long_is_answered_451(run):
    async def act():
        sink = Sink()
        sink.may_store.clear()
        async with sink.listen(bounds=Bounds(storing=SHORT)) as listener:
            return codes(await talk(listener, WHOLE))[-2:]

    assert run(act()) == [451, 221]


def test_error_of_a_store_is_reported(run):
    async def act():
        sink = Sink(answer=OSError("disk full"))
        async with sink.listen() as listener:
            await talk(listener, WHOLE)
        return [str(error) for error in sink.errors]

    assert run(act()) == ["None", "disk full", "None"]


def test_message_is_stored_although_its_client_has_gone(run):
    async def act():
        sink = Sink()
        sink.may_store.clear()
        async with sink.listen() as listener:
            async with dial(listener) as (_, writer):
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                writer.write(2 * (OPEN + MESSAGE + b".\r\n"))
                await sink.asked.wait()
                writer.transport.abort()
            await sink.until(Event.CLOSED)
            sink.may_store.set()
            await sink.until(Event.STORED)
        return sink.events

    assert run(act()) == [Event.OPENED, Event.CLOSED, Event.STORED]


# ---- caps and clocks


@pytest.mark.parametrize("bounds", [Bounds(connections=1), Bounds(per_peer=1)])
def test_connection_too_many_is_told_421(run, bounds):
    async def act():
        sink = Sink()
        async with sink.listen(bounds=bounds) as listener, dial(listener) as (reader, _):
            await reader.readline()
            return await talk(listener, b""), sink.events[-1], listener.connections

    assert run(act()) == (
        b"421 4.7.0 Too many connections, try later\r\n",
        Event.TURNED_AWAY,
        1,
    )


def test_place_of_a_client_that_left_is_free_again(run):
    async def act():
        sink = Sink()
        async with sink.listen(bounds=Bounds(connections=1)) as listener:
            await talk(listener, b"QUIT\r\n")
            await sink.until(Event.CLOSED)
            return codes(await talk(listener, b"QUIT\r\n"))

    assert run(act()) == [220, 221]


def test_another_peer_is_welcome_where_one_has_too_many(run):
    async def act():
        bounds = Bounds(per_peer=1)
        async with Sink().listen(bounds=bounds) as listener, dial(listener) as (reader, _):
            await reader.readline()
            return codes(await talk(listener, b"QUIT\r\n", local_addr=("127.0.0.9", 0)))

    assert run(act()) == [220, 221]


def test_a_peer_with_many_connections_keeps_nobody_out(run):
    async def act():
        sink = Sink()
        bounds = Bounds(connections=2)
        async with (
            sink.listen(bounds=bounds) as listener,
            dial(listener) as (first, _),
            dial(listener) as (second, _),
        ):
            await first.readline(), await second.readline()
            answers = codes(await talk(listener, b"QUIT\r\n", local_addr=("127.0.0.9", 0)))
            return answers, await first.read(), sink.events

    answers, last_words, events = run(act())
    assert answers == [220, 221]
    assert last_words == b"421 4.3.2 Others are waiting, try again later\r\n"
    assert events[:5] == [*[Event.OPENED] * 2, Event.GAVE_WAY, Event.CLOSED, Event.OPENED]


def test_silent_client_is_dismissed(run):
    async def act():
        sink = Sink()
        async with sink.listen(bounds=Bounds(idle=SHORT)) as listener:
            return codes(await talk(listener, b"NOOP\r\n")), sink.events[1]

    assert run(act()) == ([220, 250, 421], Event.TIMED_OUT)


def test_busy_client_is_dismissed_in_the_end(run):
    async def act():
        sink = Sink()
        bounds = Bounds(idle=4 * SHORT, session=2 * SHORT)
        async with sink.listen(bounds=bounds) as listener, dial(listener) as (reader, writer):
            # The 421 may be lost: a reset follows if the client wrote at that very moment.
            with contextlib.suppress(ConnectionError):
                while (await reader.readline()).startswith(b"2"):
                    await asyncio.sleep(0.005)
                    writer.write(b"NOOP\r\n")
            await sink.until(Event.CLOSED)
        return sink.events

    assert run(act()) == [Event.OPENED, Event.TIMED_OUT, Event.CLOSED]


def test_client_that_waits_for_us_is_not_silent(run):
    async def act():
        sink = Sink()
        sink.may_store.clear()
        bounds = Bounds(idle=SHORT, session=SHORT)
        async with sink.listen(bounds=bounds) as listener, dial(listener) as (reader, writer):
            writer.write(WHOLE)
            await sink.asked.wait()
            await asyncio.sleep(0.1)
            sink.may_store.set()
            return codes(await rest(reader))[-2:]

    assert run(act()) == [250, 221]


@contextlib.asynccontextmanager
async def narrow(sink, idle=SHORT * 100):
    """Listen and connect where the system buffers next to nothing; yield the client's socket."""
    with socket.create_server(LOCALHOST) as sock, socket.socket() as client:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        client.setblocking(False)
        bounds = Bounds(unread_octets=8192, idle=idle)
        async with listen(
            [], sink.session, sink.store, sockets=[sock], bounds=bounds, on_event=sink.on_event
        ) as listener:
            await asyncio.get_running_loop().sock_connect(client, listener.addresses[0])
            yield client


def test_client_that_never_reads_is_read_no_more_and_cut(run, monkeypatch):
    monkeypatch.setattr(smtp_listener, "_LINGER", SHORT)

    async def act():
        sink = Sink(Limits(commands=1 << 20, session_octets=1 << 30))
        async with narrow(sink, idle=3 * SHORT) as client:
            flood = asyncio.get_running_loop().sock_sendall(client, (1 << 20) * b"EHLO relay\r\n")
            with pytest.raises(OSError, match=r"reset|pipe"):
                await flood
            await sink.until(Event.CLOSED)
        return sink.sessions[0].taken < 1 << 20, sink.events

    assert run(act()) == (True, [Event.OPENED, Event.TIMED_OUT, Event.CLOSED])


def test_client_that_reads_late_gets_everything(run):
    async def act():
        async with narrow(Sink(Limits(commands=20000))) as client:
            reader, writer = await asyncio.open_connection(sock=client)
            writer.write(10000 * b"HELP\r\n" + b"QUIT\r\n")
            await asyncio.sleep(0.03)  # time to fill all buffers
            answers = codes(await rest(reader))
            writer.close()
            await writer.wait_closed()
        return answers

    assert run(act()) == [220, *10000 * [214], 221]


# ---- memory


@pytest.mark.parametrize("before", [b"", OPEN], ids=["command", "message"])
def test_flood_without_a_line_end_is_cut_and_never_held(run, before):
    async def act():
        sink = Sink(Limits(message_octets=5000, session_octets=8 << 20))
        async with sink.listen() as listener, dial(listener) as (_, writer):
            writer.write(before)
            with contextlib.suppress(OSError):
                for _ in range(16):
                    writer.write((1 << 20) * b"x")
                    await writer.drain()
            await sink.until(Event.CLOSED)
        return sink.sessions[0].most_held

    assert run(act()) <= 5000 + 6


def test_client_that_talks_on_while_we_store_is_not_read(run):
    async def act():
        sink = Sink(Limits(commands=9000, session_octets=1 << 30, backlog_octets=1 << 20))
        sink.may_store.clear()
        async with sink.listen() as listener, dial(listener) as (reader, writer):
            writer.write(OPEN + MESSAGE + b".\r\n" + 4000 * (b"NOOP ".ljust(2998, b"x") + b"\r\n"))
            writer.write(b"QUIT\r\n")
            await sink.asked.wait()
            await asyncio.sleep(0.05)  # it may send 12 MB now
            sink.may_store.set()
            return codes(await rest(reader)), sink.sessions[0].most_held < 1 << 20

    assert run(act()) == ([220, 250, 250, 250, 354, 250, *4000 * [250], 221], True)


# ---- the way out


def test_stop_lets_a_session_finish(run):
    async def act():
        sink = Sink()
        async with contextlib.AsyncExitStack() as stack:
            async with sink.listen() as listener:
                reader, writer = await stack.enter_async_context(dial(listener))
                writer.write(OPEN)
                await reader.readuntil(b"354 ")
                await reader.readline()
                asyncio.get_running_loop().call_later(
                    0.02, writer.write, MESSAGE + b".\r\nQUIT\r\n"
                )
            return codes(await rest(reader))[-2:]

    assert run(act()) == [250, 221]


def test_stop_refuses_new_clients_at_once(run):
    async def act():
        async with (
            Sink().listen(bounds=Bounds(grace=SHORT)) as listener,
            dial(listener) as (old, _),
        ):
            await old.readline()
            address = listener.addresses[0]
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(listener.stop())
                await asyncio.sleep(0)
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection(*address)

    run(act())


def test_stop_dismisses_who_stays_too_long(run):
    async def act():
        async with contextlib.AsyncExitStack() as stack:
            async with Sink().listen(bounds=Bounds(grace=SHORT)) as listener:
                reader, _ = await stack.enter_async_context(dial(listener))
                await reader.readline()
            return await rest(reader)

    assert run(act()) == b"421 4.3.2 Shutting down, try again later\r\n"


def test_stop_gives_up_a_store_that_takes_too_long(run):
    async def act():
        sink = Sink()
        sink.may_store.clear()
        async with contextlib.AsyncExitStack() as stack:
            async with sink.listen(bounds=Bounds(grace=SHORT)) as listener:
                reader, writer = await stack.enter_async_context(dial(listener))
                writer.write(OPEN + MESSAGE + b".\r\n")
                await sink.asked.wait()
            return codes(await rest(reader))[-1], Event.NOT_STORED in sink.events

    assert run(act()) == (421, True)


def test_stop_aborts_who_does_not_read(run, monkeypatch):
    monkeypatch.setattr(smtp_listener, "_LINGER", SHORT)

    async def act():
        sink = Sink(Limits(commands=1 << 20, session_octets=1 << 30))
        async with sink.listen(bounds=Bounds(grace=SHORT)) as listener:
            _, writer = await asyncio.open_connection(*listener.addresses[0], limit=1)
            writer.write(b"EHLO relay.example\r\n" * (1 << 19))
            await sink.until(Event.OPENED)
        writer.transport.abort()
        return sink.events[-1], listener.connections

    assert run(act()) == (Event.CLOSED, 0)


def test_error_in_the_block_comes_out_unwrapped(run):
    async def act():
        async with Sink().listen():
            raise KeyError("mine")

    with pytest.raises(KeyError):
        run(act())


def test_cancelled_block_closes_every_connection(run):
    async def act():
        sink = Sink()
        opened = asyncio.get_running_loop().create_future()

        async def serve():
            async with sink.listen(bounds=Bounds(grace=SHORT)) as listener:
                opened.set_result(listener)
                await asyncio.Event().wait()

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(serve())
            async with dial(await opened) as (reader, _):
                await reader.readline()
                task.cancel()
                return codes(await rest(reader)), sink.events

    assert run(act()) == ([421], [Event.OPENED, Event.CLOSED])


def test_impatient_stop_aborts_every_connection(run):
    async def act():
        sink = Sink()
        opened = asyncio.get_running_loop().create_future()

        async def serve():
            async with sink.listen(bounds=Bounds(grace=timedelta(minutes=1))) as listener:
                opened.set_result(listener)
                await asyncio.Event().wait()

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(serve())
            async with dial(await opened) as (reader, _):
                await sink.until(Event.OPENED)
                task.cancel()
                await asyncio.sleep(0.01)  # it waits for the session to end
                task.cancel()
                return codes(await rest(reader))

    assert run(act()) == [220]


def test_client_that_is_gone_before_we_look_is_forgotten(run):
    async def act():
        sink = Sink()
        async with sink.listen() as listener:
            for _ in range(20):
                with socket.create_connection(listener.addresses[0]) as client:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            return codes(await talk(listener, b"QUIT\r\n"))

    assert run(act()) == [220, 221]
