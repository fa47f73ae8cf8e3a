"""The worker against every kind of server: the right verdict, the right manners, nothing lost."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

import asyncpg
import pytest

from relaytest.core.config import Config, split_endpoint
from relaytest.core.token import Mailbox, verify
from relaytest.daemons import scheduler, shipped, sink, worker
from relaytest.daemons.prober import Prober
from relaytest.store import pauses
from relaytest.store.cluster import Cluster
from relaytest.store.database import Database, open_database
from relaytest.store.pauses import Part
from tests.daemons import peers
from tests.daemons.peers import (
    PERCENT,
    PLAIN,
    POSTMASTER,
    RELAYING_DENIED,
    TAKEN,
    Gate,
    Mail,
    Road,
    Target,
    anybody,
    closed,
    full_disk,
    only,
    relays,
    seen,
    send,
)
from tests.lab import Lab, lab_config, running, until
from tests.mta.process import fresh_address, fresh_port
from tests.net import hostile
from tests.postgres import ROOT, temporary_cluster
from tests.subjects import at_most

QUICK = {"patience": "1s", "grace": "300ms"}  # with a sink that is proven often enough
OFTEN = {"check_every": "250ms"}
FORMS = shipped.battery().by_number()
# The targets here have one name, announce no extension, and the sink has one domain.
NOT_HERE = {"host2", "domain2", "ptr", "other"}
ASKED = tuple(
    form
    for form in shipped.battery().forms
    if not NOT_HERE & (form.sender.wants | form.recipient.wants) and not form.needs
)
QUICK_FORMS = tuple(form for form in ASKED if form.tier <= 2)


async def outcome(lab: Lab, host: str, port: int) -> asyncpg.Record:
    """Ask for a test; return the last verdict once nothing more is to be done."""
    await lab.insert(host, port)
    return await settled(lab, host)


async def settled(lab: Lab, host: str) -> asyncpg.Record:
    await lab.idle()
    return await lab.connection.fetchrow(
        "SELECT * FROM relaytest.verdict_latest WHERE address = $1::text::inet", host
    )


async def ever_listed(lab: Lab) -> int:
    return await lab.connection.fetchval("SELECT count(*) FROM relaytest.listing_change")


def found(row: asyncpg.Record) -> tuple[str, str]:
    return row["verdict"], row["reason"]


# --- what each kind of server is found to be


def blocks(_reverse: bytes, _forward: bytes) -> bytes:
    return b"554 5.7.1 Service unavailable; Client host blocked using zen.spamhaus.org"


def wants_authentication(_reverse: bytes, _forward: bytes) -> bytes:
    return b"530 5.7.0 Authentication required"


def softly(_reverse: bytes, forward: bytes) -> bytes:
    """Postfix's defer_unauth_destination."""
    denied = b"454 4.7.1 %b: Relay access denied" % forward
    return TAKEN if forward == POSTMASTER else denied


def deferring(_reverse: bytes, forward: bytes) -> bytes:
    return TAKEN if forward == POSTMASTER else b"451 4.3.0 Try again later"


def scripted(play: hostile.Play):
    """A peer of tests.net.hostile on an address of its own."""

    @contextlib.asynccontextmanager
    async def serve() -> AsyncIterator[tuple[str, int]]:
        host = fresh_address()
        async with hostile.serving(play, host) as port:
            yield host, port

    return serve


def target(*rules, **options):
    """A Target with these rules."""

    @contextlib.asynccontextmanager
    async def serve() -> AsyncIterator[tuple[str, int]]:
        server = Target(*rules, **options)
        async with server.serve() as port:
            yield server.host, port

    return serve


@contextlib.asynccontextmanager
async def nobody() -> AsyncIterator[tuple[str, int]]:
    host = fresh_address()
    yield host, fresh_port(host)


TWICE = b"250 2.1.0 Ok\r\n250 2.1.0 Ok"
BOTH = b"250 2.1.5 Ok\r\n550 5.7.1 Relaying denied"
KINDS = {
    "nobody-listens": (nobody, "unknown", "unreachable"),
    "hangs-up-at-once": (scripted(hostile.ends(b"")), "unknown", "incomplete"),
    "ssh": (scripted(hostile.ends(b"SSH-2.0-OpenSSH_9.2\r\n")), "unknown", "not-smtp"),
    "http": (scripted(hostile.ends(b"HTTP/1.1 400 Bad Request\r\n\r\n")), "unknown", "not-smtp"),
    "554-banner": (target(greeting=b"554 No SMTP service here"), "unknown", "blocked"),
    "521-banner": (target(greeting=b"521 No mail here"), "closed", "refused"),
    "421-banner": (target(greeting=b"421 4.3.2 Busy"), "unknown", "deferred"),
    "550-at-hello": (target(EHLO=b"550 Go away", HELO=b"550 Go away"), "unknown", "blocked"),
    "only-hello": (target(EHLO=b"502 What?"), "closed", "refused"),
    "closed": (target(), "closed", "refused"),
    "closed-without-pipelining": (target(pipelining=False), "closed", "refused"),
    "closed-at-mail": (target(MAIL=b"550 5.7.1 We do not relay"), "closed", "refused"),
    "closed-at-data": (target(anybody, DATA=b"554 5.7.1 No relaying"), "closed", "refused"),
    "closed-at-the-dot": (target(anybody, dot=b"550 5.7.1 No relaying"), "closed", "refused"),
    "closed-softly": (target(softly), "closed", "refused"),
    "wants-authentication": (
        target(MAIL=b"530 5.7.0 Authentication required"),
        "closed",
        "refused",
    ),
    "wants-tls": (target(MAIL=b"530 5.7.0 Must issue a STARTTLS first"), "unknown", "incomplete"),
    "wants-tls-and-refuses": (target(starttls=closed, demands_tls=True), "closed", "refused"),
    "wants-tls-then-authentication": (
        target(starttls=wants_authentication, demands_tls=True),
        "closed",
        "refused",
    ),
    "wants-tls-and-takes-it-back": (
        target(starttls=anybody, demands_tls=True, STAR=b"454 4.7.0 TLS not available"),
        "unknown",
        "deferred",
    ),
    "wants-tls-and-cannot": (
        target(starttls=anybody, demands_tls=True, STAR=b"220 Ready\r\n500 What?"),
        "unknown",
        "desync",
    ),
    "offers-tls": (target(starttls=closed), "closed", "refused"),
    "offers-tls-and-cannot": (
        target(starttls=closed, STAR=b"454 4.7.0 TLS not available"),
        "closed",
        "refused",
    ),
    "blocks-us": (target(blocks), "unknown", "blocked"),
    "defers-for-ever": (target(deferring), "unknown", "deferred"),
    "hangs-up-after-3-refusals": (target(errors=3), "closed", "refused"),
    "hangs-up-after-1-refusal": (target(errors=1), "closed", "refused"),
    "one-connection-at-a-time": (target(at_once=1), "closed", "refused"),
    "two-connections-at-a-time": (target(at_once=2), "closed", "refused"),
    "one-connection-and-3-refusals": (target(at_once=1, errors=3), "closed", "refused"),
    "refuses-rset": (target(RSET=b"502 5.5.1 What?"), "closed", "refused"),
    "one-reply-too-many": (target(MAIL=TWICE), "closed", "refused"),
    "replies-that-contradict-each-other": (target(RCPT=BOTH), "unknown", "desync"),
    "accepts-and-discards": (target(anybody), "closed", "not-returned"),
    "two-greetings": (
        scripted(hostile.greets(hostile.GREETING + hostile.GREETING)),
        "closed",
        "refused",
    ),
}


