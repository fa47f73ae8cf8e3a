"""TLS on one connection: before the greeting, after STARTTLS, and all that can go wrong there."""

import asyncio
import ssl
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Address

import pytest

from relaytest.core.dialogue import Answers, Break, Hello, Offer, Step, greet, hold, secure
from relaytest.core.probe import Envelope
from relaytest.net import smtp_wire
from relaytest.net.smtp_client import Connection, Timeouts, connect
from tests.net.hostile import CERTIFICATE, GREETING, POLITE, Peer, Play, serving

LOOPBACK = IPv4Address("127.0.0.1")
WAIT = timedelta(seconds=0.3)
LONG = timedelta(seconds=20)
QUICK = Timeouts(LONG, LONG, WAIT, LONG, LONG)
PATIENT = Timeouts(*[LONG] * 5)
NAME = b"probe.example"
OFFERS_TLS = b"250-mx.example\r\n250-STARTTLS\r\n250 PIPELINING\r\n"
READY = b"220 2.0.0 Ready\r\n"
OFFER = Offer(257, Envelope(b"<a@sink.example>", b"<b@sink.example>"), b"Subject: x\r\n\r\nx\r\n")


async def dial(port: int, timeouts: Timeouts = PATIENT) -> Connection:
    return await connect(LOOPBACK, port, timeouts, local_hostname="probe.example")


async def starttls(connection: Connection) -> Hello:
    hello = await connection.drive(greet(NAME))
    assert "STARTTLS" in hello.keywords
    return await connection.drive(secure(NAME, hello))


async def up_to_starttls(peer: Peer, answer: bytes = READY) -> None:
    """The server's side of a session up to its answer to STARTTLS."""
    await peer.say(GREETING)
    await peer.hear()
    await peer.say(OFFERS_TLS)
    assert await peer.hear() == b"STARTTLS\r\n"
    await peer.say(answer)


async def inside(peer: Peer) -> list[bytes]:
    """A decent server inside TLS; return what it heard."""
    heard = []
    while line := await peer.hear():
        heard.append(line)
        await peer.say(POLITE.get(line[:4].upper(), b"500 What?\r\n"))
        if line.startswith(b"QUIT"):
            break
    return heard


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request):
    """Run a test's story on either loop."""
    factory = None
    if request.param == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop

    def on_loop(story):
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(asyncio.wait_for(story, 60))

    return on_loop


def is_over(connection: Connection) -> bool:
    wire = connection._wire
    return wire.gone.is_set() and (wire.transport is None or wire.transport.is_closing())


def test_starttls_and_a_whole_session_inside(run):
    heard = []

    async def play(peer):
        await up_to_starttls(peer)
        await peer.encrypt()
        heard.extend(await inside(peer))

    async def story():
        async with serving(play) as port, await dial(port) as connection:
            assert connection.encryption is None
            hello = await starttls(connection)
            assert hello.welcome
            assert hello.pipelining
            offer = Offer(OFFER.form, OFFER.envelope)
            answers = await connection.drive(hold([offer], pipelining=True))
        return connection, answers

    connection, answers = run(story())
    assert answers.outcomes[0].reply.code == 550
    assert heard[0] == b"EHLO probe.example\r\n"
    assert heard[-1] == b"QUIT\r\n"
    encryption = connection.encryption
    assert encryption.version == "TLSv1.3"
    pem = CERTIFICATE.read_text()
    certificate = ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN CERTIFICATE") :].strip())
    assert encryption.certificate == certificate
    assert is_over(connection)
    text = connection.transcript.as_text()
    assert "STARTTLS" in text
    assert "MAIL FROM:<a@sink.example>" in text  # in clear, for people to read


