"""Mail to people: what is sent when, to whom, how often; and what a smarthost does not take."""

import asyncio
import contextlib
import email
import re
from datetime import timedelta

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from fast_mail_parser import parse_email

from relaytest.daemons import notifier as daemon
from relaytest.daemons.loop import Stop
from relaytest.daemons.notifier import Notifier
from relaytest.net.dns import Resolver
from relaytest.net.dns_server import serve_dns
from relaytest.store import mail
from tests.daemons.test_web import Page, found_open, jobs_of, judged, put_on, serving, trial
from tests.lab import Acceptor, lab_config, until
from tests.mta.process import fresh_address, fresh_port

A = "192.0.2.1"
ANN = "ann@b.example"


def sections(place: str, **more: object) -> dict[str, dict[str, object]]:
    return {
        "mail": {"smarthost": place, "sender": "list@relays.example", **more},
        "web": {"url": "https://relays.example"},
    }


class Smarthost(Acceptor):
    """Takes all, and knows where it is."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place


@pytest.fixture
async def smarthost():
    host = fresh_address()
    acceptor = Smarthost(f"{host}:{(port := fresh_port(host))}")
    async with acceptor.serve(host, port):
        yield acceptor


@pytest.fixture
async def make(database, tmp_path):
    """Makes a notifier of sections of the configuration."""
    async with contextlib.AsyncExitStack() as stack:

        async def made(**more: dict[str, object]) -> Notifier:
            config = lab_config(tmp_path, **more)
            resolver = Resolver(config.dns.nameservers, config.dns.timeout)
            await stack.enter_async_context(resolver)
            return Notifier(config, database, resolver)

        yield made


@pytest.fixture
async def notifier(make, smarthost) -> Notifier:
    return await make(**sections(smarthost.place, notices=True))


@pytest.fixture
async def site(database, tmp_path, smarthost):
    async with serving(database, tmp_path, **sections(smarthost.place)) as running:
        yield running


def texts(smarthost) -> list[str]:
    return [
        str(email.message_from_bytes(delivery.message).get_payload())
        for delivery in smarthost.messages
    ]


def recipients(smarthost) -> list[str]:
    return [
        recipient.forward_path.decode().strip("<>")
        for delivery in smarthost.messages
        for recipient in delivery.recipients
    ]


async def asked(site, connection) -> Page:
    await put_on(connection)
    return await site.post("/removal", {"address": A, "mailbox": ANN})


async def link(smarthost) -> str:
    return re.search(r"https://relays\.example(/mail/\S+)", texts(smarthost)[-1])[1]


async def ended(connection, verdict: str, number=2) -> None:
    """The job's trial, with a verdict that is the last one."""
    job = await connection.fetchval("DELETE FROM relaytest.job RETURNING id")
    await trial(connection, number=number)
    await connection.execute("UPDATE relaytest.trial SET job = $1 WHERE id = $2", job, number)
    await judged(connection, f"So it is {verdict}.", verdict, number=number)


async def test_the_outcome_comes_only_after_the_mailbox_was_confirmed(
    site, notifier, smarthost, connection
):
    assert (await asked(site, connection)).status == 303
    await notifier.tell()
    assert recipients(smarthost) == [ANN]
    path = await link(smarthost)
    page = await site.get(path)  # looking changes nothing
    assert "Mail to ann@b.example" in page.words
    await ended(connection, "open")
    await notifier.tell()
    assert len(smarthost.messages) == 1
    assert "will be sent" in (await site.post(path, {"wish": "confirm"})).words
    for _ in range(2):
        await notifier.tell()
    assert recipients(smarthost) == [ANN, ANN]
    assert "Verdict: open\nSo it is open." in texts(smarthost)[1].replace("\r\n", "\n")


async def test_the_page_of_a_listed_server_and_the_form_ask_for_a_mailbox(site, connection):
    await put_on(connection)
    for path in (f"/lookup/{A}", "/removal"):
        assert 'name="mailbox"' in (await site.get(path)).text


