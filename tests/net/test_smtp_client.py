"""The SMTP client against real sockets: decent servers, hostile ones, and none at all."""

import asyncio
import contextlib
import errno
import importlib.resources
import inspect
import itertools
import socket
from dataclasses import dataclass, field, replace
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address

import aiosmtplib
import pytest
from aiosmtplib.protocol import SMTPProtocol
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relaytest.core.dialogue import (
    Answers,
    Break,
    Broken,
    Content,
    Farewell,
    Got,
    Greeting,
    Hello,
    Offer,
    Outcome,
    Send,
    Step,
    greet,
    hold,
    part,
)
from relaytest.core.probe import Envelope, parse_battery
from relaytest.core.reply import Reply
from relaytest.core.transcript import MAX_EXCHANGES, MAX_OCTETS
from relaytest.net import smtp_client, smtp_wire
from relaytest.net.reply_reader import MAX_LINE, MAX_LINES, MAX_REPLY, ReplyReader
from relaytest.net.smtp_client import (
    ConnectFailedError,
    NoSocketError,
    Timeouts,
    connect,
)
from tests.net.hostile import GREETING, MODES, MODES_BY_NAME, POLITE, SHORT, Peer, serving

LOOPBACK = IPv4Address("127.0.0.1")
WAIT = timedelta(seconds=0.2)
QUICK = Timeouts(WAIT, WAIT, WAIT, WAIT, timedelta(seconds=20))
PATIENT = Timeouts(*[timedelta(seconds=20)] * 5)
BATTERY = parse_battery(
    importlib.resources.files("relaytest.core").joinpath("battery.toml").read_text()
)
VALUES = {
    "user": "aebagbafaydqqcik",
    "sender": "bmga2dqpcaireeyu",
    "sink": "sink.example",
    "sink_upper": "SINK.EXAMPLE",
    "sink_imcea": "sink+2Eexample",
    "other": "sink.test",
    "host": "mx.example",
    "host2": "mx2.example",
    "domain": "example",
    "domain2": "test",
    "literal": "[192.0.2.1]",
    "ip": "192.0.2.1",
    "arpa": "1.2.0.192.in-addr.arpa",
    "ptr": "relay.isp.example",
}
FORMS = [Offer(form.number, form.envelope(VALUES)) for form in BATTERY.forms]
THREE = [Offer(number, Envelope(b"<>", b"<%d@sink.example>" % number)) for number in (1, 2, 3)]


async def dial(port, timeouts=QUICK, **options):
    return await connect(LOOPBACK, port, timeouts, local_hostname="probe.example", **options)


async def meet(connection, offers, *, pipelining=True):
    """Hold a whole session, as a prober does."""
    hello = await connection.drive(greet(b"probe.example"))
    if not hello.welcome:
        return hello, await connection.drive(part(Answers(broken=hello.broken)))
    pipelining = pipelining and hello.pipelining
    return hello, await connection.drive(hold(offers, pipelining=pipelining))


def moves(*script):
    """A dialogue that makes these moves whatever comes, and returns what came."""
    came = []
    for move in script:
        got = yield move
        came += [got]
    return came


def assert_nothing_left(connection):
    wire = connection._wire
    assert wire.transport is None
    assert connection._client.protocol is None
    assert wire._alarm is None or wire._alarm.cancelled()
    assert wire._group.done.done()


@dataclass
class Recorder:
    """Plays a decent server and keeps what it heard."""

    answers: dict[str, bytes]
    heard: bytes = b""
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def play(self, peer):
        try:
            await peer.say(GREETING)
            while line := await peer.hear():
                self.heard += line
                verb = line[:4].decode("latin-1").upper()
                await peer.say(self.answers.get(verb, POLITE.get(line[:4], b"250 Ok\r\n")))
                if verb == "DATA":
                    await self.content(peer)
                if verb == "QUIT":
                    break
        finally:
            self.over.set()

    async def content(self, peer):
        while line := await peer.hear():
            self.heard += line
            if line == b".\r\n":
                break
        await self.dot(peer)

    async def dot(self, peer):
        await peer.say(b"250 Queued\r\n")