@pytest.mark.parametrize(("serve", "verdict", "reason"), KINDS.values(), ids=KINDS)
async def test_no_kind_of_server_is_mistaken_for_another(begin, serve, verdict, reason):
    async with begin(timing=QUICK, sink=OFTEN) as lab, serve() as (host, port):
        row = await outcome(lab, host, port)
        assert found(row) == (verdict, reason), row["explanation"]
        assert await ever_listed(lab) == 0


SHORT = QUICK | {"greeting": "200ms", "command": "300ms"}
SLOW_KINDS = {
    "mute": (scripted(hostile.says(b"")), "unknown", "unreachable"),
    "greets-and-falls-silent": (scripted(hostile.says(hostile.GREETING)), "unknown", "unreachable"),
    "never-ends-its-greeting": (scripted(hostile.drip_lines), "unknown", "unreachable"),
    "mute-at-pipelining": (scripted(hostile.answers_first_only), "closed", "refused"),
    "breaks-at-pipelining": (scripted(hostile.resets_at_pipelining), "closed", "refused"),
}


@pytest.mark.parametrize(("serve", "verdict", "reason"), SLOW_KINDS.values(), ids=SLOW_KINDS)
async def test_no_slow_server_is_mistaken_for_another(begin, serve, verdict, reason):
    async with begin(timing=SHORT, sink=OFTEN) as lab, serve() as (host, port):
        row = await outcome(lab, host, port)
        assert found(row) == (verdict, reason), row["explanation"]
        assert await ever_listed(lab) == 0


async def test_every_form_is_answered_by_a_server_that_hangs_up_after_some_errors(begin):
    server = Target(errors=3)
    async with begin() as lab, server.serve() as port:
        row = await outcome(lab, server.host, port)
    assert row["forms"] == [form.id for form in QUICK_FORMS]
    assert all(talk.refused <= 4 for talk in server.talks)


async def test_a_server_that_bears_one_connection_gets_one_once_it_has_said_so(begin):
    server = Target(at_once=1)
    async with begin(politeness={"sessions_at_once": 4}) as lab, server.serve() as port:
        row = await outcome(lab, server.host, port)
        turned_away = await lab.connection.fetchval(
            "SELECT count(*) FROM relaytest.session WHERE ended = 'rejected'"
        )
    assert len(row["forms"]) == len(QUICK_FORMS)
    assert turned_away <= 3  # all of the one round that tried it


async def test_a_tarpit_is_left_when_the_time_is_up_and_what_it_said_is_kept(begin):
    async def play(peer: hostile.Peer) -> None:
        await peer.say(hostile.GREETING)
        for _ in range(12):
            await peer.say(hostile.POLITE[(await peer.hear())[:4]])
        await peer.wait()

    timing = {"session": "400ms", "visit": "600ms"}
    async with begin(timing=timing) as lab, scripted(play)() as (host, port):
        row = await outcome(lab, host, port)
        answers = await lab.connection.fetchval("SELECT count(*) FROM relaytest.outcome")
    assert found(row) == ("unknown", "incomplete")
    assert answers > 0


# --- relays


def truthful(verdict: asyncpg.Record, lab: Lab, target: Target) -> None:
    assert found(verdict) == ("open", "relayed")
    assert verdict["exit_address"] is None
    assert verdict["confidence"] == "high"
    assert str(verdict["address"]) == target.host


async def test_an_open_relay_is_found_and_listed(begin):
    async with begin() as lab:
        server = Target(anybody, relays(lab.sink))
        async with server.serve() as port:
            row = await outcome(lab, server.host, port)
        truthful(row, lab, server)
        assert row["condition"] is None
        assert await lab.listed() == {server.host}


async def test_a_relay_that_refuses_at_the_dot_is_open(begin):
    async with begin() as lab:
        server = Target(anybody, relays(lab.sink), dot=RELAYING_DENIED)
        async with server.serve() as port:
            row = await outcome(lab, server.host, port)
        truthful(row, lab, server)
        assert await lab.listed() == {server.host}


