"""The sink: mail for our tokens and for nothing else, stored before it says so."""

import asyncio

import asyncpg
import pytest

from relaytest.core.config import split_endpoint
from relaytest.core.token import Mailbox, Token, issue
from relaytest.daemons import scheduler, sink, worker
from relaytest.daemons.loop import Stop
from relaytest.store import evidence
from tests.daemons.peers import Road, Target, full_disk, reach, seen, send
from tests.lab import SINK_DOMAIN, Lab, lab_config, running, until
from tests.mta.process import fresh_address

BOUNCES = b"<>"
TEXT = b"Subject: x\r\n\r\nx\r\n"


async def the_key(connection: asyncpg.Connection) -> bytes:
    return await connection.fetchval("SELECT key FROM relaytest.token_key ORDER BY id DESC")


@pytest.fixture
async def key(connection) -> bytes:
    return await the_key(connection)


@pytest.fixture
async def lab(begin, key):
    async with begin(sink.run) as system:
        yield system


def mailbox(key: bytes, *, trial=1, form=257, kind=Mailbox.FORWARD, domain=SINK_DOMAIN) -> bytes:
    return f"<{issue(key, Token(kind, form, trial))}@{domain}>".encode()


async def receipts(lab: Lab) -> list[asyncpg.Record]:
    return await lab.connection.fetch("SELECT * FROM relaytest.receipt ORDER BY id")


# --- for whom it takes mail


async def test_mail_for_a_token_of_ours_is_taken_and_stored(lab, key):
    assert await send(lab.sink, b"<a@b.example>", mailbox(key)) == [b"250", b"250"]
    (row,) = await receipts(lab)
    assert (row["trial"], row["form"], row["mailbox"]) == (1, 257, "forward")


def changed(path: bytes, place: int) -> bytes:
    """Another letter at a place of the token."""
    other = b"b" if path[place : place + 1] == b"a" else b"a"
    return path[:place] + other + path[place + 1 :]


STRANGERS = {
    "another-domain": lambda key: mailbox(key, domain="sink.example.org"),
    "below-our-domain": lambda key: mailbox(key, domain=f"x.{SINK_DOMAIN}"),
    "above-our-domain": lambda key: mailbox(key, domain="example"),
    "no-domain": lambda key: mailbox(key).partition(b"@")[0] + b">",
    "no-token": lambda _: f"<postmaster@{SINK_DOMAIN}>".encode(),
    "looks-like-a-token": lambda _: f"<{'a' * 26}@{SINK_DOMAIN}>".encode(),
    "first-letter-changed": lambda key: changed(mailbox(key), 1),
    "trial-changed": lambda key: changed(mailbox(key), 10),
    "last-letter-changed": lambda key: changed(mailbox(key), 26),
    "too-long": lambda key: b"<a" + mailbox(key)[1:],
    "too-short": lambda key: b"<" + mailbox(key)[2:],
    "another-key": lambda _: mailbox(b"k" * 32),
    "through-us": lambda key: mailbox(key)[:-1] + b"@elsewhere.example>",
    "percent": lambda key: mailbox(key).replace(b"@", b"%") + b"@elsewhere.example>",
    "empty": lambda _: b"<>",
}


@pytest.mark.parametrize("stranger", STRANGERS.values(), ids=STRANGERS)
async def test_mail_for_anybody_else_is_refused(lab, key, stranger):
    codes = await send(lab.sink, b"<a@b.example>", stranger(key))
    assert codes[0] == b"550"
    assert b"250" not in codes
    assert await receipts(lab) == []


OURS = {
    "upper-case": lambda key: mailbox(key).upper(),
    "mixed-case": lambda key: mailbox(key).title(),
    "quoted": lambda key: b'<"' + mailbox(key)[1:].replace(b"@", b'"@'),
    "all-in-quotes": lambda key: b'<"' + mailbox(key)[1:-1] + b'">',
    "with-a-route": lambda key: b"<@mail.lab.example:" + mailbox(key)[1:],
    "without-brackets": lambda key: mailbox(key)[1:-1],
    "final-dot": lambda key: mailbox(key)[:-1] + b".>",
    "for-bounces": lambda key: mailbox(key, kind=Mailbox.REVERSE),
}


