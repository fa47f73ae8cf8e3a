"""One visit in detail: whom it asks as whom, from where, and when it tells nothing."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import dns.message
import dns.rcode
import dns.rrset
import pytest

from relaytest.core.dialogue import Step
from relaytest.core.plan import Purpose
from relaytest.core.probe import CONTROL
from relaytest.core.token import Mailbox, verify
from relaytest.daemons import scheduler, shipped, sink, worker
from relaytest.daemons.prober import Prober, Visit
from relaytest.daemons.prober import Target as Where
from relaytest.net.dns import Resolver
from relaytest.net.dns_server import serve_dns
from relaytest.net.smtp_client import NoSocketError
from tests.daemons.peers import POSTMASTER, RELAYING_DENIED, TAKEN, Target, anybody, closed
from tests.lab import SINK_DOMAIN, lab_config, until
from tests.mta.process import fresh_address, fresh_port
from tests.net import hostile

KEY = b"k" * 32
TRIAL = 7
# The targets here have one domain at most.
FORMS = tuple(
    form
    for form in shipped.battery().up_to(2)
    if "domain2" not in form.sender.wants | form.recipient.wants
)


def nameless() -> Target:
    """A closed server that does not say its name."""
    return Target(greeting=b"220 ", EHLO=b"250 hello", HELO=b"250 hello")


class Pointers:
    """A DNS server that knows names of addresses.

    Attributes:
        asked: Names that were looked up.
    """

    def __init__(self, **names: str) -> None:
        self.asked: list[str] = []
        self.name: str | None = names.get("name")

    async def answer(self, query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        name = query.question[0].name
        self.asked.append(name.to_text())
        if self.name is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        else:
            response.answer.append(dns.rrset.from_text(name, 60, "IN", "PTR", self.name))
        return response


@contextlib.asynccontextmanager
async def prober(tmp_path, pointers: Pointers | None = None, **sections) -> AsyncIterator[Prober]:
    config = lab_config(tmp_path, **sections)
    zone = pointers or Pointers()
    async with (
        serve_dns("127.0.0.1", 0, zone.answer) as (host, port),
        Resolver([f"{host}:{port}"], timedelta(seconds=5)) as resolver,
    ):
        yield Prober(config, resolver)


async def visit(tmp_path, server: Target, pointers=None, forms=FORMS, **sections) -> Visit:
    async with prober(tmp_path, pointers, **sections) as one, server.serve() as port:
        return await one.visit(Where(ip_address(server.host), port, TRIAL, KEY), forms)


def paths(server: Target) -> set[bytes]:
    return {path for envelope in server.tried for path in envelope}


# --- names


async def test_a_target_that_says_its_name_is_asked_by_it_and_not_looked_up(tmp_path):
    server, pointers = Target(), Pointers(name="other.example.")
    found = await visit(tmp_path, server, pointers)
    assert pointers.asked == []
    assert (found.names.host, found.names.domain) == ("mail.lab.example", "lab.example")
    assert any(path.endswith(b"@mail.lab.example>") for path in paths(server))
    assert b"<postmaster@lab.example>" in paths(server)


async def test_a_target_that_hides_its_name_is_asked_by_the_name_of_its_pointer(tmp_path):
    server, pointers = nameless(), Pointers(name="Mx.Shop.Example.")
    found = await visit(tmp_path, server, pointers)
    reverse = ".".join(reversed(server.host.split(".")))
    assert pointers.asked == [f"{reverse}.in-addr.arpa."]
    assert (found.names.host, found.names.domain) == ("mx.shop.example", "shop.example")
    assert any(path.endswith(b"@mx.shop.example>") for path in paths(server))
    assert len(found.forms) == len(FORMS)


async def test_a_target_without_any_name_is_asked_by_its_literal_and_by_fewer_forms(tmp_path):
    server = nameless()
    found = await visit(tmp_path, server)
    literal = f"[{server.host}]"
    assert (found.names.host, found.names.domain) == (literal, literal)
    assert len(found.forms) < len(FORMS)
    assert len(set(server.tried)) == len(found.forms) + 1
    assert found.unanswered() == []


@pytest.mark.parametrize(
    "pointer", ["localhost.", r"a\032b.example.", r"<script>.example.", r"x\000.example.", "."]
)
async def test_a_pointer_that_is_no_host_name_is_not_used(tmp_path, pointer):
    server = nameless()
    found = await visit(tmp_path, server, Pointers(name=pointer))
    assert found.names.host == f"[{server.host}]"


async def test_a_target_that_hangs_up_at_once_is_not_looked_up(tmp_path):
    pointers = Pointers(name="mx.shop.example.")
    found = await visit(tmp_path, Target(greeting=b"554 No"), pointers)
    assert (pointers.asked, found.names) == ([], None)
    assert len(found.unanswered()) == len(FORMS)


# --- servers that break the rules


def instead(at: bytes, octets: bytes | None, *, first: int = 1000):
    """Say something else at a command, in the first connections."""

    def spoil(number: int, line: bytes, usual: bytes) -> bytes | None:
        return octets if number <= first and line[:4] == at else usual

    return spoil


def every_reply(change):
    return lambda _number, _line, usual: change(usual)


SPOILS = {
    "hangs up at EHLO": (instead(b"EHLO", None), 1),
    "resets nothing: hangs up at RSET": (instead(b"RSET", None), None),
    "421 to EHLO": (instead(b"EHLO", b"421 4.3.2 Not now\r\n"), 1),
    "mute at EHLO": (instead(b"EHLO", b""), 1),
    "drops who comes first": (instead(b"", None, first=1), 1),
    "421 to who comes first": (instead(b"", b"421 4.7.0 Busy\r\n", first=1), 1),
    "greets twice": (instead(b"", b"220 filter.example\r\n220 mail.lab.example\r\n"), 1),
    "says all twice": (every_reply(lambda usual: usual * 2), 1),
    "answers MAIL twice": (instead(b"MAIL", b"250 Ok\r\n250 Ok\r\n"), 1),
    "blank lines": (every_reply(lambda usual: b"\r\n" + usual), 0),
    "mute at QUIT": (instead(b"QUIT", b""), 0),
}
HASTY = {"command": "500ms", "pause": "20ms", "settle": "60ms"}


@pytest.mark.parametrize("spoil", [one for one, _ in SPOILS.values()], ids=list(SPOILS))
@pytest.mark.parametrize("open_relay", [True, False], ids=["open", "closed"])
async def test_a_server_that_breaks_the_rules_answers_every_form(tmp_path, spoil, open_relay):
    server = Target(anybody if open_relay else closed, spoil=spoil)
    found = await visit(tmp_path, server, forms=FORMS[:9], timing=HASTY)
    assert found.unanswered() == []
    if open_relay:
        assert len({mail.reverse for mail in server.taken}) == len(FORMS[:9])
    else:
        outcomes = found.outcomes(tls=False)
        assert {one.reply.code for one in outcomes if one.form != CONTROL} == {550}


@pytest.mark.parametrize(("spoil", "more"), SPOILS.values(), ids=SPOILS)
async def test_it_is_known_after_one_session_how_to_go_on(tmp_path, spoil, more):
    """Session after session that ends the same way would be held against us."""
    server = Target(spoil=spoil)
    found = await visit(tmp_path, server, forms=FORMS[:1], timing=HASTY)
    assert found.unanswered() == []
    if more is not None:
        assert len(server.talks) == 1 + more


async def test_replies_that_contradict_each_other_are_no_answer(tmp_path):
    both = b"250 Ok\r\n550 5.7.1 No\r\n"
    server = Target(spoil=instead(b"RCPT", both))
    found = await visit(tmp_path, server, forms=FORMS[:2], timing=HASTY)
    assert (found.answered(), server.taken) == (set(), [])
    assert {record.ended for record in found.records} == {"desync"}


async def test_commands_are_not_sent_together_again_once_they_were_lost(tmp_path):
    """A server, or a filter, may announce PIPELINING and read but one line of each packet."""
    together = []

    async def play(peer: hostile.Peer) -> None:
        await peer.say(hostile.GREETING)
        while octets := await peer.reader.read(65536):
            together.append(octets.count(b"\n") > 1)
            await peer.say(hostile.POLITE[octets[:4]])

    host = fresh_address()
    async with prober(tmp_path, timing=HASTY) as one, hostile.serving(play, host) as port:
        found = await one.visit(Where(ip_address(host), port, TRIAL, KEY), FORMS)
    assert found.unanswered() == []
    assert together.count(True) == 1


async def test_a_limit_on_connections_is_not_run_against(tmp_path):
    """Of Debian's sendmail, after ten in ten minutes: what is turned away counts as well."""
    busy = b"421 4.3.2 Connection rate limit exceeded.\r\n"
    server = Target(spoil=lambda number, line, usual: busy if number > 4 and not line else usual)
    found = await visit(tmp_path, server, forms=shipped.battery().forms, timing=HASTY)
    assert found.unanswered()
    assert len(server.talks) <= 4 + 8 + 2  # those begun together, and two strikes