async def test_a_relay_that_never_answers_the_dot_is_open(begin):
    async with begin(timing={"end_of_data": "300ms"}) as lab:
        server = Target(only(PLAIN), relays(lab.sink), dot=None)
        async with server.serve() as port:
            row = await outcome(lab, server.host, port)
        truthful(row, lab, server)
        assert await lab.listed() == {server.host}


async def test_a_relay_that_hangs_up_after_the_dot_is_open(begin):
    async with begin() as lab:
        server = Target(anybody, relays(lab.sink), dot=b"421 4.3.2 Enough")
        async with server.serve() as port:
            row = await outcome(lab, server.host, port)
        truthful(row, lab, server)


async def test_a_relay_by_the_percent_hack_alone_is_open_under_that_condition(begin):
    async with begin() as lab:
        server = Target(only(PERCENT), relays(lab.sink, PERCENT))
        async with server.serve() as port:
            row = await outcome(lab, server.host, port)
        truthful(row, lab, server)
        assert row["condition"].startswith("only for certain envelopes (RCPT TO:<${user}%${sink}@")
        assert set(row["forms"]) <= {"S-EXT/R-P-D", "S-EXT/R-P-H", "S-EXT/R-P-I"}
        assert await lab.listed() == {server.host}


async def test_a_relay_for_the_null_sender_alone_is_open_under_that_condition(begin):
    def recipient(reverse: bytes, forward: bytes) -> bytes:
        return TAKEN if reverse == b"<>" else closed(reverse, forward)

    async with begin() as lab:
        server = Target(recipient, relays(lab.sink))
        async with server.serve() as port:
            row = await outcome(lab, server.host, port)
        truthful(row, lab, server)
        assert row["condition"] == "only for certain senders (MAIL FROM:<>)"
        assert row["forms"] == ["S-NULL/R-PLAIN"]


async def test_a_relay_for_some_domains_alone_is_found_by_our_second_domain(begin):
    """Such as one that refuses what is known of testers, or takes certain TLDs only."""
    theirs = re.compile(rb"<[a-z2-7]{26}@(sink\.test)>")
    two = {"domains": ["sink.example", "sink.test"]}
    async with begin(sink=OFTEN | two, battery={"depth": "full"}) as lab:
        server = Target(
            only(theirs), relays(lab.sink, re.compile(theirs.pattern.replace(b"(", b"(?:")))
        )
        async with server.serve() as port:
            row = await outcome(lab, server.host, port)
        truthful(row, lab, server)
        assert row["verdict"] == "open"
        assert row["condition"] is not None


async def test_a_relay_that_soon_has_enough_is_open(begin):
    """Some relay a few messages and defer the rest: the first one is proof."""
    taken: list[Mail] = []

    def recipient(_reverse: bytes, forward: bytes) -> bytes:
        if forward != POSTMASTER and len(taken) >= 2:
            return b"452 4.3.1 Enough for today"
        return TAKEN

    async with begin() as lab:
        post = relays(lab.sink)

        async def counted(target: Target, mail: Mail) -> None:
            taken.append(mail)
            await post(target, mail)

        server = Target(recipient, counted)
        async with server.serve() as port:
            row = await outcome(lab, server.host, port)
        truthful(row, lab, server)
        assert found(row) == ("open", "relayed")
        assert len(taken) < len(FORMS)


async def test_a_relay_through_another_address_is_open_and_names_it(begin):
    exit_address = fresh_address()
    async with begin() as lab:

        async def post(_target: Target, mail: Mail) -> None:
            for forward in filter(PLAIN.fullmatch, mail.forwards):
                await send(lab.sink, mail.reverse, forward, source=exit_address)

        server = Target(anybody, post)
        async with server.serve() as port:
            row = await outcome(lab, server.host, port)
        assert found(row) == ("open", "relayed")
        assert str(row["exit_address"]) == exit_address
        assert await lab.listed() == {server.host}


async def test_a_relay_that_demands_tls_is_found_inside_it(begin):
    async with begin() as lab:
        server = Target(closed, relays(lab.sink), starttls=anybody, demands_tls=True)
        async with server.serve() as port:
            row = await outcome(lab, server.host, port)
            sessions = await lab.connection.fetch(
                "SELECT tls, certificate FROM relaytest.session ORDER BY id"
            )
        truthful(row, lab, server)
        assert row["condition"] is None
        assert sessions[0]["tls"] is None
        assert {row["tls"].split(" ")[0] for row in sessions[1:]} == {"TLSv1.3"}
        assert all(row["certificate"].startswith(b"0\x82") for row in sessions[1:])
        assert {talk.tls for talk in server.talks if talk.taken} == {True}


async def test_a_relay_inside_tls_alone_is_open_under_that_condition(begin):
    async with begin() as lab:
        server = Target(closed, relays(lab.sink), starttls=anybody)
        async with server.serve() as port:
            row = await outcome(lab, server.host, port)
        truthful(row, lab, server)
        assert row["condition"] == "only inside TLS"
        assert await lab.listed() == {server.host}


@pytest.mark.parametrize(
    ("policy", "verdict"), [("never", "closed"), ("needed", "closed"), ("also", "open")]
)
async def test_whether_tls_is_tried_unasked_is_for_the_operator_to_say(begin, policy, verdict):
    async with begin(battery={"starttls": policy}) as lab:
        server = Target(closed, relays(lab.sink), starttls=anybody)
        async with server.serve() as port:
            row = await outcome(lab, server.host, port)
        assert row["verdict"] == verdict


async def test_where_tls_comes_first_a_relay_is_found(begin):
    server = Target(anybody, tls_first=True)
    async with server.serve() as port, begin(battery={"tls_ports": [port]}) as lab:
        server.post = relays(lab.sink)
        row = await outcome(lab, server.host, port)
        truthful(row, lab, server)
        assert row["condition"] is None