@pytest.mark.parametrize("ours", OURS.values(), ids=OURS)
async def test_a_token_of_ours_is_known_in_many_spellings(lab, key, ours):
    path = ours(key)
    assert await send(lab.sink, b"<a@b.example>", path) == [b"250", b"250"]
    (row,) = await receipts(lab)
    assert row["forward_path"] == path


async def test_every_domain_of_ours_takes_mail(begin, key):
    domains = ["sink.example", "sink.example.net"]
    async with begin(sink.run, sink={"domains": domains}) as lab:
        for trial, domain in enumerate(domains, 1):
            await send(lab.sink, BOUNCES, mailbox(key, trial=trial, domain=domain.upper()))
        assert len(await receipts(lab)) == 2


async def test_an_older_key_still_counts(begin, key, connection):
    await connection.execute("INSERT INTO relaytest.token_key (key) VALUES ($1)", b"n" * 32)
    async with begin(sink.run) as lab:
        await send(lab.sink, BOUNCES, mailbox(key, trial=1))
        await send(lab.sink, BOUNCES, mailbox(b"n" * 32, trial=2))
        assert {row["trial"] for row in await receipts(lab)} == {1, 2}


# --- what it keeps


async def test_a_message_is_kept_octet_by_octet_with_its_envelope_and_peer(lab, key):
    source = fresh_address()
    octets = b"Subject: \xff\x00\r\n\r\n.dot\r\n..\r\nbare \r and \n line ends\r\n\r\n"
    codes = await send(
        lab.sink, b"<A@b.EXAMPLE>", mailbox(key), octets=octets, source=source, helo=b"m\xfc.\x01"
    )
    assert codes == [b"250", b"250"]
    (row,) = await receipts(lab)
    assert row["message"] == octets
    assert row["size"] == len(octets)
    assert str(row["peer"]) == source
    assert (row["helo"], row["reverse_path"]) == (b"m\xfc.\x01", b"<A@b.EXAMPLE>")
    assert row["forward_path"] == mailbox(key)


async def test_a_long_message_is_cut_and_its_size_is_kept(begin, key):
    async with begin(sink.run, sink={"message_octets": 4096}) as lab:
        assert await send(lab.sink, BOUNCES, mailbox(key), octets=b"x" * 5000 + b"\r\n") == [
            b"250",
            b"250",
        ]
        (row,) = await receipts(lab)
    assert (len(row["message"]), row["size"]) == (4096, 5002)


async def test_a_second_copy_is_counted_and_the_first_one_kept(lab, key):
    for text in (TEXT, b"Subject: another\r\n\r\n", TEXT):
        await send(lab.sink, BOUNCES, mailbox(key), octets=text)
    (row,) = await receipts(lab)
    assert (row["copies"], row["message"]) == (3, TEXT)
    assert row["last_at"] > row["received_at"]


async def test_copies_from_two_peers_are_two_receipts(lab, key):
    for source in (fresh_address(), fresh_address()):
        await send(lab.sink, BOUNCES, mailbox(key), source=source)
    assert [row["copies"] for row in await receipts(lab)] == [1, 1]


async def test_a_message_for_two_recipients_is_a_receipt_for_each(lab, key):
    codes = await send(lab.sink, BOUNCES, mailbox(key, form=257), mailbox(key, form=513))
    assert codes == [b"250", b"250", b"250"]
    rows = await receipts(lab)
    assert {row["form"] for row in rows} == {257, 513}
    assert {row["message"] for row in rows} == {TEXT}


async def test_a_stranger_beside_our_recipient_is_refused_alone(lab, key):
    codes = await send(lab.sink, BOUNCES, b"<a@sink.example>", mailbox(key))
    assert codes == [b"550", b"250", b"250"]
    assert len(await receipts(lab)) == 1


