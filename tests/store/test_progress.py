"""How far a request is, at each stage of its job and trial."""

import pytest

from relaytest.store import jobs
from relaytest.store.progress import progress_of

A = "192.0.2.1"


@pytest.fixture
async def job(connection) -> int:
    return await jobs.enqueue(connection, jobs.Request(A, "operator"))


async def claimed(connection, job: int, trial=7) -> None:
    await connection.execute(
        "UPDATE relaytest.job SET leased = true, worker = 1, lease_until = now(), trial = $2"
        " WHERE id = $1",
        job,
        trial,
    )
    await connection.execute(
        "INSERT INTO relaytest.trial (id, job, address, port, reason, requester)"
        " SELECT $2, id, address, port, reason, requester FROM relaytest.job WHERE id = $1",
        job,
        trial,
    )


async def visited(connection, trial=7, *, answers=((0, "rcpt", 250),), settle=True) -> None:
    await connection.execute(
        "UPDATE relaytest.trial SET visits = 1, probed_at = now(), forms = '{1,2,3}', ended = true,"
        " settle_at = CASE WHEN $2 THEN now() END WHERE id = $1",
        trial,
        settle,
    )
    session = await connection.fetchval(
        "INSERT INTO relaytest.session (trial, visit, purpose, started_at, seconds, ended)"
        " VALUES ($1, 1, 'scout', now(), 1, 'complete') RETURNING id",
        trial,
    )
    for form, step, code in answers:
        await connection.execute(
            "INSERT INTO relaytest.outcome (session, trial, visit, form, step, code)"
            " VALUES ($1, $2, 1, $3, $4, $5)",
            session,
            trial,
            form,
            step,
            code,
        )


async def judged(connection, verdict: str, trial=7) -> None:
    await connection.execute(
        "INSERT INTO relaytest.verdict (trial, address, port, verdict, reason, confidence,"
        " explanation, forms) VALUES ($1, $2::text::inet, 25, $3, 'x', 'high', 'So it is.', '{}')",
        trial,
        A,
        verdict,
    )


async def ended(connection) -> None:
    await connection.execute("DELETE FROM relaytest.job")


async def test_what_waits_is_queued_behind_what_comes_first(connection, job):
    for host in ("192.0.2.2", "192.0.2.3"):
        await jobs.enqueue(connection, jobs.Request(host, "removal-request"))
    await jobs.enqueue(connection, jobs.Request("192.0.2.4", "recheck"))
    progress = await progress_of(connection, job)
    assert (progress.stage, progress.ahead, progress.trial) == ("queued", 2, None)
    assert progress.due_at is not None
    assert not progress.listed


async def test_its_place_is_found_without_reading_the_whole_queue(connection, job):
    await connection.execute(
        "INSERT INTO relaytest.job (address, port, reason, priority, run_at)"
        " SELECT '11.0.0.0'::inet + 256 * n, 25, 'recheck', n % 3, now() - n * interval '1 s'"
        " FROM generate_series(1, 20000) n"
    )
    await connection.execute("ANALYZE relaytest.job")
    async with connection.transaction():
        assert 900 <= (await progress_of(connection, job)).ahead <= 1000
        read = await connection.fetchval(
            "SELECT pg_stat_get_xact_tuples_returned('relaytest.job'::regclass)"
            " + pg_stat_get_xact_tuples_fetched('relaytest.job'::regclass)"
        )
    assert read < 8000


async def test_what_a_worker_has_is_being_tested(connection, job):
    await claimed(connection, job)
    progress = await progress_of(connection, job)
    assert (progress.stage, progress.trial, progress.due_at) == ("testing", 7, None)


async def test_a_trial_that_is_visited_again_is_for_later(connection, job):
    await claimed(connection, job)
    await visited(connection, answers=((0, "rcpt", 250), (1, "rcpt", 450)))
    await connection.execute(
        "UPDATE relaytest.job SET leased = false, worker = NULL, lease_until = NULL"
    )
    progress = await progress_of(connection, job)
    assert (progress.stage, progress.visits, progress.answered) == ("later", 1, 1)


async def test_what_was_taken_is_waited_for(connection, job):
    await claimed(connection, job)
    await visited(connection, answers=((1, "end-of-data", 250), (2, "rcpt", 550)))
    await ended(connection)
    await judged(connection, "unknown")
    progress = await progress_of(connection, job)
    assert (progress.stage, progress.forms, progress.answered) == ("waiting", 3, 2)
    assert (progress.accepted, progress.returned) == (1, 0)


async def test_copies_are_counted_and_notices_about_them_are_not(connection, job):
    await claimed(connection, job)
    await visited(connection, answers=((1, "end-of-data", 250), (2, "end-of-data", 250)))
    for form, header in ((1, "Subject: We hold your mail"), (2, "Message-ID: <7-2@x>")):
        await connection.execute(
            "INSERT INTO relaytest.receipt (trial, form, mailbox, peer, helo, reverse_path,"
            " forward_path, message, size) VALUES (7, $1, 'forward', '192.0.2.1', '', '', '',"
            " $2, 1)",
            form,
            f"{header}\r\n\r\nMessage-ID: <7-1@x>\r\n".encode(),
        )
    assert (await progress_of(connection, job)).returned == 1


@pytest.mark.parametrize("verdict", ["open", "closed", "unknown"])
async def test_with_the_last_verdict_it_is_done(connection, job, verdict):
    await claimed(connection, job)
    await visited(connection, settle=False)
    await ended(connection)
    await judged(connection, verdict)
    progress = await progress_of(connection, job)
    assert (progress.stage, progress.verdict["verdict"]) == ("done", verdict)


async def test_open_is_done_though_more_may_come_back(connection, job):
    await claimed(connection, job)
    await visited(connection)
    await ended(connection)
    await judged(connection, "open")
    assert (await progress_of(connection, job)).stage == "done"


async def test_before_the_judge_has_looked_it_is_not_done(connection, job):
    await claimed(connection, job)
    await visited(connection, settle=False)
    await ended(connection)
    assert (await progress_of(connection, job)).stage == "waiting"


async def test_what_was_asked_for_again_is_queued_anew(connection, job):
    await claimed(connection, job)
    await visited(connection, settle=False)
    await judged(connection, "closed")
    await connection.execute(
        "UPDATE relaytest.job SET leased = false, worker = NULL, lease_until = NULL, trial = NULL"
    )
    progress = await progress_of(connection, job)
    assert (progress.stage, progress.verdict) == ("queued", None)


async def test_what_never_was_is_told_so(connection):
    assert await progress_of(connection, 1) is None