# ---- on the wire


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "one-at-a-time"])
async def test_every_form_of_the_battery_reaches_the_wire_unchanged(pipelining):
    server = Recorder({})
    async with serving(server.play) as port, await dial(port, PATIENT) as connection:
        _, answers = await meet(connection, FORMS, pipelining=pipelining)
    wanted = [b"EHLO probe.example"]
    for form in FORMS:
        wanted.append(b"MAIL FROM:" + form.envelope.reverse_path)
        wanted.append(b"RCPT TO:" + form.envelope.forward_path)
        wanted.append(b"RSET")
    assert server.heard.split(b"\r\n") == [*wanted, b"QUIT", b""]
    assert [one.form for one in answers.outcomes] == [form.form for form in FORMS]
    assert len(FORMS) == len(BATTERY.forms)


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "one-at-a-time"])
async def test_any_octet_but_cr_and_lf_may_stand_in_a_path(pipelining):
    octets = bytes(set(range(256)) - {10, 13})
    server = Recorder({})
    offers = [Offer(1, Envelope(b" " + octets, b'"@' + octets + b" "))]
    async with serving(server.play) as port, await dial(port) as connection:
        await meet(connection, offers, pipelining=pipelining)
    assert b"MAIL FROM: " + octets + b'\r\nRCPT TO:"@' + octets + b" \r\nRSET" in server.heard


@pytest.mark.parametrize(
    "lines", [(), (b"RSET\r",), (b"RSET\n",), (b"RSET\r\nQUIT",), (b"\n", b"")]
)
async def test_a_line_end_in_a_command_is_our_own_fault_and_is_not_sent(lines):
    server = Recorder({})
    async with serving(server.play) as port, await dial(port) as connection:
        await connection.drive(greet(b"probe.example"))
        with pytest.raises(ValueError, match="not one command in each line"):
            await connection.drive(moves(Send(lines)))
        assert (await connection.drive(part(Answers()))).broken is None
    assert server.heard == b"EHLO probe.example\r\nQUIT\r\n"


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        (b"", b".\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"a\nb\n", b"a\r\nb\r\n.\r\n"),
        (b"a\rb\r", b"a\r\nb\r\n.\r\n"),
        (b".\r\n..\r\n.a", b"..\r\n...\r\n..a\r\n.\r\n"),
        (b"a\r\n.\r\nQUIT\r\n", b"a\r\n..\r\nQUIT\r\n.\r\n"),
        (b"a\n.\nb\r.\rc", b"a\r\n..\r\nb\r\n..\r\nc\r\n.\r\n"),
        (b"a\r\r\n\n\rb", b"a\r\n\r\n\r\n\r\nb\r\n.\r\n"),
        (b"a.\r\n .b", b"a.\r\n .b\r\n.\r\n"),
    ],
)
async def test_a_message_is_made_transparent(message, sent):
    server = Recorder({"RCPT": b"250 Ok\r\n"})
    async with serving(server.play) as port, await dial(port) as connection:
        _, answers = await meet(connection, [replace(THREE[0], message=message)])
    assert server.heard.split(b"DATA\r\n")[1] == sent + b"QUIT\r\n"
    assert answers.outcomes == [Outcome(1, Step.END_OF_DATA, Reply(250, ("Queued",)))]


async def test_we_do_not_talk_before_the_greeting_is_complete():
    heard = []

    async def play(peer):
        await peer.say(b"220-mx.example\r\n")
        with contextlib.suppress(TimeoutError):
            heard.append(await asyncio.wait_for(peer.hear(), SHORT))
        await peer.converse(greeting=b"220 ready\r\n")

    async with serving(play) as port, await dial(port) as connection:
        hello = await connection.drive(greet(b"probe.example"))
    assert (heard, hello.greeting) == ([], Reply(220, ("mx.example", "ready")))