async def test_a_slow_server_gets_smaller_sessions_and_answers_all(tmp_path):
    server = Target(delay=0.05)
    found = await visit(tmp_path, server, timing={"session": "1500ms"})
    assert found.unanswered() == []
    assert server.most > 1


# --- what is asked


async def test_the_scout_asks_for_postmaster_first_and_never_writes_to_him(tmp_path):
    server = Target(anybody)
    found = await visit(tmp_path, server)
    scout = found.records[0]
    assert scout.purpose is Purpose.SCOUT
    assert scout.answers.outcomes[0].form == CONTROL
    assert server.tried[0][1] == POSTMASTER
    assert all(POSTMASTER not in mail.forwards for mail in server.taken)


async def test_every_envelope_has_its_own_token_for_its_form_and_trial(tmp_path):
    server = Target(anybody)
    found = await visit(tmp_path, server)
    seen = set()
    for mail in server.taken:
        letters = re.findall(rb"[a-z2-7]{26}", b" ".join(mail.forwards))
        token = verify([KEY], letters[0].decode())
        assert (token.mailbox, token.trial) == (Mailbox.FORWARD, TRIAL)
        seen.add(token.form)
    assert seen == {form.number for form in found.forms}


async def test_a_recipient_that_is_accepted_gets_its_message_and_others_none(tmp_path):
    def recipient(reverse: bytes, _forward: bytes) -> bytes:
        return TAKEN if reverse == b"<>" else RELAYING_DENIED

    server = Target(recipient)
    found = await visit(tmp_path, server)
    assert [mail.reverse for mail in server.taken] == [b"<>"]
    sent = [
        one.form for record in found.records for one in record.answers.outcomes if one.message_sent
    ]
    assert sent == [form.number for form in FORMS if form.sender.id == "S-NULL"]