async def test_a_look_whether_the_mailbox_exists_is_no_receipt(lab, key):
    """Sender callout: MAIL FROM:<>, RCPT, QUIT."""
    assert await send(lab.sink, BOUNCES, mailbox(key), octets=None) == [b"250"]
    await send(lab.sink, BOUNCES, mailbox(key, trial=2))  # when this is there, so were the other
    assert [row["trial"] for row in await receipts(lab)] == [2]


async def test_a_message_that_is_cut_off_is_no_receipt(lab, key):
    reader, writer = await reach(lab.sink)
    writer.write(b"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:" + mailbox(key) + b"\r\nDATA\r\nSubject: x")
    await reader.readuntil(b"354")
    writer.close()
    await writer.wait_closed()
    await send(lab.sink, BOUNCES, mailbox(key, trial=2))
    assert [row["trial"] for row in await receipts(lab)] == [2]


# --- the database


async def test_nothing_is_taken_while_the_database_is_away(road: Road, shaky, dsn, key, tmp_path):
    config = lab_config(tmp_path / "zone")
    async with running(config, shaky, dsn, (sink.run,)) as lab:
        assert await send(lab.sink, BOUNCES, mailbox(key, trial=1)) == [b"250", b"250"]
        await road.cut()
        assert await send(lab.sink, BOUNCES, mailbox(key, trial=2)) == [b"250", b"451"]
        assert [row["trial"] for row in await receipts(lab)] == [1]
        await road.mend()
        assert await send(lab.sink, BOUNCES, mailbox(key, trial=2)) == [b"250", b"250"]
        assert [row["trial"] for row in await receipts(lab)] == [1, 2]


async def test_nothing_is_taken_while_the_disk_of_the_database_is_full(lab, key):
    async with full_disk(lab.connection, "receipt"):
        assert await send(lab.sink, BOUNCES, mailbox(key, trial=1)) == [b"250", b"451"]
    assert await send(lab.sink, BOUNCES, mailbox(key, trial=1)) == [b"250", b"250"]
    assert [row["trial"] for row in await receipts(lab)] == [1]


async def test_a_message_that_cannot_be_stored_whole_is_not_taken_at_all(lab, key, monkeypatch):
    store = evidence.add_receipt

    async def broken(connection, arrival):
        if arrival.form == 513:
            raise ValueError("a bug")
        return await store(connection, arrival)

    monkeypatch.setattr(evidence, "add_receipt", broken)
    codes = await send(lab.sink, BOUNCES, mailbox(key, form=257), mailbox(key, form=513))
    assert codes == [b"250", b"250", b"451"]
    assert await receipts(lab) == []


async def test_a_sink_that_starts_before_the_database_waits_for_it(
    road: Road, shaky, dsn, key, tmp_path
):
    config = lab_config(tmp_path / "zone")
    async with running(config, shaky, dsn, ()):
        pass  # the schema is there
    await road.cut()
    stop = Stop()
    async with asyncio.TaskGroup() as group:
        group.create_task(sink.run(config, shaky, stop))
        try:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*split_endpoint(config.sink.listen[0]))
            await road.mend()
            place = split_endpoint(config.sink.listen[0])
            assert await send(place, BOUNCES, mailbox(key)) == [b"250", b"250"]
        finally:
            stop.set()


# --- whether it works


async def checks(lab: Lab) -> asyncpg.Record:
    return await lab.connection.fetchrow(
        "SELECT count(*) AS sent, count(received_at) AS received FROM relaytest.sink_check"
    )


async def test_the_sink_proves_by_itself_that_it_works(begin):
    async with begin(sink.run, sink={"check_every": "100ms"}) as lab:

        async def look() -> bool | None:
            return (await checks(lab))["received"] >= 3 or None

        await until(look, "the sink's own mail")
        assert await receipts(lab) == []


async def test_a_check_that_does_not_arrive_is_told_and_proves_nothing(begin, logged):
    host = fresh_address()
    quick = {"check_every": "100ms", "check_peer": f"{host}:9"}
    async with begin(sink.run, sink=quick) as lab:

        async def look() -> bool | None:
            return (await checks(lab))["sent"] >= 2 or None

        await until(look, "the sink's own mail")
        assert (await checks(lab))["received"] == 0
    told = [one for one in logged if one["log_level"] == "error"]
    assert told[0]["event"] == "our own message did not get through"
    assert "refused" in told[0]["why"].lower()