async def test_a_server_in_clear_where_tls_should_come_first_is_asked_in_clear(begin):
    server = Target()
    async with server.serve() as port, begin(battery={"tls_ports": [port]}) as lab:
        assert found(await outcome(lab, server.host, port)) == ("closed", "refused")


# --- names in EHLO


FULL = {"battery": {"depth": "full"}}


@pytest.mark.parametrize("name", [b"localhost", peers.NAME.encode()])
async def test_a_relay_for_whoever_says_a_certain_name_is_open_under_that_condition(begin, name):
    async with begin(**FULL) as lab:
        server = Target(closed, relays(lab.sink), trusts=name)
        async with server.serve() as port:
            row = await outcome(lab, server.host, port)
        truthful(row, lab, server)
        assert row["condition"].startswith("only for certain senders (")
        assert "HELO" in row["condition"] or "EHLO" in row["condition"]
        assert {talk.name for talk in server.talks if talk.taken} == {name}


@pytest.mark.parametrize("name", [b"localhost", peers.NAME.encode()])
async def test_a_server_that_refuses_liars_is_closed_and_no_liar_spoils_the_rest(begin, name):
    def hello(said: bytes) -> bytes | None:
        return b"550 5.7.1 You are not " + said if said == name else None

    server = Target(closed, hello=hello)
    async with begin(**FULL) as lab, server.serve() as port:
        row = await outcome(lab, server.host, port)
        answers = await lab.connection.fetch(
            "SELECT form FROM relaytest.outcome WHERE step = 'hello'"
        )
    assert found(row) == ("closed", "refused"), row["explanation"]
    assert answers
    assert len([talk for talk in server.talks if talk.name == name]) <= 4


# --- greylisting: 4yz until a triplet comes a second time


class Greylist:
    """RCPT: anything by `then`, but not the first time.

    Attributes:
        seen: Envelopes that were sent away.
    """

    def __init__(self, then: peers.Recipient) -> None:
        self.seen: set[tuple[bytes, bytes]] = set()
        self._then = then

    def __call__(self, reverse: bytes, forward: bytes) -> bytes:
        if (reverse, forward) in self.seen:
            return self._then(reverse, forward)
        self.seen.add((reverse, forward))
        return b"451 4.7.1 Greylisted, please come back in a minute"


async def test_as_long_as_visits_get_on_there_are_more_of_them(begin):
    """Debian's sendmail hears a stranger ten times in ten minutes; this one twice a visit."""
    busy = b"421 4.3.2 Connection rate limit exceeded"
    heard = 0

    def spoil(_number: int, line: bytes, usual: bytes) -> bytes | None:
        nonlocal heard
        heard += not line
        return busy + b"\r\n" if not line and heard % 5 in {0, 3, 4} else usual

    server = Target(spoil=spoil)
    politeness = {"sessions_at_once": 1}
    timing = QUICK | {"retries": ["10ms"]}
    async with (
        begin(timing=timing, sink=OFTEN, politeness=politeness) as lab,
        server.serve() as port,
    ):
        row = await outcome(lab, server.host, port)
        assert found(row) == ("closed", "refused"), row["explanation"]
        assert await lab.connection.fetchval("SELECT max(visits) FROM relaytest.trial") > 2


SECOND_VISIT = {"timing": {"retries": ["100ms"]}}


async def test_an_open_relay_behind_greylisting_is_found_by_the_second_visit(begin):
    greylist = Greylist(anybody)
    async with begin(**SECOND_VISIT) as lab:
        server = Target(greylist, relays(lab.sink))
        async with server.serve() as port:
            row = await outcome(lab, server.host, port)
        truthful(row, lab, server)
        assert await lab.listed() == {server.host}
        assert await lab.connection.fetchval("SELECT count(*) FROM relaytest.trial") == 1


async def test_the_second_visit_comes_with_the_same_envelopes(begin):
    greylist = Greylist(closed)
    async with begin(**SECOND_VISIT) as lab:
        server = Target(greylist)
        async with server.serve() as port:
            row = await outcome(lab, server.host, port)
    assert found(row) == ("closed", "refused")
    assert len(greylist.seen) == len(QUICK_FORMS) + 1  # and the control
    counts = [server.tried.count(envelope) for envelope in greylist.seen]
    assert set(counts) == {2}


@pytest.mark.parametrize("more", [b"452 4.5.3 Too many recipients", b"550 5.7.1 Quota exceeded"])
async def test_what_a_server_relays_in_an_hour_is_not_spent_on_questions_again(begin, more):
    async with begin(**SECOND_VISIT) as lab:
        server = Target(at_most(5, more)(lab.sink), relays(lab.sink))
        async with server.serve() as port:
            row = await outcome(lab, server.host, port)
        truthful(row, lab, server)
        assert await lab.listed() == {server.host}


async def test_greylisting_that_never_ends_is_no_verdict(begin):
    def recipient(_reverse: bytes, _forward: bytes) -> bytes:
        return b"451 4.7.1 Greylisted, please come back in a minute"

    async with begin(**SECOND_VISIT) as lab, target(recipient)() as (host, port):
        row = await outcome(lab, host, port)
        assert found(row) == ("unknown", "deferred")
        assert await ever_listed(lab) == 0


async def test_4yz_at_every_visit_while_postmaster_gets_mail_is_a_refusal(begin):
    async with begin(**SECOND_VISIT) as lab, target(deferring)() as (host, port):
        row = await outcome(lab, host, port)
    assert found(row) == ("closed", "refused")


async def test_a_second_visit_asks_only_for_what_is_unsettled(begin):
    first = Greylist(closed)

    def recipient(reverse: bytes, forward: bytes) -> bytes:
        return first(reverse, forward) if reverse == b"<>" else closed(reverse, forward)

    async with begin(**SECOND_VISIT) as lab:
        server = Target(recipient)
        async with server.serve() as port:
            row = await outcome(lab, server.host, port)
    assert found(row) == ("closed", "refused")
    assert server.talks[-1].tried[1:] == [*first.seen]
    assert server.talks[-1].tried[0][1] == POSTMASTER