async def test_a_server_that_takes_few_messages_in_a_session_gets_the_others_later(tmp_path):
    server = Target(anybody, messages=2)
    await visit(tmp_path, server)
    taken = {(mail.reverse, *mail.forwards) for mail in server.taken}
    assert len(taken) == len(FORMS)


async def test_only_the_forms_that_are_wanted_are_asked(tmp_path):
    server = Target()
    found = await visit(tmp_path, server, forms=FORMS[3:5])
    assert [form.number for form in found.forms] == [form.number for form in FORMS[3:5]]
    assert len(set(server.tried)) == 3  # and the control


async def test_our_name_and_domain_are_the_configured_ones(tmp_path):
    server = Target()
    await visit(tmp_path, server, identity={"ehlo_name": "tester.example.net"})
    assert {talk.lines[0] for talk in server.talks} == {b"EHLO tester.example.net"}
    assert any(path.endswith(f"@{SINK_DOMAIN}>".encode()) for path in paths(server))


async def test_a_transcript_is_kept_of_every_session(tmp_path):
    server = Target()
    found = await visit(tmp_path, server)
    assert len(found.records) == len(server.talks)
    for record in found.records:
        said = b"".join(one.octets for one in record.transcript.exchanges if one.sent)
        assert said.startswith(b"EHLO ")
        assert said.endswith(b"QUIT\r\n")
        assert record.ended == "complete"
        assert str(record.source).startswith("127.")