async def test_before_the_verdict_is_the_last_one_nothing_is_told(
    site, notifier, smarthost, connection
):
    await asked(site, connection)
    await notifier.tell()
    await site.post(await link(smarthost), {"wish": "confirm"})
    await notifier.tell()
    assert len(smarthost.messages) == 1
    await ended(connection, "unknown")
    await connection.execute("UPDATE relaytest.trial SET settle_at = now() + interval '1 d'")
    await notifier.tell()
    assert len(smarthost.messages) == 1
    await connection.execute("UPDATE relaytest.trial SET settle_at = NULL")
    await notifier.tell()
    assert len(smarthost.messages) == 2


async def test_who_wants_no_mail_gets_none_any_more(site, notifier, smarthost, connection):
    await asked(site, connection)
    await notifier.tell()
    page = await site.post(await link(smarthost), {"wish": "stop"})
    assert "No more mail will come" in page.words
    await connection.execute("DELETE FROM relaytest.allowance")
    await site.post("/removal", {"address": A, "mailbox": ANN.upper()})
    await notifier.tell()
    assert len(smarthost.messages) == 1


async def test_one_mailbox_is_asked_once_a_day_for_all_its_requests(
    site, notifier, smarthost, connection
):
    await asked(site, connection)
    await put_on(connection, "192.0.2.2", number=2)
    await site.post("/removal", {"address": "192.0.2.2", "mailbox": ANN})
    await notifier.tell()
    assert len(smarthost.messages) == 1
    assert len(await jobs_of(connection)) == 2  # the tests do not wait for that
    await site.post(await link(smarthost), {"wish": "confirm"})
    await put_on(connection, "192.0.2.3", number=3)
    await site.post("/removal", {"address": "192.0.2.3", "mailbox": ANN.title()})
    confirmed = "SELECT count(*) FROM relaytest.subscription WHERE confirmed_at IS NOT NULL"
    assert await connection.fetchval(confirmed) == 3
    await notifier.tell()
    assert len(smarthost.messages) == 1


async def test_what_was_asked_for_on_another_day_is_not_confirmed(
    site, notifier, smarthost, connection
):
    await asked(site, connection)
    await connection.execute(
        "UPDATE relaytest.subscription SET created_at = now() - interval '2 d'"
    )
    await connection.execute("DELETE FROM relaytest.allowance")
    await put_on(connection, "192.0.2.2", number=2)
    await site.post("/removal", {"address": "192.0.2.2", "mailbox": ANN})
    for _ in range(2):
        await notifier.tell()
    assert len(smarthost.messages) == 2
    await site.post(await link(smarthost), {"wish": "confirm"})
    row = "SELECT confirmed_at IS NOT NULL FROM relaytest.subscription ORDER BY id"
    assert [one[0] for one in await connection.fetch(row)] == [False, True]


async def test_a_mailbox_gets_so_many_outcomes_a_day_and_no_more(
    database, tmp_path, smarthost, connection
):
    wanted = sections(smarthost.place, outcomes_per_mailbox=1)
    async with serving(database, tmp_path, **wanted) as site:
        await asked(site, connection)
        await put_on(connection, "192.0.2.2", number=2)
        page = await site.post("/removal", {"address": "192.0.2.2", "mailbox": ANN, "way": "later"})
    assert page.status == 303
    assert await connection.fetchval("SELECT count(*) FROM relaytest.subscription") == 1


@pytest.mark.parametrize("mailbox", ["x", "a@b.example\r\nBcc: c@d.example", "a@b"])
async def test_what_is_no_mailbox_is_told_so_before_anything_is_done(site, connection, mailbox):
    await put_on(connection)
    page = await site.post("/removal", {"address": A, "mailbox": mailbox})
    assert page.status == 400
    assert await jobs_of(connection) == []


async def test_a_wrong_link_is_a_404(site, connection):
    assert (await site.get("/mail/x")).status == 404
    assert (await site.post("/mail/x", {"wish": "stop"})).status == 404
    assert (await site.post("/mail/x", {"wish": "both"})).status == 422