async def test_a_server_that_comes_up_between_two_visits_is_tested(begin):
    host = fresh_address()
    port = fresh_port(host)
    async with begin(timing={"retries": ["100ms"] * 20}) as lab:
        await lab.insert(host, port)
        row = await lab.verdict(host, "unknown")
        assert row["reason"] == "unreachable"
        async with Acceptor554().serve(host, port):
            row = await settled(lab, host)
    assert found(row) == ("closed", "refused")


class Acceptor554:
    """A closed server on a port that is given."""

    @contextlib.asynccontextmanager
    async def serve(self, host: str, port: int) -> AsyncIterator[None]:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await hostile.Peer(reader, writer).converse()
            writer.close()

        server = await asyncio.start_server(accept, host, port)
        async with server:
            yield


# --- bounces


@pytest.mark.parametrize(
    "sender", [b"<>", b"<MAILER-DAEMON@mail.lab.example>"], ids=["null", "daemon"]
)
async def test_bounces_prove_no_relay_not_even_to_the_mailbox_that_would(begin, sender):
    async with begin(timing=QUICK, sink=OFTEN) as lab:
        bounced = []

        async def post(server: Target, mail: Mail) -> None:
            if PLAIN.fullmatch(mail.reverse):
                bounced.append(mail.reverse)
                text = b"Subject: failure\r\n\r\n550 %b\r\n%b" % (mail.forwards[0], mail.octets)
                await send(lab.sink, sender, mail.reverse, octets=text, source=server.host)

        server = Target(anybody, post)
        async with server.serve() as port:
            row = await outcome(lab, server.host, port)
        keys = [await lab.connection.fetchval("SELECT key FROM relaytest.token_key")]
        tokens = [verify(keys, path[1:27].decode()) for path in bounced]
        assert Mailbox.FORWARD in {token.mailbox for token in tokens}  # S-SELF
        assert found(row) == ("closed", "not-returned")
        assert await ever_listed(lab) == 0


async def test_a_copy_to_oneself_proves_relay(begin):
    """S-SELF: a copy keeps the reverse-path that we gave it."""

    def recipient(reverse: bytes, forward: bytes) -> bytes:
        return TAKEN if reverse == forward else closed(reverse, forward)

    async with begin() as lab:
        server = Target(recipient, relays(lab.sink))
        async with server.serve() as port:
            row = await outcome(lab, server.host, port)
        truthful(row, lab, server)
        assert row["forms"] == ["S-SELF/R-PLAIN"]


# --- scope, and a sink


async def test_a_target_out_of_scope_gets_no_packet(begin, connection):
    server = Target()
    server.host = "127.67.0.1"
    async with begin() as lab, server.serve() as port:
        await connection.execute(
            "INSERT INTO relaytest.job (address, port, reason, priority)"
            " VALUES ($1::text::inet, $2, 'operator', 1)",
            server.host,
            port,
        )
        row = await settled(lab, server.host)
        assert found(row) == ("unknown", "out-of-scope")
        assert "loopback" in row["explanation"]
        assert await ever_listed(lab) == 0
    assert server.talks == []


async def test_a_target_that_was_excluded_while_its_job_waited_gets_no_packet(begin, connection):
    server = Target()
    await connection.execute(
        "INSERT INTO relaytest.exclusion (network, why)"
        " VALUES (network(set_masklen($1::text::inet, 24)), 'owner objects')",
        server.host,
    )
    async with begin() as lab, server.serve() as port:
        await connection.execute(
            "INSERT INTO relaytest.job (address, port, reason, priority)"
            " VALUES ($1::text::inet, $2, 'operator', 1)",
            server.host,
            port,
        )
        row = await settled(lab, server.host)
        assert found(row) == ("unknown", "out-of-scope")
        assert "is excluded from testing: owner objects" in row["explanation"]
        assert await ever_listed(lab) == 0
    assert server.talks == []


async def test_a_worker_without_a_sink_domain_claims_nothing(begin, logged):
    server = Target()
    async with begin(worker.run, sink={"domains": []}) as lab, server.serve() as port:
        await lab.insert(server.host, port)
        await until(lambda: seen(logged), "a word about it")
        assert logged[0]["event"].startswith("idle")
        await asyncio.sleep(0.1)
        assert await lab.connection.fetchval("SELECT max(attempt) FROM relaytest.job") == 0
    assert server.talks == []


# --- manners


async def test_a_server_that_turns_us_away_is_soon_left_alone(begin):
    server = Target()
    converse = server._converse

    async def once(peer: hostile.Peer, talk: peers.Talk) -> None:
        if len(server.talks) == 1:
            await converse(peer, talk)
        else:
            await peer.say(b"421 4.7.0 Too many connections from you\r\n")

    server._converse = once  # type: ignore[method-assign]  # the test's own server
    async with begin(politeness={"sessions_at_once": 4}) as lab, server.serve() as port:
        row = await outcome(lab, server.host, port)
        assert found(row) == ("unknown", "incomplete")
        assert await ever_listed(lab) == 0
    assert len(server.talks) <= 1 + 4 + 2  # the scout, a parallel round, two strikes


def manners(talk: peers.Talk, keys: list[bytes]) -> tuple[int, int]:
    """Transactions, and odd forms, of a session."""
    odd = 0
    for envelope in talk.tried:
        letters = re.findall(rb"[a-z2-7]{26}", b" ".join(envelope))
        token = verify(keys, letters[-1].decode())
        odd += FORMS[token.form].odd if token.form else 0
    return sum(line.startswith(b"MAIL") for line in talk.lines), odd