async def test_a_greeting_that_came_before_it_was_asked_for_counts():
    async with serving(Peer.converse) as port, await dial(port) as connection:
        await asyncio.sleep(SHORT)
        assert connection.transcript.exchanges
        hello = await connection.drive(greet(b"probe.example"))
    assert hello.welcome


async def test_a_whole_group_goes_out_in_one_write_with_quit():
    async with serving(Peer.converse) as port, await dial(port) as connection:
        await meet(connection, FORMS)
    sent = [one.octets for one in connection.transcript.exchanges if one.sent]
    assert [len(octets.splitlines()) for octets in sent] == [1, 3 * len(FORMS) + 1]


async def test_the_transcript_has_both_directions_octet_by_octet_with_times():
    server = Recorder({})
    async with serving(server.play) as port, await dial(port) as connection:
        await meet(connection, THREE)
    one_way = b"".join(one.octets for one in connection.transcript.exchanges if one.sent)
    other_way = b"".join(one.octets for one in connection.transcript.exchanges if not one.sent)
    form = POLITE[b"MAIL"] + POLITE[b"RCPT"] + POLITE[b"RSET"]
    assert one_way == server.heard
    assert other_way == GREETING + POLITE[b"EHLO"] + 3 * form + POLITE[b"QUIT"]
    times = [one.after for one in connection.transcript.exchanges]
    assert times == sorted(times)


async def test_replies_keep_their_odd_octets():
    play = Recorder({"EHLO": b"250-\xffa  \r\n250 \xc3\xbc\x1b[2J\r\n"}).play
    async with serving(play) as port, await dial(port) as connection:
        hello = await connection.drive(greet(b"probe.example"))
    assert hello.reply == Reply(250, ("\udcffa  ", "ü\x1b[2J"))


# ---- hostile servers


async def face(mode):
    """Hold a session with a hostile server and say how it ended."""
    async with serving(mode.play) as port, await dial(port) as connection:
        _, answers = await meet(connection, THREE)
        reader = connection._wire._reader
        assert len(reader._rest) <= MAX_LINE
        assert sum(map(len, reader._lines)) <= MAX_REPLY + MAX_LINE
        assert len(reader._lines) <= MAX_LINES + 1
    assert_nothing_left(connection)
    talk = connection.transcript
    assert talk.size == sum(len(one.octets) for one in talk.exchanges) <= MAX_OCTETS
    assert len(talk.exchanges) <= MAX_EXCHANGES
    broken = answers.broken
    end = None if broken is None else broken.kind
    assert (end, len(answers.outcomes), answers.hung_up) == (mode.end, mode.kept, mode.hung_up)
    assert mode.says in (broken.text if broken else "")
    assert all(one.reply.code == 550 for one in answers.outcomes)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
async def test_a_hostile_server_comes_to_the_end_it_deserves(mode):
    await face(mode)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_uvloop_makes_no_difference(mode):
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(face(mode))


def test_there_are_enough_hostile_modes_and_no_two_of_one_name():
    assert len({mode.name for mode in MODES}) == len(MODES) >= 23


@pytest.mark.parametrize(
    ("name", "kept"),
    [("two-for-one", 0), ("early-reply", 0), ("mixed-codes", 3), ("close-after-rset", 1)],
)
async def test_one_at_a_time_no_server_is_taken_for_a_relay(name, kept):
    async with serving(MODES_BY_NAME[name].play) as port, await dial(port) as connection:
        _, answers = await meet(connection, THREE, pipelining=False)
    assert len(answers.outcomes) == kept
    assert not any(one.willing for one in answers.outcomes)


async def test_mixed_codes_are_marked_and_the_last_one_counts():
    play = MODES_BY_NAME["mixed-codes"].play
    async with serving(play) as port, await dial(port) as connection:
        _, answers = await meet(connection, THREE)
    assert answers.outcomes[0].reply == Reply(550, ("first", "second", "third"), mixed=True)