def test_tls_before_the_greeting(run):
    async def play(peer):
        await peer.encrypt()
        await peer.converse()

    async def story():
        async with serving(play) as port, await dial(port) as connection:
            hello = await connection.drive(greet(NAME, secure=True))
            answers = await connection.drive(hold([OFFER], pipelining=hello.pipelining))
        return connection, hello, answers

    connection, hello, answers = run(story())
    assert hello.welcome
    assert connection.encryption is not None
    assert answers.outcomes[0].reply.code == 550
    assert is_over(connection)


def test_a_server_that_greets_in_clear_where_tls_comes_first_is_told_at_once(run):
    async def play(peer):
        await peer.converse()

    async def story():
        async with serving(play) as port, await dial(port) as connection:
            await asyncio.sleep(0.1)
            hello = await connection.drive(greet(NAME, secure=True))
        return connection, hello

    connection, hello = run(story())
    assert hello.broken.kind is Break.TLS
    assert is_over(connection)


async def says_no_tls(peer: Peer) -> None:
    await up_to_starttls(peer)
    await peer.hear()
    await peer.say(b"500 What?\r\n" * 3)
    await peer.wait()


async def says_nothing(peer: Peer) -> None:
    await up_to_starttls(peer)
    await peer.wait()


async def closes(peer: Peer) -> None:
    await up_to_starttls(peer)


async def resets(peer: Peer) -> None:
    await up_to_starttls(peer)
    await peer.hear()
    peer.reset()


async def drips(peer: Peer) -> None:
    await up_to_starttls(peer)
    await peer.reader.read(1)
    for _ in range(200):
        await peer.say(b"\x16")
        await asyncio.sleep(0.05)


TROUBLE = {
    "no-tls": says_no_tls,
    "silence": says_nothing,
    "close": closes,
    "reset": resets,
    "drip": drips,
}


@pytest.mark.parametrize("play", TROUBLE.values(), ids=TROUBLE)
def test_a_handshake_that_fails_breaks_the_session_and_leaves_nothing(run, play):
    async def story():
        async with serving(play) as port, await dial(port, QUICK) as connection:
            hello = await starttls(connection)
            after = await connection.drive(hold([OFFER], pipelining=False))
        return connection, hello, after

    connection, hello, after = run(story())
    assert hello.broken.kind is Break.TLS
    assert hello.broken.text.startswith("TLS failed: ")
    assert not hello.welcome
    assert (after.outcomes, after.broken) == ([], hello.broken)
    assert connection.encryption is None
    assert is_over(connection)


@pytest.mark.parametrize("more", [b"250 injected\r\n", b"250 inje"])
def test_what_comes_in_clear_behind_the_answer_to_starttls_voids_the_session(run, more):
    """Else an attacker on the way could answer for the server (CVE-2011-0411)."""

    async def play(peer):
        await up_to_starttls(peer, READY + more)
        await peer.wait()

    async def story():
        async with serving(play) as port, await dial(port) as connection:
            hello = await starttls(connection)
        return connection, hello

    connection, hello = run(story())
    assert hello.broken.kind is Break.DESYNC
    assert is_over(connection)


def test_a_server_that_takes_starttls_back_is_not_welcoming(run):
    async def play(peer):
        await up_to_starttls(peer, b"454 4.7.0 TLS not available\r\n")
        await inside(peer)

    async def story():
        async with serving(play) as port, await dial(port) as connection:
            return await starttls(connection)

    hello = run(story())
    assert (hello.welcome, hello.broken, hello.reply.code) == (False, None, 454)


def test_a_handshake_can_be_cancelled_and_leaves_nothing(run):
    begun = asyncio.Event()

    async def play(peer):
        await up_to_starttls(peer)
        await peer.reader.read(1)
        begun.set()
        await peer.wait()

    async def story():
        async with serving(play) as port:
            connection = await dial(port)
            task = asyncio.ensure_future(starttls(connection))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await connection.close()
        return connection

    assert is_over(run(story()))


