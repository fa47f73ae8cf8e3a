"""Mail to people: what is sent when, to whom, how often; and what a smarthost does not take."""

import email
import re
from datetime import timedelta

import pytest

from relaytest.daemons.notifier import Notifier
from relaytest.store import mail
from tests.daemons.test_web import Page, found_open, jobs_of, judged, put_on, serving, trial
from tests.lab import Acceptor, lab_config
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
def notifier(database, tmp_path, smarthost) -> Notifier:
    return Notifier(lab_config(tmp_path, **sections(smarthost.place, notices=True)), database)


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


async def test_the_page_of_a_listed_server_leads_to_the_form_with_a_mailbox(site, connection):
    await put_on(connection)
    assert "Have the outcome sent to you" in (await site.get(f"/lookup/{A}")).text
    assert 'name="mailbox"' in (await site.get("/removal")).text


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


async def test_one_mailbox_is_asked_once_a_day(site, notifier, smarthost, connection):
    await asked(site, connection)
    await put_on(connection, "192.0.2.2", number=2)
    await site.post("/removal", {"address": "192.0.2.2", "mailbox": ANN})
    await notifier.tell()
    assert len(smarthost.messages) == 1
    assert len(await jobs_of(connection)) == 2  # the tests do not wait for that


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


async def listed_now(connection) -> None:
    await put_on(connection)
    await found_open(connection, "S-EXT/R-PLAIN")
    await connection.execute("DELETE FROM relaytest.listing_change")
    await connection.execute(
        "INSERT INTO relaytest.listing_change (address, port, event, old, new, trial, why)"
        " VALUES ($1::text::inet, 25, 'found-open', 'unlisted', 'listed', 1, 'x')",
        A,
    )


async def test_a_listing_has_one_notice(notifier, smarthost, connection):
    await listed_now(connection)
    for _ in range(3):
        await notifier.tell()
    assert recipients(smarthost) == [f"postmaster@[{A}]"]
    await listed_now_again(connection)
    await notifier.tell()
    assert len(smarthost.messages) == 1


async def listed_now_again(connection) -> None:
    await connection.execute(
        "INSERT INTO relaytest.listing_change (address, port, event, old, new, trial, why)"
        " VALUES ($1::text::inet, 25, 'found-open', 'unlisted', 'listed', 1, 'x')",
        A,
    )


async def test_no_notice_unless_the_operator_wants_it(database, tmp_path, smarthost, connection):
    await listed_now(connection)
    config = lab_config(tmp_path, **sections(smarthost.place))
    await Notifier(config, database).tell()
    assert smarthost.messages == []


async def test_who_is_off_the_list_again_gets_no_notice(notifier, smarthost, connection):
    await listed_now(connection)
    await connection.execute("UPDATE relaytest.listing SET expires_at = now()")
    await notifier.tell()
    assert smarthost.messages == []


# --- a smarthost that does not take it


async def test_a_smarthost_that_is_away_is_asked_again_later(database, tmp_path, connection):
    await listed_now(connection)
    host = fresh_address()
    config = lab_config(tmp_path, **sections(f"{host}:{fresh_port(host)}", notices=True))
    notifier = Notifier(config, database)
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
    await mail.queue(connection, notices=True)
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