MANNERED = {
    "closed": Target,
    "accepts": lambda: Target(anybody),
    "without-pipelining": lambda: Target(anybody, pipelining=False),
    "soft": lambda: Target(softly),
}


@pytest.mark.parametrize("make", MANNERED.values(), ids=MANNERED)
@pytest.mark.parametrize("depth", ["quick", "full"])
async def test_no_session_is_large_and_each_ends_with_quit(begin, make, depth):
    server = make()
    async with begin(timing=QUICK, sink=OFTEN, battery={"depth": depth}) as lab:
        async with server.serve() as port:
            await outcome(lab, server.host, port)
        keys = [await lab.connection.fetchval("SELECT key FROM relaytest.token_key")]
    sizes = [manners(talk, keys) for talk in server.talks]
    assert max(transactions for transactions, _ in sizes) <= 8
    assert max(odd for _, odd in sizes) <= 2
    assert all(talk.parted for talk in server.talks)
    assert server.talks[0].tried[0][1] == POSTMASTER
    assert len(set(server.tried)) == len(QUICK_FORMS if depth == "quick" else ASKED) + 1


@pytest.mark.parametrize("most", [1, 2, 4])
async def test_no_more_connections_at_once_than_configured(begin, most):
    server = Target(anybody)
    politeness = {"sessions_at_once": most}
    async with (
        begin(timing=QUICK, sink=OFTEN, politeness=politeness) as lab,
        server.serve() as port,
    ):
        await outcome(lab, server.host, port)
    assert server.most <= most


async def test_messages_are_honest_and_give_no_token_away(begin):
    server = Target(anybody)
    async with begin(timing=QUICK, sink=OFTEN) as lab, server.serve() as port:
        await outcome(lab, server.host, port)
    assert len(server.taken) == len(QUICK_FORMS)
    for mail in server.taken:
        forward = re.findall(rb"[a-z2-7]{26}", mail.forwards[0])[0]
        assert server.host.encode() not in mail.octets
        assert forward not in mail.octets or forward in mail.reverse  # S-SELF has but one
        assert b"postmaster@example" in mail.octets


# --- bells


async def test_an_insert_wakes_the_worker_and_evidence_the_scheduler(begin, monkeypatch):
    server = Target()
    for daemon in (worker, scheduler):
        monkeypatch.setattr(daemon, "_LONGEST_SLEEP", timedelta(hours=1))
    async with begin() as lab, server.serve() as port:
        await lab.insert(server.host, port)
        await lab.verdict(server.host, "closed")


async def test_the_loss_of_every_bell_costs_only_time(begin, monkeypatch):
    async def deaf(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Database, "listen", deaf)
    monkeypatch.setattr(scheduler, "_LONGEST_SLEEP", timedelta(milliseconds=100))
    async with begin() as lab:
        server = Target(anybody, relays(lab.sink))
        async with server.serve() as port:
            row = await outcome(lab, server.host, port)
        truthful(row, lab, server)


# --- many targets


async def test_many_targets_are_tested_by_two_workers_each_of_them_once(begin):
    servers = [Target() for _ in range(6)]
    async with (
        begin(worker.run, worker.run, sink.run, scheduler.run) as lab,
        contextlib.AsyncExitStack() as stack,
    ):
        for server in servers:
            await lab.insert(server.host, await stack.enter_async_context(server.serve()))
        await lab.idle()
        rows = await lab.connection.fetch("SELECT * FROM relaytest.verdict_latest")
        assert sorted(str(row["address"]) for row in rows) == sorted(one.host for one in servers)
        assert {found(row) for row in rows} == {("closed", "refused")}
        assert await lab.connection.fetchval("SELECT count(*) FROM relaytest.trial") == 6
    assert all(len(set(one.tried)) == len(one.tried) for one in servers)


async def test_more_jobs_than_slots_are_all_done_with_no_more_at_once(begin):
    servers = [Target(pipelining=False) for _ in range(5)]
    busy: list[int] = []

    def recipient(reverse: bytes, forward: bytes) -> bytes:
        busy.append(sum(bool(server.now) for server in servers))
        return closed(reverse, forward)

    for server in servers:
        server.recipient = recipient
    async with (
        begin(politeness={"slots": 2}) as lab,
        contextlib.AsyncExitStack() as stack,
    ):
        for server in servers:
            await lab.insert(server.host, await stack.enter_async_context(server.serve()))
        await lab.idle()
        assert await lab.connection.fetchval("SELECT count(*) FROM relaytest.verdict_latest") == 5
    assert max(busy) <= 2


async def test_one_visit_that_fails_takes_no_other_with_it(begin, monkeypatch, logged):
    servers = [Target(), Target()]
    visit = Prober.visit

    async def broken(self, target, forms, **more):
        if str(target.address) == servers[0].host:
            raise ValueError("a bug")
        return await visit(self, target, forms, **more)

    monkeypatch.setattr(Prober, "visit", broken)
    async with begin() as lab, servers[0].serve() as port, servers[1].serve() as other:
        await lab.insert(servers[0].host, port)
        await lab.insert(servers[1].host, other)
        await lab.verdict(servers[1].host, "closed")
        row = await until(
            lambda: lab.connection.fetchrow(
                "SELECT * FROM relaytest.job WHERE NOT leased AND run_at > now()"
            ),
            "the job put back",
        )
    assert str(row["address"]) == servers[0].host
    assert "visit failed" in {one["event"] for one in logged}


# --- what happens meanwhile


async def test_a_job_that_is_asked_for_again_while_it_runs_runs_once_more(begin):
    gate = Gate()
    server = Target(gate=gate)
    async with begin() as lab, server.serve() as port:
        await lab.insert(server.host, port)
        await gate.reached.wait()
        await lab.insert(server.host, port)
        gate.opened.set()
        await lab.idle()
        rows = await lab.connection.fetch("SELECT trial, verdict FROM relaytest.verdict")
        assert len({row["trial"] for row in rows}) == 2
        assert {row["verdict"] for row in rows} == {"closed"}
        assert await lab.connection.fetchval("SELECT count(*) FROM relaytest.trial") == 2