def test_old_versions_of_tls_will_do(run):
    async def play(peer):
        await up_to_starttls(peer)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        await peer.writer.start_tls(context)
        await inside(peer)

    async def story():
        async with serving(play) as port, await dial(port) as connection:
            await starttls(connection)
            return connection.encryption

    assert run(story()).version == "TLSv1.2"


# ---- servers that answer one command twice

SETTLED = replace(PATIENT, settle=timedelta(seconds=0.1))
BARE = Offer(257, OFFER.envelope)


def doubling(*verbs: bytes, second: bytes | None = None, later: float = 0.0) -> Play:
    """A decent server, but for a second reply to some verbs (b"": the greeting)."""

    async def play(peer: Peer) -> None:
        line, reply = b"", GREETING
        while reply:
            await peer.say(reply)
            if line[:4] in verbs:
                await asyncio.sleep(later)
                await peer.say(second or reply)
            line = await peer.hear()
            reply = POLITE.get(line[:4], b"")

    return play


async def settled(play: Play, timeouts: Timeouts = SETTLED) -> Answers:
    async with serving(play) as port, await dial(port, timeouts) as connection:
        hello = await connection.drive(greet(NAME))
        if hello.broken is not None:
            return Answers(broken=hello.broken)
        return await connection.drive(hold([BARE], pipelining=False))


@pytest.mark.parametrize(
    "verbs", [(b"",), (b"EHLO",), (b"MAIL", b"RCPT"), (b"RSET",), (b"", *POLITE)], ids=str
)
@pytest.mark.parametrize("later", [0.0, 0.03])
def test_a_second_reply_belongs_to_the_same_command_if_we_wait_for_it(run, verbs, later):
    answers = run(settled(doubling(*verbs, later=later)))
    assert [(one.step, one.reply.code) for one in answers.outcomes] == [(Step.RCPT, 550)]
    assert answers.broken is None


@pytest.mark.parametrize("verb", [b"", b"EHLO", b"MAIL", b"RCPT", b"RSET"])
@pytest.mark.parametrize("second", [b"250 Ok\r\n", b"550 No\r\n"])
def test_replies_that_contradict_each_other_are_never_an_answer(run, verb, second):
    first = POLITE.get(verb, GREETING)
    answers = run(settled(doubling(verb, second=second)))
    if first[:1] == second[:1]:
        assert answers.broken is None
    else:
        assert (answers.outcomes, answers.broken.kind) == ([], Break.DESYNC)


def test_a_second_reply_that_comes_too_late_voids_the_session(run):
    async def play(peer):
        await peer.say(GREETING)
        while line := await peer.hear():
            await peer.say(POLITE[line[:4]])
            if line[:4] == b"MAIL":
                await asyncio.sleep(0.3)
                await peer.say(b"250 Ok\r\n")

    answers = run(settled(play, replace(SETTLED, settle=timedelta(seconds=0.1))))
    assert (answers.outcomes, answers.broken.kind) == ([], Break.DESYNC)


def test_there_is_an_end_to_further_replies(run):
    async def play(peer):
        await peer.say(GREETING)
        while await peer.hear():
            for _ in range(1000):
                await peer.say(b"250 Ok\r\n")

    assert run(settled(play)).broken.kind is Break.DESYNC


def test_without_waiting_a_second_reply_is_one_too_many(run):
    answers = run(settled(doubling(b"MAIL"), PATIENT))
    assert (answers.outcomes, answers.broken.kind) == ([], Break.DESYNC)


def test_nobody_waits_long_for_the_reply_to_quit(run, monkeypatch):
    monkeypatch.setattr(smtp_wire, "_LAST_WORD", 0.1)

    async def play(peer):
        await peer.say(GREETING)
        while (line := await peer.hear())[:4] != b"QUIT":
            await peer.say(POLITE[line[:4]])
        await peer.wait()

    answers = run(settled(play, Timeouts(*[timedelta(days=1)] * 5)))
    assert answers.broken is None
    assert len(answers.outcomes) == 1