async def test_without_a_smarthost_nobody_is_asked_for_a_mailbox(database, connection, tmp_path):
    await put_on(connection)
    async with serving(database, tmp_path) as site:
        assert "mailbox" not in (await site.get("/removal")).text
        await site.post("/removal", {"address": A, "mailbox": ANN})
    assert await connection.fetchval("SELECT count(*) FROM relaytest.subscription") == 0


# --- notices


async def listed_now(connection, address=A, *, number=1) -> None:
    await put_on(connection, address, number=number)
    await found_open(connection, "S-EXT/R-PLAIN", address=address, number=number)
    await connection.execute("DELETE FROM relaytest.listing_change WHERE trial = $1", number)
    await went_on(connection, address, number=number)


async def went_on(connection, address=A, *, number=1) -> None:
    await connection.execute(
        "INSERT INTO relaytest.listing_change (address, port, event, old, new, trial, why)"
        " VALUES ($1::text::inet, 25, 'found-open', 'unlisted', 'listed', $2, 'x')",
        address,
        number,
    )


async def test_a_listing_has_one_notice(notifier, smarthost, connection):
    await listed_now(connection)
    for _ in range(3):
        await notifier.tell()
    assert recipients(smarthost) == [f"postmaster@[{A}]"]
    await went_on(connection)
    await notifier.tell()
    assert len(smarthost.messages) == 1


async def test_a_postmaster_who_wants_no_notice_gets_none_any_more(
    site, notifier, smarthost, connection
):
    await listed_now(connection)
    await notifier.tell()
    path = await link(smarthost)
    page = await site.get(path)
    assert f"Mail to postmaster@[{A}]" in page.words
    assert "confirm" not in page.text  # there is nothing to confirm
    assert (await site.post(path, {"wish": "confirm"})).status == 404
    assert "No more mail will come" in (await site.post(path, {"wish": "stop"})).words
    await connection.execute("UPDATE relaytest.mail SET created_at = now() - interval '8 days'")
    await went_on(connection)
    await notifier.tell()
    assert len(smarthost.messages) == 1
    assert "wants no mail" in await last_fault(connection)


async def last_fault(connection) -> str:
    return await connection.fetchval("SELECT fault FROM relaytest.mail ORDER BY id DESC LIMIT 1")


async def test_no_notice_unless_the_operator_wants_it(make, smarthost, connection):
    await listed_now(connection)
    await (await make(**sections(smarthost.place))).tell()
    assert smarthost.messages == []


async def test_who_is_off_the_list_again_gets_no_notice(notifier, smarthost, connection):
    await listed_now(connection)
    await connection.execute("UPDATE relaytest.listing SET expires_at = now()")
    await notifier.tell()
    assert smarthost.messages == []


# --- reports to the abuse contact of the network

ZONE = "contacts.example"


class Contacts:
    """A DNS zone with abuse contacts.

    Attributes:
        texts: TXT records by name; None: the server fails.
        asked: Names, in order.
        place: Where it is.
    """

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] | None = {f"1.2.0.192.{ZONE}": ["Abuse@Net.Example"]}
        self.asked: list[str] = []
        self.place = ""

    async def answer(self, query: dns.message.Message) -> dns.message.Message:
        (question,) = query.question
        name = question.name.to_text(omit_final_dot=True)
        response = dns.message.make_response(query)
        if question.rdtype == dns.rdatatype.PTR:
            found = dns.rrset.from_text(question.name, 60, "IN", "PTR", "mail.net.example.")
            response.answer.append(found)
            return response
        self.asked.append(name)
        if self.texts is None:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif name not in self.texts:
            response.set_rcode(dns.rcode.NXDOMAIN)
        else:
            quoted = [f'"{text}"' for text in self.texts[name]]
            response.answer.append(dns.rrset.from_text_list(question.name, 60, "IN", "TXT", quoted))
        return response


@pytest.fixture
async def contacts():
    zone = Contacts()
    async with serve_dns("127.0.0.1", 0, zone.answer) as (host, port):
        zone.place = f"{host}:{port}"
        yield zone