async def test_a_visit_outlasts_the_loss_of_every_connection_to_the_database(begin, connection):
    gate = Gate()
    async with begin() as lab:
        server = Target(anybody, relays(lab.sink), gate=gate)
        async with server.serve() as port:
            await lab.insert(server.host, port)
            await gate.reached.wait()
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'test'"
            )
            gate.opened.set()
            row = await settled_(connection, server.host)
    assert found(row) == ("open", "relayed")
    assert await connection.fetchval("SELECT count(*) FROM relaytest.trial") == 1


async def settled_(connection: asyncpg.Connection, host: str) -> asyncpg.Record:
    """As `settled`, for a system whose own connection may be cut."""

    async def look() -> asyncpg.Record | None:
        return await connection.fetchrow(
            "SELECT v.* FROM relaytest.verdict_latest AS v JOIN relaytest.trial AS t"
            " ON t.id = v.trial WHERE v.address = $1::text::inet AND t.settle_at IS NULL"
            " AND t.ended AND NOT EXISTS (SELECT FROM relaytest.job)",
            host,
        )

    return await until(look, f"a verdict on {host}")


async def test_a_result_waits_for_a_database_that_is_away(road: Road, shaky, dsn, tmp_path):
    config = lab_config(tmp_path / "zone")
    gate = Gate()
    server = Target(gate=gate)
    async with running(config, shaky, dsn, (worker.run, sink.run, scheduler.run)) as lab:
        async with server.serve() as port:
            await lab.insert(server.host, port)
            await gate.reached.wait()
            await road.cut()
            gate.opened.set()
            await until(lambda: seen(server.now == 0 and len(server.talks) > 3), "the visit")
            await road.mend()
            row = await settled(lab, server.host)
        assert found(row) == ("closed", "refused")
        assert await lab.connection.fetchval("SELECT max(visits) FROM relaytest.trial") == 1
    assert len(set(server.tried)) == len(server.tried)  # nothing was sent twice


async def test_a_result_waits_for_a_disk_that_is_full(begin):
    gate = Gate()
    server = Target(gate=gate)
    async with begin() as lab, server.serve() as port:
        await lab.insert(server.host, port)
        await gate.reached.wait()
        async with full_disk(lab.connection, "outcome") as refusals:
            gate.opened.set()
            await until(refusals, "an attempt to store")
        row = await settled(lab, server.host)
        assert found(row) == ("closed", "refused")
        assert await lab.connection.fetchval("SELECT max(visits) FROM relaytest.trial") == 1
    assert len(set(server.tried)) == len(server.tried)


async def test_the_heart_beats_on_however_many_results_wait(begin, connection, monkeypatch):
    monkeypatch.setattr(worker, "_BEAT", timedelta(seconds=0.05))
    async with begin() as lab, contextlib.AsyncExitStack() as stack:
        async with connection.transaction():
            await connection.execute("LOCK TABLE relaytest.session IN EXCLUSIVE MODE")
            for _ in range(lab.config.database.pool + 10):
                host, port = await stack.enter_async_context(nobody())
                await lab.insert(host, port)

            async def many() -> bool | None:
                return await _waiting(lab) >= lab.config.database.pool - 2 or None

            await until(many, "results that wait")
            last = await _beat_at(lab)

            async def beaten() -> bool | None:
                return await _beat_at(lab) > last or None

            await until(beaten, "a beat")
            assert await _waiting(lab) == lab.config.database.pool - 2
        await lab.idle()


async def _waiting(lab: Lab) -> int:
    return await lab.connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND query LIKE '%INSERT INTO relaytest.session%' AND pid <> pg_backend_pid()"
    )


async def _beat_at(lab: Lab) -> datetime:
    return await lab.connection.fetchval("SELECT max(beat_at) FROM relaytest.worker")


async def test_a_visit_outlasts_a_restart_of_postgresql(tmp_path):
    config = lab_config(tmp_path / "zone")
    gate = Gate()
    server = Target(gate=gate)
    with temporary_cluster() as cluster:
        postgres = Cluster(cluster.data, durable=False)
        async with (
            open_database(
                cluster.dsn(), pool=8, longest=timedelta(seconds=10), program="test"
            ) as database,
            running(config, database, cluster.dsn(), (worker.run, sink.run, scheduler.run)) as lab,
            server.serve() as port,
        ):
            await lab.insert(server.host, port)
            await gate.reached.wait()
            await postgres.stop(always=True)
            gate.opened.set()
            await until(lambda: seen(server.now == 0 and len(server.talks) > 3), "the visit")
            await postgres.start()
            connection = await asyncpg.connect(cluster.dsn())
            row = await settled_(connection, server.host)
            await connection.close()
    assert found(row) == ("closed", "refused")
    assert len(set(server.tried)) == len(server.tried)


async def test_a_lost_lease_is_lost_and_the_worker_goes_on(begin, logged):
    gate = Gate()
    server, other = Target(gate=gate), Target()
    async with (
        begin(worker.run, scheduler.run, politeness={"slots": 1}) as lab,
        server.serve() as port,
        other.serve() as other_port,
    ):
        await lab.insert(server.host, port)
        await gate.reached.wait()
        await lab.connection.execute("UPDATE relaytest.job SET attempt = attempt + 1")
        gate.opened.set()
        await lab.insert(other.host, other_port)
        async with asyncio.timeout(6):
            await lab.verdict(other.host, "closed")
        assert await lab.connection.fetchval("SELECT count(*) FROM relaytest.session") == len(
            other.talks
        )
    events = [one["event"] for one in logged]
    assert "lease lost; nothing written" in events