async def test_a_sink_without_a_domain_takes_nothing_and_checks_nothing(begin, key):
    async with begin(sink.run, sink={"domains": []}) as lab:
        assert (await send(lab.sink, BOUNCES, mailbox(key)))[0] == b"550"
        assert (await checks(lab))["sent"] == 0


async def test_a_trial_that_waits_for_mail_asks_for_a_check(begin, connection):
    """A sink that checks itself but rarely is proven in time all the same."""
    await connection.execute(
        "INSERT INTO relaytest.trial (id, job, address, port, reason, requester, forms, visits,"
        " probed_at, ended, settle_at) VALUES (1, 1, '192.0.2.1', 25, 'operator', 'x', '{257}',"
        " 1, now(), true, now());"
        "INSERT INTO relaytest.session (trial, visit, purpose, started_at, seconds, ended)"
        " VALUES (1, 1, 'scout', now(), 0, 'complete');"
        "INSERT INTO relaytest.outcome (session, trial, visit, form, step, code)"
        " SELECT id, 1, 1, 257, 'end-of-data', 250 FROM relaytest.session"
    )
    rarely = {"check_every": "1h"}
    async with begin(sink.run, scheduler.run, sink=rarely, timing={"patience": "300ms"}) as lab:
        row = await lab.verdict("192.0.2.1", "closed")
    assert row["reason"] == "not-returned"


# --- proof


async def test_a_receipt_counts_before_the_worker_has_stored_anything(begin, key, connection):
    target = fresh_address()
    await connection.execute(
        "INSERT INTO relaytest.trial (id, job, address, port, reason, requester)"
        " VALUES (7, 1, $1::text::inet, 25, 'operator', 'x')",
        target,
    )
    async with begin(sink.run, scheduler.run) as lab:
        await send(lab.sink, b"<a@b.example>", mailbox(key, trial=7), source=target)
        row = await lab.verdict(target, "open")
        assert (row["trial"], row["forms"]) == (7, ["S-EXT/R-PLAIN"])
        assert await lab.listed() == {target}


async def test_a_message_that_the_server_never_had_is_kept_and_says_nothing_of_it(
    begin, key, connection
):
    """The server refused every form; somebody who saw the token sends a message of his own."""
    server = Target()
    async with begin(worker.run, sink.run, scheduler.run) as lab, server.serve() as port:
        await lab.insert(server.host, port)
        await until(lambda: seen(server.tried[2:]), "a form asked")
        forward = next(path for _, path in server.tried if path.endswith(b"@sink.example>"))
        await send(lab.sink, b"<a@b.example>", forward, source=fresh_address())
        await lab.idle()
        row = await lab.connection.fetchrow("SELECT * FROM relaytest.verdict_latest")
        assert (row["verdict"], row["reason"]) == ("closed", "refused")
        assert len(await receipts(lab)) == 1
        assert await lab.listed() == set()


async def test_a_receipt_of_an_unknown_trial_is_kept_and_harms_nobody(begin, key):
    async with begin(sink.run, scheduler.run) as lab:
        assert await send(lab.sink, BOUNCES, mailbox(key, trial=99)) == [b"250", b"250"]
        await lab.idle()
        assert [row["trial"] for row in await receipts(lab)] == [99]
        assert await lab.connection.fetchval("SELECT count(*) FROM relaytest.verdict") == 0


# --- its clients


async def test_a_peer_with_too_many_connections_is_turned_away_for_now(begin, key, logged):
    async with begin(sink.run, sink={"connections_per_peer": 1}) as lab:
        await send(lab.sink, BOUNCES, mailbox(key))  # it listens
        reader, writer = await asyncio.open_connection(*lab.sink, local_addr=("127.66.0.7", 0))
        await reader.readline()
        other, more = await asyncio.open_connection(*lab.sink, local_addr=("127.66.0.7", 0))
        assert (await other.read())[:3] == b"421"
        for end in (writer, more):
            end.close()
            await end.wait_closed()
    assert ("client sent away", "127.66.0.7") in [(one["event"], one.get("peer")) for one in logged]