def reporting(contacts, place: str, **more: object) -> dict[str, dict[str, object]]:
    wanted = {"abuse_contacts": True, "contact_zone": ZONE, **more}
    return sections(place, **wanted) | {"dns": {"nameservers": [contacts.place], "timeout": "2s"}}


@pytest.fixture
async def reporter(make, contacts, smarthost) -> Notifier:
    return await make(**reporting(contacts, smarthost.place))


async def relayed(connection, address=A, *, number=1, message: bytes | None = None) -> None:
    """A listing with the message that came back."""
    await listed_now(connection, address, number=number)
    if message is None:
        message = b"Message-ID: <%d-257@x>\r\n\r\nHi\r\n" % number
    await came(connection, message, address, number)


async def came(connection, message: bytes, address=A, number=1) -> None:
    await connection.execute(
        "INSERT INTO relaytest.receipt (trial, form, mailbox, peer, helo, reverse_path,"
        " forward_path, message, size) VALUES ($1, 257, 'forward', $2::text::inet, 'x', '<x>',"
        " '<y>', $3, octet_length($3::bytea))",
        number,
        address,
        message,
    )


async def test_the_abuse_contact_of_the_network_gets_one_report(
    reporter, contacts, smarthost, connection
):
    await relayed(connection)
    for _ in range(3):
        await reporter.tell()
    assert recipients(smarthost) == ["Abuse@net.example"]
    mail = parse_email(smarthost.messages[0].message)
    kinds = [one.mimetype for one in mail.attachments]
    assert kinds == ["message/feedback-report", "message/rfc822"]
    fields = mail.attachments[0].content.decode()
    assert f"Source-IP: {A}\r\n" in fields
    assert "Reported-Domain: mail.net.example\r\n" in fields
    assert mail.attachments[1].content == b"Message-ID: <1-257@x>\r\n\r\nHi\r\n"
    await went_on(connection)
    await reporter.tell()
    assert len(smarthost.messages) == 1


async def test_a_report_shows_the_copy_and_no_notice_about_it(
    reporter, contacts, smarthost, connection
):
    await listed_now(connection)
    await came(
        connection, b"Subject: We hold your mail\r\n\r\nMessage-ID: <1-257@x>\r\n", "192.0.2.7"
    )
    await came(connection, b"Message-ID: <1-257@x>\r\n\r\nHi\r\n")
    await reporter.tell()
    mail = parse_email(smarthost.messages[0].message)
    assert mail.attachments[1].content == b"Message-ID: <1-257@x>\r\n\r\nHi\r\n"


async def test_a_notice_and_a_report_may_both_be_wanted(make, contacts, smarthost, connection):
    notifier = await make(**reporting(contacts, smarthost.place, notices=True))
    await relayed(connection)
    for _ in range(2):
        await notifier.tell()
    assert sorted(recipients(smarthost)) == ["Abuse@net.example", f"postmaster@[{A}]"]


async def test_no_report_unless_the_operator_wants_it(notifier, contacts, smarthost, connection):
    await relayed(connection)
    await notifier.tell()
    assert recipients(smarthost) == [f"postmaster@[{A}]"]
    assert contacts.asked == []


async def test_a_real_smarthost_takes_a_report_and_changes_nothing_in_it(
    make, contacts, connection
):
    """From the daemon to aiosmtpd; what comes out is parsed by another library."""
    message = (
        b"Received: from probe.example ([198.51.100.1])\r\n\tby mail.example; x  \r\n"
        b"Subject: Mail  routing notice 1-257 \r\n\r\n.\r\n..two dots\r\nFrom here\r\n"
    )
    await relayed(connection, message=message)
    kept = Keeper()
    host = fresh_address()
    controller = Controller(kept, hostname=host, port=fresh_port(host))
    controller.start()
    try:
        notifier = await make(**reporting(contacts, f"{host}:{controller.port}"))
        await notifier.tell()
    finally:
        controller.stop()
    ((sender, to, octets),) = kept.taken
    assert (sender, to) == ("list@relays.example", ["Abuse@net.example"])
    assert parse_email(octets).attachments[1].content == message


