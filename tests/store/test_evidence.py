"""Evidence: what goes in comes out, receipts count once, and broken rows are refused."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import asyncpg
import pytest

from relaytest.core.dialogue import Answers, Break, Broken, Hello, Outcome, Step
from relaytest.core.plan import Purpose
from relaytest.core.reply import Reply
from relaytest.core.token import Mailbox
from relaytest.core.transcript import Exchange, Transcript
from relaytest.core.verdict import Finding, Reason, Verdict
from relaytest.core.visit import SessionRecord
from relaytest.daemons.shipped import battery
from relaytest.store import evidence, jobs, pages
from relaytest.store.evidence import Arrival

T = datetime(2026, 1, 1, tzinfo=UTC)
TARGET, PEER = ip_address("192.0.2.1"), ip_address("192.0.2.77")
FORMS = battery().by_number()
HOUR = timedelta(hours=1)


@pytest.fixture
async def job(connection):
    """A claimed job and so a trial."""
    await jobs.enqueue(connection, jobs.Request(str(TARGET), "operator"))
    worker = await jobs.join_workers(
        connection, host="h", pid=1, vantage="default", version="1", slots=1
    )
    (claimed,) = await jobs.claim(connection, worker, 1, HOUR)
    return claimed


def arrival(trial, **changes) -> Arrival:
    whole = Arrival(
        trial=trial,
        form=257,
        mailbox=Mailbox.FORWARD,
        peer=PEER,
        helo=b"mail.example\xff",
        reverse_path=b"<a@b.example>",
        forward_path=b"<t@sink.example>",
        message=b"Subject: x\r\n\r\n\x00\xff",
        size=16,
    )
    return replace(whole, **changes)


def record(**changes) -> SessionRecord:
    transcript = Transcript()
    transcript.add(Exchange(0.25, False, b"220 mx \x00\xff\r\n"))
    transcript.add(Exchange(0.5, True, b"EHLO probe.example\r\n"))
    whole = SessionRecord(
        purpose=Purpose.SCOUT,
        started_at=T,
        seconds=1.5,
        source=ip_address("192.0.2.200"),
        hello=Hello(Reply(220, ("mx ESMTP",)), Reply(250, ("mx", "PIPELINING"))),
        answers=Answers(
            [
                Outcome(0, Step.RCPT, Reply(250, ("2.1.5 ok",))),
                Outcome(257, Step.RCPT, Reply(550, ("5.7.1 no \udcff\x00", "relaying"))),
                Outcome(513, Step.END_OF_DATA, None),
            ]
        ),
        transcript=transcript,
    )
    return replace(whole, **changes)


async def save(connection, job, records=None, *, ended=True):
    async with connection.transaction():
        await evidence.save_visit(
            connection, job.trial, 1, records or [record()], forms=[257, 513], ended=ended
        )


async def read(connection, job):
    trial = await evidence.trial_of(connection, job.trial)
    return await evidence.evidence_of(connection, trial, FORMS, HOUR)


async def test_a_visit_comes_back_as_evidence(connection, job):
    await save(connection, job)
    found = await read(connection, job)
    assert [form.number for form in found.forms] == [257, 513]
    assert found.ended
    assert found.probed_at is not None
    assert {(one.form, one.step, one.reply and one.reply.code) for one in found.asked} == {
        (0, Step.RCPT, 250),
        (257, Step.RCPT, 550),
        (513, Step.END_OF_DATA, None),
    }
    (met,) = found.met
    assert (met.visit, met.ended, str(met.greeting)) == (1, "complete", "220 mx ESMTP")


async def test_octets_that_text_cannot_hold_are_kept_escaped(connection, job):
    await save(connection, job)
    (asked,) = [one for one in (await read(connection, job)).asked if one.form == 257]
    assert asked.reply.text == "5.7.1 no \\xff\\x00 relaying"


async def test_the_transcript_is_kept_octet_by_octet(connection, job):
    await save(connection, job)
    found = await pages.trial_evidence(connection, job.trial)
    ((_, transcript),) = found.sessions
    assert transcript.exchanges == record().transcript.exchanges


async def test_a_session_that_broke_tells_how(connection, job):
    broken = record(
        hello=None, answers=Answers(), broken=Broken(Break.REFUSED, "connection refused")
    )
    await save(connection, job, [broken])
    (met,) = (await read(connection, job)).met
    assert (met.ended, met.detail, met.greeting) == ("refused", "connection refused", None)


async def test_a_saved_visit_wants_to_be_judged_at_once(connection, job):
    await save(connection, job)
    trial = await evidence.due_trial(connection)
    assert trial.id == job.trial


async def test_a_receipt_may_come_before_the_visit_is_stored(connection, job):
    assert await evidence.add_receipt(connection, arrival(job.trial)) == (1, None)
    found = await read(connection, job)
    (receipt,) = found.receipts
    assert (receipt.form, receipt.peer, receipt.mailbox) == (257, PEER, Mailbox.FORWARD)
    assert found.probed_at is None
    assert (await evidence.due_trial(connection)).id == job.trial


async def test_a_duplicate_is_one_receipt_with_a_count(connection, job):
    copies = [(await evidence.add_receipt(connection, arrival(job.trial)))[0] for _ in range(3)]
    assert copies == [1, 2, 3]
    assert len((await read(connection, job)).receipts) == 1


async def test_the_same_token_from_another_peer_is_another_receipt(connection, job):
    await evidence.add_receipt(connection, arrival(job.trial))
    await evidence.add_receipt(connection, arrival(job.trial, peer=ip_address("192.0.2.78")))
    assert len((await read(connection, job)).receipts) == 2


async def test_a_receipt_of_an_unknown_trial_is_kept(connection):
    assert await evidence.add_receipt(connection, arrival(999_999)) == (1, None)


async def test_the_message_is_kept_octet_by_octet(connection, job):
    await evidence.add_receipt(connection, arrival(job.trial))
    found = await pages.trial_evidence(connection, job.trial)
    assert found.receipts[0]["message"] == b"Subject: x\r\n\r\n\x00\xff"


VERDICT = Verdict(Finding.CLOSED, Reason.REFUSED, "high", "refused all", ("S-EXT/R-PLAIN",))


async def test_the_same_verdict_is_stored_once(connection, job):
    trial = await evidence.trial_of(connection, job.trial)
    assert await evidence.save_verdict(connection, trial, VERDICT)
    assert not await evidence.save_verdict(connection, trial, VERDICT)
    rows = await connection.fetch("SELECT * FROM relaytest.verdict_latest")
    assert [(row["address"], row["verdict"], row["reason"]) for row in rows] == [
        (TARGET, "closed", "refused")
    ]


async def test_the_latest_verdict_is_that_of_the_latest_trial(connection, job):
    """Even if an older trial is judged anew later, by a message that came back late."""
    old = await evidence.trial_of(connection, job.trial)
    await connection.execute(
        "INSERT INTO relaytest.trial (id, job, address, port, reason, requester)"
        " VALUES (1000, 1, $1, 25, 'operator', 'x')",
        TARGET,
    )
    new = await evidence.trial_of(connection, 1000)
    await evidence.save_verdict(connection, new, VERDICT)
    open_ = Verdict(Finding.OPEN, Reason.RELAYED, "high", "relays", ("S-EXT/R-PLAIN",))
    await evidence.save_verdict(connection, old, open_)
    assert (await connection.fetchval("SELECT verdict FROM relaytest.verdict_latest")) == "closed"
    assert await evidence.newer_finding(connection, old) is Finding.CLOSED
    assert await evidence.newer_finding(connection, new) is None


async def test_a_judged_trial_rests_until_its_time(connection, job):
    await save(connection, job)
    now = await connection.fetchval("SELECT now()")
    await evidence.settled(connection, job.trial, now + HOUR)
    assert await evidence.due_trial(connection) is None
    assert timedelta(minutes=59) < await evidence.next_settle(connection) <= HOUR
    await evidence.settled(connection, job.trial, None)
    assert await evidence.next_settle(connection) is None


async def test_two_schedulers_never_judge_one_trial_at_once(connection, dsn, job):
    await save(connection, job)
    other = await asyncpg.connect(dsn)
    async with connection.transaction(), other.transaction():
        assert await evidence.due_trial(connection) is not None
        assert await evidence.due_trial(other) is None
    await other.close()


async def checks(connection, *rows):
    """Insert sink checks: (minutes ago, came back)."""
    for minutes, came in rows:
        await connection.execute(
            "INSERT INTO relaytest.sink_check (sent_at, received_at)"
            " VALUES (now() - $1::interval, CASE WHEN $2 THEN now() END)",
            timedelta(minutes=minutes),
            came,
        )


@pytest.mark.parametrize(
    ("rows", "proven"),
    [
        ([], False),
        ([(55, True), (45, True), (35, True), (25, True), (15, True), (5, True)], True),
        ([(5, True)], False),
        ([(55, True), (45, True), (35, True), (25, True), (15, False), (5, True)], False),
        ([(55, False), (45, False), (35, False), (25, True), (15, True), (5, True)], False),
        ([(90, True), (80, True)], False),
    ],
    ids=["no-check", "all-came-back", "too-few", "lost-lately", "lost-long", "before-the-visit"],
)
async def test_the_sink_is_proven_only_by_messages_that_came_back(connection, job, rows, proven):
    await save(connection, job)
    await connection.execute("UPDATE relaytest.trial SET probed_at = now() - interval '1 hour'")
    await checks(connection, *rows)
    trial = await evidence.trial_of(connection, job.trial)
    found = await evidence.evidence_of(connection, trial, FORMS, timedelta(minutes=10))
    assert found.sink_proven is proven


async def test_a_sink_check_is_noted_once(connection):
    check = await evidence.begin_sink_check(connection)
    await evidence.end_sink_check(connection, check)
    first = await connection.fetchval("SELECT received_at FROM relaytest.sink_check")
    await evidence.end_sink_check(connection, check)
    assert first == await connection.fetchval("SELECT received_at FROM relaytest.sink_check")


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("UPDATE relaytest.trial SET visits = 1", "visited_has_a_time"),
        ("UPDATE relaytest.session SET at = '{1,2,3}'", "transcript_is_whole"),
        ("UPDATE relaytest.session SET purpose = 'x'", "purpose"),
        ("UPDATE relaytest.outcome SET code = NULL", "only_the_dot_may_go_unanswered"),
        ("UPDATE relaytest.outcome SET code = 199", "code"),
        ("UPDATE relaytest.outcome SET step = 'x'", "step"),
        ("UPDATE relaytest.receipt SET mailbox = 'self'", "mailbox"),
        ("UPDATE relaytest.verdict SET verdict = 'perhaps'", "verdict"),
        ("UPDATE relaytest.verdict SET confidence = 'x'", "confidence"),
        ("UPDATE relaytest.token_key SET key = 'short'", "key"),
    ],
)
async def test_a_broken_row_cannot_be_stored(connection, job, statement, constraint):
    await save(connection, job, ended=True)
    await evidence.add_receipt(connection, arrival(job.trial))
    await evidence.save_verdict(connection, await evidence.trial_of(connection, job.trial), VERDICT)
    if "trial SET visits" in statement:
        await connection.execute(
            "INSERT INTO relaytest.trial (id, job, address, port, reason, requester)"
            " VALUES (1000, 1, $1, 25, 'operator', 'x')",
            TARGET,
        )
        statement += " WHERE id = 1000"
    with pytest.raises(asyncpg.CheckViolationError, match=constraint):
        await connection.execute(statement)