async def test_a_silent_client_is_sent_away(begin):
    async with begin(sink.run, sink={"idle": "100ms"}) as lab:
        await until(lambda: _check(lab), "the sink")
        reader, writer = await asyncio.open_connection(*lab.sink)
        text = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert text.splitlines()[1][:3] == b"421"


async def _check(lab: Lab) -> bool | None:
    return (await checks(lab))["received"] > 0 or None


# --- samples of spam


SAMPLE = b"Received: from b (b [192.0.2.7]) by mx with ESMTP; x\r\nSubject: buy\r\n\r\nBuy!\r\n"
FORWARDED = (
    b'Subject: spam\r\nContent-Type: multipart/mixed; boundary="x"\r\n\r\n'
    b"--x\r\nContent-Type: text/plain\r\n\r\nLook!\r\n"
    b"--x\r\nContent-Type: message/rfc822\r\n\r\n" + SAMPLE + b"\r\n--x--\r\n"
)
TRAP = {"mailbox": "Spam@Traps.example"}


@pytest.mark.parametrize("mail", [SAMPLE, FORWARDED], ids=["raw", "attached"])
async def test_our_own_hosts_send_samples_for_the_scheduler_to_read(begin, connection, mail):
    async with begin(sink.run, samples=TRAP | {"trusted": ["127.0.0.0/8"]}) as lab:
        assert await send(lab.sink, BOUNCES, b"<spam@TRAPS.example>", octets=mail) == [b"250"] * 2
    (row,) = await connection.fetch("SELECT sample, tool, address FROM relaytest.submission")
    assert row["sample"].replace(b"\r\n", b"\n").endswith(b"Subject: buy\n\nBuy!\n")
    assert row["sample"].startswith(b"Received: from")
    assert (row["tool"][:14], row["address"]) == ("mail from 127.", None)


async def test_what_a_stranger_attached_is_not_believed(begin, connection):
    """Spam to a trap, with a forged message in it that names a victim."""
    forged = (
        b"Received: from a (a [192.0.2.66]) by our.mx (Postfix) with ESMTP id 1; x\r\n" + FORWARDED
    )
    async with begin(sink.run, samples=TRAP | {"trusted": ["127.0.0.0/8"]}) as lab:
        await send(lab.sink, BOUNCES, b"<spam@traps.example>", octets=forged)
    (row,) = await connection.fetch("SELECT sample FROM relaytest.submission")
    assert row["sample"].startswith(b"Received: from a (a [192.0.2.66])")


@pytest.mark.parametrize(
    "samples",
    [TRAP, TRAP | {"trusted": ["192.0.2.0/24"]}, {"trusted": ["127.0.0.0/8"]}],
    ids=["nobody-trusted", "others-trusted", "no-mailbox"],
)
async def test_nobody_else_sends_samples(begin, connection, samples):
    async with begin(sink.run, samples=samples) as lab:
        for path in (b"<spam@traps.example>", b"<@>", b"<>"):
            assert b"250" not in await send(lab.sink, b"<a@b.example>", path)
    assert await connection.fetchval("SELECT count(*) FROM relaytest.submission") == 0


async def test_a_sample_is_read_and_its_sender_tested(begin, connection):
    sections = {
        "samples": TRAP | {"trusted": ["127.0.0.0/8"]},
        "scope": {"allow": ["192.0.2.0/24", "127.66.0.0/16"]},
    }
    async with begin(sink.run, scheduler.run, **sections) as lab:
        await send(lab.sink, BOUNCES, b"<spam@traps.example>", octets=SAMPLE)

        async def job() -> str | None:
            return await connection.fetchval("SELECT target FROM relaytest.retest")

        assert await until(job, "the job") == "192.0.2.7"