async def test_replies_before_a_break_are_kept_in_order():
    async def play(peer):
        await peer.say(GREETING)
        await peer.hear()
        await peer.say(b"250 a\r\n251 b\r\n25x\r\n252 c\r\n")
        await peer.wait()

    async with serving(play) as port, await dial(port) as connection:
        got = await connection.drive(moves(Greeting(), Send((b"A", b"B", b"C", b"D"))))
    assert [reply.code for reply in got[1].replies] == [250, 251]
    assert got[1].broken == Broken(Break.GARBAGE, "a line came that is no SMTP reply")


async def test_after_a_break_every_move_hears_the_same():
    script = [Greeting(), Send((b"RSET",)), Content(b"x"), Farewell()]
    async with serving(MODES_BY_NAME["ssh"].play) as port, await dial(port) as connection:
        got = await connection.drive(moves(*script))
        got += await connection.drive(moves(*script))
    assert {(one.replies, one.broken) for one in got} == {
        ((), Broken(Break.GARBAGE, "a line came that is no SMTP reply"))
    }


async def test_a_close_right_after_the_last_reply_spoils_nothing():
    """Whether we see it before we ask on is chance; the answers must not depend on it."""

    async def play(peer):
        await peer.say(GREETING)
        await peer.hear()

    async with serving(play) as port, await dial(port) as connection:
        first = await connection.drive(moves(Greeting()))
        await connection.drive(moves(Send((b"RSET",))))
        again = await connection.drive(moves(Farewell()))
    assert first == [Got((Reply(220, ("mx.example ESMTP",)),))]
    assert again[0].broken == Broken(Break.CLOSED, "the server closed the connection")


async def test_421_that_nobody_asked_for_before_quit_is_a_hang_up():
    play = Recorder({"EHLO": b"250 Ok\r\n421 Idle too long\r\n"}).play
    async with serving(play) as port, await dial(port) as connection:
        hello = await connection.drive(greet(b"probe.example"))
        got = await connection.drive(moves(Farewell(), Send((b"RSET",))))
    assert hello.welcome
    assert got == [Got(()), Got((), Broken(Break.CLOSED, "the server hung up: 421 Idle too long"))]


@pytest.mark.parametrize("octets", [b"500 What?\r\n", b"221-Bye\r\n221 Bye\r\n"])
async def test_the_reply_to_quit_is_told_as_it_came(octets):
    async with serving(Recorder({"QUIT": octets}).play) as port, await dial(port) as connection:
        got = await connection.drive(moves(Greeting(), Farewell()))
    assert got[1] == Got(tuple(ReplyReader().feed(octets)))


# ---- time


async def test_the_session_has_a_deadline_even_if_each_reply_is_in_time():
    slow = MODES_BY_NAME["slow-replies"].play
    timeouts = replace(QUICK, session=timedelta(seconds=0.4))
    async with serving(slow) as port, await dial(port, timeouts) as connection:
        _, answers = await meet(connection, FORMS)
    assert answers.broken == Broken(Break.TIMEOUT, "the session took too long")
    assert 0 < len(answers.outcomes) < len(FORMS)


async def test_the_session_has_a_deadline_even_if_nobody_asks_anything():
    server = Recorder({})
    timeouts = replace(PATIENT, session=WAIT)
    async with serving(server.play) as port, await dial(port, timeouts) as connection:
        hello = await connection.drive(greet(b"probe.example"))
        await server.over.wait()
        got = await connection.drive(moves(Send((b"RSET",))))
    assert hello.welcome
    assert got == [Got((), Broken(Break.TIMEOUT, "the session took too long"))]