async def test_a_session_that_is_cut_short_by_the_clock_keeps_what_was_said(tmp_path):
    """The scout is answered; everything after it is silence."""
    server = Target()
    converse = server._converse

    async def once(peer: hostile.Peer, talk) -> None:
        if len(server.talks) > 1:
            await peer.wait()
        await converse(peer, talk)

    server._converse = once  # type: ignore[method-assign]  # the test's own server
    found = await visit(tmp_path, server, timing={"session": "300ms", "visit": "300ms"})
    assert found.records[0].ended == "complete"
    assert {record.ended for record in found.records[1:]} == {"timeout"}
    assert len(found.answered()) == 8


# --- from where


async def test_every_session_comes_from_the_configured_address(tmp_path):
    source, server = fresh_address(), Target()
    found = await visit(tmp_path, server, identity={"sources": ["::1", source]})
    assert {talk.client for talk in server.talks} == {source}
    assert {str(record.source) for record in found.records} == {source}


async def test_a_source_of_the_other_family_leaves_the_choice_to_the_system(tmp_path):
    server = Target()
    found = await visit(tmp_path, server, identity={"sources": ["::1"]})
    assert found.unanswered() == []


NOT_OURS: dict[str, Any] = {"identity": {"sources": ["192.0.2.1"]}}


async def test_a_source_that_is_not_ours_is_an_error_and_no_evidence(tmp_path):
    server = Target()
    async with prober(tmp_path, **NOT_OURS) as one, server.serve() as port:
        with pytest.raises(NoSocketError):
            await one.visit(Where(ip_address(server.host), port, TRIAL, KEY), FORMS)
    assert server.talks == []


async def test_a_visit_that_failed_through_us_is_put_off_and_leaves_no_evidence(
    begin, connection, logged
):
    server = Target()
    async with (
        begin(worker.run, sink.run, scheduler.run, **NOT_OURS) as lab,
        server.serve() as port,
    ):
        await lab.insert(server.host, port)
        row = await until(
            lambda: connection.fetchrow(
                "SELECT * FROM relaytest.job WHERE NOT leased AND run_at > now()"
            ),
            "the job put back",
        )
    assert row["attempt"] == 1
    for table in ("session", "outcome", "verdict"):
        assert await connection.fetchval(f"SELECT count(*) FROM relaytest.{table}") == 0
    assert await connection.fetchval("SELECT visits FROM relaytest.trial") == 0
    assert "no socket to probe with" in {one["event"] for one in logged}


async def test_a_visit_can_be_cancelled_and_leaves_nothing_behind(tmp_path):
    host, reached = fresh_address(), asyncio.Event()

    async def play(peer: hostile.Peer) -> None:
        reached.set()
        await peer.wait()

    async with prober(tmp_path) as one, hostile.serving(play, host) as port:
        task = asyncio.ensure_future(one.visit(Where(ip_address(host), port, TRIAL, KEY), FORMS))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_nobody_there_is_one_record_that_says_so(tmp_path):
    host = fresh_address()
    async with prober(tmp_path) as one:
        found = await one.visit(Where(ip_address(host), fresh_port(host), TRIAL, KEY), FORMS)
    (record,) = found.records
    assert (record.ended, record.source) == ("refused", None)


async def test_outcomes_tell_the_last_step_reached(tmp_path):
    found = await visit(tmp_path, Target(anybody, dot=b"550 5.7.1 No relaying"))
    steps = {
        one.step
        for record in found.records
        if record.purpose is Purpose.CONFIRM
        for one in record.answers.outcomes
    }
    assert steps == {Step.END_OF_DATA}