async def test_a_lost_lease_of_a_visit_that_failed_does_not_end_the_worker(
    begin, monkeypatch, logged
):
    server, other = Target(), Target()
    visit = Prober.visit

    async def broken(self, target, forms, **more):
        if str(target.address) != server.host:
            return await visit(self, target, forms, **more)
        await lab.connection.execute("UPDATE relaytest.job SET attempt = attempt + 1")
        raise ValueError("a bug")

    monkeypatch.setattr(Prober, "visit", broken)
    async with (
        begin(worker.run, scheduler.run, politeness={"slots": 1}) as lab,
        server.serve() as port,
        other.serve() as other_port,
    ):
        await lab.insert(server.host, port)
        await until(lambda: seen(logged), "the failure")
        await lab.insert(other.host, other_port)
        async with asyncio.timeout(6):
            await lab.verdict(other.host, "closed")


# --- the end of a worker


async def test_a_worker_that_stops_gives_its_jobs_back_at_once(begin, connection):
    gate = Gate()
    server = Target(gate=gate)
    async with server.serve() as port:
        async with begin(worker.run) as lab:
            await lab.insert(server.host, port)
            await gate.reached.wait()
            lab.stop.set(0.05)
        row = await connection.fetchrow("SELECT *, run_at <= now() AS due FROM relaytest.job")
        assert (row["leased"], row["worker"], row["due"]) == (False, None, True)
        assert await connection.fetchval("SELECT count(*) FROM relaytest.worker") == 0
        assert await connection.fetchval("SELECT count(*) FROM relaytest.session") == 0
        trial = row["trial"]
        gate.opened.set()
        async with begin() as lab:
            row = await settled(lab, server.host)
        assert (found(row), row["trial"]) == (("closed", "refused"), trial)


async def test_a_visit_that_is_about_to_end_is_stored_by_a_worker_that_stops(begin, connection):
    gate = Gate()
    server = Target(gate=gate)
    async with server.serve() as port:
        async with begin(worker.run) as lab:
            await lab.insert(server.host, port)
            await gate.reached.wait()
            lab.stop.set()
            gate.opened.set()
        assert await connection.fetchval("SELECT count(*) FROM relaytest.job") == 0
        assert await connection.fetchval("SELECT visits FROM relaytest.trial") == 1


def toml(config: Config, dsn: str) -> str:
    """What a worker needs of a lab's configuration."""
    return f"""
[database]
dsn = "{dsn}"
[identity]
ehlo_name = "{config.identity.ehlo_name}"
[scope]
allow = ["127.66.0.0/16"]
[sink]
domains = ["{config.sink.domains[0]}"]
[timing]
retries = []
"""


async def test_the_job_of_a_killed_worker_is_done_by_another(begin, dsn, connection, tmp_path):
    """Killed when its first message is on its way: it has stored nothing of its visit."""
    gate, listen = Gate(), [f"{(host := fresh_address())}:{fresh_port(host)}"]
    post = relays(split_endpoint(listen[0]))

    async def stuck(target: Target, mail: Mail) -> None:
        await post(target, mail)
        await gate.go_through()

    server = Target(only(PLAIN), stuck)
    async with server.serve() as port:
        async with begin(sink.run, sink=OFTEN | {"listen": listen}) as lab:
            await lab.insert(server.host, port)
            file = tmp_path / "relaytest.toml"
            file.write_text(toml(lab.config, dsn))
            await kill_worker_at(gate, file)
        leased = await connection.fetchrow("SELECT leased, trial FROM relaytest.job")
        assert leased["leased"]
        assert await connection.fetchval("SELECT count(*) FROM relaytest.receipt") > 0
        await connection.execute("DELETE FROM relaytest.worker")  # as if it were long ago
        gate.opened.set()
        async with begin(sink=OFTEN | {"listen": listen}) as lab:
            row = await settled(lab, server.host)
            assert (found(row), row["trial"]) == (("open", "relayed"), leased["trial"])
            trial = await connection.fetchrow("SELECT count(*), max(visits) FROM relaytest.trial")
            assert tuple(trial) == (1, 1)
            assert await connection.fetchval("SELECT max(copies) FROM relaytest.receipt") <= 2


async def kill_worker_at(gate: Gate, file: Path) -> None:
    """Start a worker of its own process; kill it at the gate."""
    environment = {key: os.environ[key] for key in os.environ if not key.startswith("RELAYTEST")}
    with subprocess.Popen(  # noqa: ASYNC220 - it only begins here
        [sys.executable, "-m", "relaytest", "worker", "--config", file],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            async with asyncio.timeout(60):
                await gate.reached.wait()
        finally:
            process.kill()


async def test_while_it_is_paused_jobs_wait_and_then_go_on(begin, connection):
    target = Target()
    await pauses.begin(connection, Part(), "a complaint", "ann")
    async with begin() as lab, target.serve() as port:
        await lab.insert(target.host, port)
        await asyncio.sleep(0.5)
        assert target.talks == []
        await pauses.end(connection, Part(), "ann")
        await lab.verdict(target.host, "closed")


async def test_while_a_network_is_paused_its_jobs_wait_and_others_do_not(begin, connection):
    target, other = Target(), Target()
    part = Part(network=ip_network(target.host))
    await pauses.begin(connection, part, "a complaint", "ann")
    async with begin() as lab, target.serve() as port, other.serve() as other_port:
        await lab.insert(target.host, port)
        await until(lambda: held(connection), "a job that is held")
        await lab.insert(other.host, other_port)
        await lab.verdict(other.host, "closed")
        assert target.talks == []
        await pauses.end(connection, part, "ann")
        await lab.verdict(target.host, "closed")


async def held(connection) -> bool | None:
    query = "SELECT true FROM relaytest.job WHERE held_by IS NOT NULL AND NOT leased"
    return await connection.fetchval(query)