async def test_each_move_has_its_own_limit():
    """The greeting's and the final dot's are short here, the others are not."""

    class Mute(Recorder):
        async def dot(self, peer):
            await peer.wait()

    for timeouts, play, end in [
        (replace(PATIENT, greeting=WAIT), MODES_BY_NAME["mute"].play, []),
        (
            replace(PATIENT, end_of_data=WAIT),
            Mute({"RCPT": b"250 Ok\r\n"}).play,
            [Outcome(1, Step.END_OF_DATA, None)],
        ),
    ]:
        async with serving(play) as port, await dial(port, timeouts) as connection:
            _, answers = await meet(connection, [replace(THREE[0], message=b"x")])
        assert answers.outcomes == end
        assert answers.broken == Broken(Break.TIMEOUT, "no reply within 0.2 s")


# ---- connecting and closing


async def test_a_port_where_nobody_listens_refuses():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectFailedError, match="no connection: Connection refused") as caught:
            await dial(bound.getsockname()[1])
    assert caught.value.broken == Broken(Break.REFUSED, "no connection: Connection refused")
    assert caught.value.temporary


@contextlib.contextmanager
def full_queue():
    """A port whose queue is full: further SYNs get no answer."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield server.getsockname()[1]


@pytest.mark.parametrize("limit", ["connect", "session"])
async def test_a_server_that_does_not_answer_the_syn_is_unreachable(limit):
    timeouts = replace(PATIENT, **{limit: WAIT})
    with full_queue() as port, pytest.raises(ConnectFailedError) as caught:
        await dial(port, timeouts)
    assert caught.value.broken == Broken(Break.UNREACHABLE, "no connection within 0.2 s")


async def test_connecting_can_be_cancelled():
    with full_queue() as port, pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await dial(port, PATIENT)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ECONNREFUSED, Break.REFUSED),
        (errno.ECONNRESET, Break.REFUSED),
        (errno.ECONNABORTED, Break.REFUSED),
        (errno.ENETUNREACH, Break.UNREACHABLE),
        (errno.EHOSTUNREACH, Break.UNREACHABLE),
        (errno.ETIMEDOUT, Break.UNREACHABLE),
        (errno.EACCES, Break.UNREACHABLE),
        (errno.EMFILE, None),
        (errno.EADDRNOTAVAIL, None),
        (errno.ENOBUFS, None),
    ],
    ids=lambda value: errno.errorcode.get(value, value) if isinstance(value, int) else "",
)
async def test_what_the_system_says_to_connect(number, kind, monkeypatch):
    async def fail(*args, **options):
        raise OSError(number, "asyncio's own words")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", fail)
    with pytest.raises(ConnectFailedError if kind else NoSocketError) as caught:
        await dial(25)
    assert getattr(caught.value, "broken", None) == (kind and Broken(kind, str(caught.value)))


@pytest.mark.parametrize("source", [IPv4Address("192.0.2.1"), IPv6Address("::1")])
async def test_a_source_that_cannot_be_ours_is_our_own_fault(source):
    async with serving(Peer.converse) as port:
        with pytest.raises(NoSocketError, match="no socket: "):
            await dial(port, source_address=source)


async def test_the_source_address_is_used_and_told():
    peers = []

    async def play(peer):
        peers.append(peer.writer.get_extra_info("peername")[0])
        await peer.converse()

    source = IPv4Address("127.0.0.2")
    async with serving(play) as port, await dial(port, source_address=source) as connection:
        await meet(connection, THREE)
    assert (peers, connection.source) == (["127.0.0.2"], source)


async def test_ipv6():
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    loopback = IPv6Address("::1")
    async with serving(Peer.converse, "::1") as port:
        connection = await connect(loopback, port, QUICK, local_hostname="p.example")
        async with connection:
            _, answers = await meet(connection, THREE)
    assert (connection.source, answers.broken, len(answers.outcomes)) == (loopback, None, 3)


async def test_closing_without_farewell_leaves_nothing_and_may_be_done_twice():
    server = Recorder({})
    async with serving(server.play) as port:
        connection = await dial(port, PATIENT)
        await connection.drive(greet(b"probe.example"))
        await connection.close()
        assert_nothing_left(connection)
        await connection.close()
        await server.over.wait()
        got = await connection.drive(moves(Send((b"RSET",))))
    assert got == [Got((), Broken(Break.CLOSED, "we closed the connection"))]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_error_in_the_body_closes_the_connection():
    server = Recorder({})
    async with serving(server.play) as port:
        with pytest.raises(IndexError):
            async with await dial(port, PATIENT) as connection:
                [].pop()
        assert_nothing_left(connection)
        await server.over.wait()


async def test_a_dialogue_can_be_cancelled_and_the_connection_is_then_over():
    play = MODES_BY_NAME["mute"].play
    async with serving(play) as port, await dial(port, PATIENT) as connection:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SHORT):
                await connection.drive(greet(b"probe.example"))
        hello = await connection.drive(greet(b"probe.example"))
        assert hello == Hello(None, broken=Broken(Break.CLOSED, "we gave up waiting"))
    assert_nothing_left(connection)


async def test_two_dialogues_at_a_time_are_refused():
    play = MODES_BY_NAME["mute"].play
    async with serving(play) as port, await dial(port, PATIENT) as connection:
        with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="one dialogue at a time")):
            async with asyncio.TaskGroup() as group:
                group.create_task(connection.drive(moves(Greeting())))
                group.create_task(connection.drive(moves(Send((b"RSET",)))))


# ---- the seam in aiosmtplib


async def test_the_seam_in_aiosmtplib_has_not_moved(monkeypatch):
    moved = (
        "aiosmtplib has changed: SMTP._create_connection(timeout) {}; see net.smtp_client._Client"
    )
    seam = getattr(aiosmtplib.SMTP, "_create_connection", None)
    assert inspect.iscoroutinefunction(seam), moved.format("is no coroutine function any more")
    names = list(inspect.signature(seam).parameters)
    assert names == ["self", "timeout"], moved.format(f"takes {names} now")
    calls = []

    async def spy(self, timeout):  # noqa: ASYNC109  # aiosmtplib's signature
        calls.append(timeout)
        return aiosmtplib.SMTPResponse(220, "")

    monkeypatch.setattr(smtp_client._Client, "_create_connection", spy)
    client = smtp_client._Client(local_hostname="probe.example", start_tls=False)
    await client.connect(timeout=3.0)
    client.close()
    assert calls == [3.0], moved.format("is not what connect() calls any more")
    assert client.protocol is None, moved.format("leaves a protocol behind")


def test_the_client_replaces_nothing_else_of_aiosmtplib():
    replaced = {
        name
        for ours, theirs in [
            (smtp_client._Client, aiosmtplib.SMTP),
            (smtp_wire.Wire, SMTPProtocol),
        ]
        for name in vars(ours)
        if hasattr(theirs, name) and name[:2] != "__"
    }
    callbacks = {"connection_made", "data_received", "eof_received", "connection_lost"}
    assert replaced == {"_create_connection"} | callbacks


# ---- the protocol object alone, fed by hand


class Line(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self):
        super().__init__()
        self.aborted = False

    def get_extra_info(self, *_):
        return ("127.0.0.1", 1)

    def is_closing(self):
        return self.aborted

    def write(self, data):
        pass

    def abort(self):
        self.aborted = True


@pytest.fixture(scope="module")
def idle_loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def fed(loop, chunks, *, count, leaving):
    """Feed chunks to a protocol that waits for `count` replies; return all it makes of them."""
    wire = smtp_wire.Wire(loop, timedelta(seconds=1))
    wire._group = smtp_wire._Group(count, loop.create_future())
    wire._leaving = leaving
    line = Line()
    wire.connection_made(line)
    for chunk in chunks:
        wire.data_received(chunk)
    wire.eof_received()
    wire.connection_lost(None)
    kept = b"".join(one.octets for one in wire.transcript.exchanges)
    assert b"".join(chunks).startswith(kept)
    assert line.aborted
    assert wire._alarm is not None
    assert wire._alarm.cancelled()
    return wire._group.replies, wire._group.done.done(), wire.broken


FRAGMENTS = st.sampled_from(
    [
        *(b"250 Ok\r\n", b"250-a\r\n", b"550 No\n", b"421 Bye\r\n", b"220\r\n", b"250-\n"),
        *(b"\r\n", b"\r", b"\n", b"\0", b"250", b"25", b"-", b" ", b"999 Ok\r\n", b"2500\r\n"),
        *(b"250 \xff\r\r\n", b"x" * 4090, b"250 " + b"x" * 4090, b"\r\n250 " + b"x" * 4091),
        *(b"250-x\r\n" * 511, b"250-x\r\n" * 100, (b"250-" + b"y" * 1022 + b"\r\n") * 63),
    ]
)
STREAMS = st.lists(FRAGMENTS | st.binary(max_size=8), max_size=12).map(b"".join)


@settings(derandomize=True, deadline=None, max_examples=600)
@given(
    stream=STREAMS,
    cuts=st.lists(st.integers(0, 70_000), max_size=20),
    count=st.integers(1, 4),
    leaving=st.booleans(),
)
@example(stream=b"250 Ok\r\n" * 3, cuts=list(range(24)), count=2, leaving=False)
@example(stream=b"x" * 5000, cuts=[1], count=1, leaving=False)
@example(stream=b"250 " + b"x" * 4091 + b"\0\r\n", cuts=[4096], count=1, leaving=False)
def test_it_does_not_matter_how_the_octets_are_cut_up(idle_loop, stream, cuts, count, leaving):
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    chunks = [stream[a:b] for a, b in itertools.pairwise(edges)]
    whole = fed(idle_loop, [stream], count=count, leaving=leaving)
    assert fed(idle_loop, chunks, count=count, leaving=leaving) == whole


@settings(derandomize=True, deadline=None, max_examples=300)
@given(data=st.binary(max_size=300) | STREAMS)
def test_any_reply_read_is_a_legal_one_and_none_is_invented(data):
    reader = ReplyReader()
    replies = reader.feed(data)
    for reply in replies:
        assert 200 <= reply.code <= 599
        assert reply.lines
        assert not set("\r\n\0") & set("".join(reply.lines))
    assert sum(len(reply.lines) for reply in replies) <= data.count(b"\n")


def test_a_full_reply_is_as_long_as_it_may_be():
    lines = b"250-x\r\n" * (MAX_LINES - 1)
    assert len(ReplyReader().feed(lines + b"250 x\r\n")[0].lines) == MAX_LINES
    reader = ReplyReader()
    assert reader.feed(lines + b"250-x\r\n250 x\r\n") == []
    assert reader.fault == "a reply has more than 512 lines or 65536 octets"


def test_an_unfinished_line_is_looked_at_once_however_slowly_it_comes():
    """A line that comes octet by octet must not cost its length squared; count what is copied."""
    reader = ReplyReader()
    for octet in b"250 " + b"x" * (MAX_LINE - 6):
        assert reader.feed(bytes([octet])) == []
    assert reader.in_mid_reply
    assert len(reader.feed(b"\n")) == 1
    assert not reader.in_mid_reply


async def test_a_write_that_failed_unnoticed_is_a_close():
    loop = asyncio.get_running_loop()
    wire = smtp_wire.Wire(loop, timedelta(seconds=1))
    line = Line()
    wire.connection_made(line)
    wire.data_received(GREETING)
    line.abort()  # asyncio does so inside write(), and tells us in the next round of its loop
    got = await wire.exchange(b"RSET\r\n", 1, WAIT)
    assert got == Got((), Broken(Break.CLOSED, "the connection was lost"))


async def test_data_after_a_break_is_ignored():
    wire = smtp_wire.Wire(asyncio.get_running_loop(), timedelta(seconds=1))
    wire.connection_made(Line())
    wire.data_received(b"220 a\r\n220 b\r\n")
    wire.data_received(b"220 c\r\n")
    assert wire.transcript.size == len(b"220 a\r\n220 b\r\n")