class Keeper:
    """An aiosmtpd handler that keeps what it is given."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, list[str], bytes]] = []

    async def handle_DATA(  # noqa: N802 - aiosmtpd looks for this name
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        self.taken.append((envelope.mail_from, envelope.rcpt_tos, bytes(envelope.original_content)))
        return "250 kept"


async def test_what_dns_said_of_a_network_is_kept_a_while(
    reporter, contacts, smarthost, connection
):
    await relayed(connection)
    await reporter.tell()
    await connection.execute("UPDATE relaytest.mail SET created_at = now() - interval '8 days'")
    await went_on(connection)
    await reporter.tell()
    assert len(smarthost.messages) == 2
    assert contacts.asked == [f"1.2.0.192.{ZONE}"]
    await connection.execute("UPDATE relaytest.abuse_contact SET until = now()")
    await reporter.forget()
    assert await connection.fetchval("SELECT count(*) FROM relaytest.abuse_contact") == 0


@pytest.mark.parametrize("texts", [{}, {f"1.2.0.192.{ZONE}": ["nobody", "a@b\\010X: y"]}])
async def test_a_network_without_a_contact_gets_no_report_and_is_not_asked_about_again(
    reporter, contacts, smarthost, connection, texts
):
    contacts.texts = texts
    await relayed(connection)
    await reporter.tell()
    assert smarthost.messages == []
    assert "has no abuse contact" in await last_fault(connection)
    assert await connection.fetchval("SELECT send_at FROM relaytest.mail") is None
    await connection.execute("UPDATE relaytest.mail SET created_at = now() - interval '8 days'")
    await went_on(connection)
    await reporter.tell()
    assert len(contacts.asked) == 1


async def test_a_dns_that_is_silent_is_asked_again_later(reporter, contacts, smarthost, connection):
    contacts.texts = None
    await relayed(connection)
    await reporter.tell()
    assert "no answer from DNS" in await last_fault(connection)
    assert await connection.fetchval("SELECT send_at > now() FROM relaytest.mail")
    assert await connection.fetchval("SELECT count(*) FROM relaytest.abuse_contact") == 0


async def test_an_ipv6_network_is_asked_by_nibbles(reporter, contacts, smarthost, connection):
    name = f"1.{'0.' * 23}8.b.d.0.1.0.0.2.{ZONE}"
    contacts.texts = {name: ["abuse@six.example"]}
    await relayed(connection, "2001:db8::1")
    await reporter.tell()
    assert contacts.asked == [name]
    assert recipients(smarthost) == ["abuse@six.example"]


async def test_many_listings_of_one_network_are_no_flood(make, contacts, smarthost, connection):
    notifier = await make(**reporting(contacts, smarthost.place, reports_per_contact=2))
    for number in range(1, 5):
        address = f"192.0.2.{number}"
        contacts.texts[f"{number}.2.0.192.{ZONE}"] = ["abuse@net.example"]
        await relayed(connection, address, number=number)
    for _ in range(2):
        await notifier.tell()
    assert len(smarthost.messages) == 2
    waiting = await connection.fetch(
        "SELECT tries, send_at > now() + interval '23 hours' AS tomorrow, fault"
        " FROM relaytest.mail WHERE sent_at IS NULL"
    )
    assert [(row["tries"], row["tomorrow"]) for row in waiting] == [(0, True)] * 2
    assert "abuse@net.example had 2 reports today" in waiting[0]["fault"]
    await connection.execute("UPDATE relaytest.allowance SET ends_at = now()")
    await connection.execute("UPDATE relaytest.mail SET send_at = now() WHERE sent_at IS NULL")
    await connection.execute("UPDATE relaytest.listing SET expires_at = now() WHERE trial = 4")
    await notifier.tell()
    assert len(smarthost.messages) == 3
    assert "no longer listed" in await last_fault(connection)


async def test_a_report_that_waited_a_week_is_not_sent(make, contacts, smarthost, connection):
    notifier = await make(**reporting(contacts, smarthost.place, reports_per_contact=1))
    contacts.texts[f"2.2.0.192.{ZONE}"] = ["abuse@net.example"]
    await relayed(connection)
    await relayed(connection, "192.0.2.2", number=2)
    await notifier.tell()
    await connection.execute(
        "UPDATE relaytest.mail SET send_at = now(), created_at = now() - interval '8 days'"
        " WHERE sent_at IS NULL"
    )
    await notifier.tell()
    assert len(smarthost.messages) == 1
    assert await connection.fetch("SELECT FROM relaytest.mail WHERE send_at IS NOT NULL") == []


async def test_a_contact_who_wants_no_report_gets_none_any_more(
    site, reporter, contacts, smarthost, connection
):
    await relayed(connection)
    await reporter.tell()
    text = parse_email(smarthost.messages[0].message).text_plain[0]
    path = re.search(r"https://relays\.example(/mail/\S+)", text)[1]
    assert "No more mail will come" in (await site.post(path, {"wish": "stop"})).words
    contacts.texts[f"2.2.0.192.{ZONE}"] = ["ABUSE@net.example"]
    await relayed(connection, "192.0.2.2", number=2)
    await reporter.tell()
    assert len(smarthost.messages) == 1
    assert "wants no mail" in await last_fault(connection)


async def test_without_the_message_there_is_no_report(reporter, smarthost, connection):
    await listed_now(connection)
    await reporter.tell()
    assert smarthost.messages == []
    assert "no message to show" in await last_fault(connection)


async def test_the_daemon_tells_until_the_stop_is_wished(
    database, tmp_path, contacts, smarthost, connection
):
    await relayed(connection)
    config = lab_config(tmp_path, **reporting(contacts, smarthost.place))
    stop = Stop()

    async def told() -> bool | None:
        return bool(smarthost.messages) or None

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(daemon.run(config, database, stop))
        await until(told, "a report")
        stop.set()


# --- a smarthost that does not take it


async def test_a_smarthost_that_is_away_is_asked_again_later(make, connection):
    await listed_now(connection)
    host = fresh_address()
    notifier = await make(**sections(f"{host}:{fresh_port(host)}", notices=True))
    await notifier.tell()
    row = await connection.fetchrow(
        "SELECT tries, sent_at, fault, send_at - now() AS left FROM relaytest.mail"
    )
    assert (row["tries"], row["sent_at"]) == (1, None)
    assert row["fault"]
    assert timedelta(minutes=4) < row["left"] <= timedelta(minutes=5)
    for tries in range(2, 7):
        await connection.execute("UPDATE relaytest.mail SET send_at = now()")
        await notifier.tell()
        assert await connection.fetchval("SELECT tries FROM relaytest.mail") == tries
    assert await connection.fetchval("SELECT send_at FROM relaytest.mail") is None


async def test_a_mail_whose_notifier_died_is_taken_by_another(notifier, connection, smarthost):
    await listed_now(connection)
    await mail.queue(connection, ["notice"])
    assert await mail.take(connection, timedelta(minutes=10)) is not None
    await notifier.tell()
    assert smarthost.messages == []
    await connection.execute("UPDATE relaytest.mail SET send_at = now()")
    await notifier.tell()
    assert len(smarthost.messages) == 1


async def test_what_is_old_is_forgotten(site, notifier, connection):
    await asked(site, connection)
    await notifier.forget()
    assert await connection.fetchval("SELECT count(*) FROM relaytest.subscription") == 1
    for table in ("mail", "subscription"):
        await connection.execute(
            f"UPDATE relaytest.{table} SET created_at = now() - interval '31 days'"
        )
    await notifier.forget()
    assert await connection.fetchval("SELECT count(*) FROM relaytest.subscription") == 0
    assert await connection.fetchval("SELECT count(*) FROM relaytest.mail") == 0
