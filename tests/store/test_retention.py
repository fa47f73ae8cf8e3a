"""Retention: months begin and go, what is listed stays, and the history stays for good."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from relaytest.store import retention

DAY = timedelta(days=1)
MONTH = 1 << 30  # trials
TABLES = ("outcome", "session", "receipt", "verdict", "trial", "listing", "listing_change")


async def on_file(connection, trial: int, *, age: timedelta, state: str | None = None) -> None:
    """A trial of a target of its own, with one of everything."""
    await connection.execute(
        "INSERT INTO relaytest.trial (id, job, address, port, reason, requester, started_at)"
        " VALUES ($1, 1, '192.0.2.0'::inet + $1::bigint % 251, 25, 'nominated', 'test',"
        " now() - $2::interval)",
        trial,
        age,
    )
    await connection.execute(
        "WITH s AS (INSERT INTO relaytest.session (trial, visit, purpose, started_at, seconds,"
        " ended) VALUES ($1, 1, 'scout', now(), 1, 'complete') RETURNING id)"
        " INSERT INTO relaytest.outcome (session, trial, visit, form, step, code)"
        " SELECT id, $1, 1, 1, 'rcpt', 250 FROM s",
        trial,
    )
    await connection.execute(
        "INSERT INTO relaytest.receipt (trial, form, mailbox, peer, helo, reverse_path,"
        " forward_path, message, size)"
        " VALUES ($1, 1, 'forward', '192.0.2.1', '', '', '', 'abc', 3)",
        trial,
    )
    await connection.execute(
        "INSERT INTO relaytest.verdict (trial, address, port, verdict, reason, confidence,"
        " explanation, forms) SELECT id, address, port, 'open', 'relayed', 'high', 'x', '{}'"
        " FROM relaytest.trial WHERE id = $1",
        trial,
    )
    if state is not None:
        await connection.execute(
            "INSERT INTO relaytest.listing (address, port, state, trial, listed_at, expires_at)"
            " SELECT address, port, $2, id, CASE $2 WHEN 'listed' THEN now() END,"
            " CASE $2 WHEN 'unlisted' THEN NULL ELSE now() + interval '1 d' END"
            " FROM relaytest.trial WHERE id = $1",
            trial,
            state,
        )


async def kept(connection) -> dict[str, int]:
    return {
        table: await connection.fetchval(f"SELECT count(*) FROM relaytest.{table}")
        for table in TABLES
    }


async def months_pass(connection, *ages: timedelta) -> None:
    """Let a month have ended that long ago, and the next, and so on."""
    for age in ages:
        await connection.execute(
            "UPDATE relaytest.trial_partition SET begun_at = now() - $1::interval - interval '32 d'"
            " WHERE begun_at IS NOT NULL AND ended_at IS NULL",
            age,
        )
        await retention.make_partitions(connection)
        await connection.execute(
            "UPDATE relaytest.trial_partition SET ended_at = now() - $1::interval"
            " WHERE ended_at = (SELECT max(ended_at) FROM relaytest.trial_partition)",
            age,
        )


async def forgotten(connection, older: timedelta = 90 * DAY) -> int:
    return await retention.forget_evidence(connection, older)


# --- Months


async def test_the_next_month_is_made_ahead(connection):
    rows = "SELECT number, begun_at IS NULL, ended_at IS NULL FROM relaytest.trial_partition"
    assert [tuple(row) for row in await connection.fetch(rows)] == [
        (0, False, True),
        (1, True, True),
    ]
    assert await retention.make_partitions(connection) == 0


async def test_with_the_month_trials_go_on_in_the_next_partition(connection):
    first = await connection.fetchval("SELECT nextval('relaytest.trial_id')")
    await months_pass(connection, 0 * DAY)
    second = await connection.fetchval("SELECT nextval('relaytest.trial_id')")
    assert (first // MONTH, second) == (0, MONTH)
    await on_file(connection, first, age=DAY)
    await on_file(connection, second, age=DAY)
    rows = "SELECT tableoid::regclass::text FROM relaytest.session ORDER BY trial"
    assert [row[0] for row in await connection.fetch(rows)] == [
        "relaytest.session_p0",
        "relaytest.session_p1",
    ]
    assert await connection.fetchval("SELECT max(number) FROM relaytest.trial_partition") == 2


async def test_schedulers_that_begin_a_month_at_once_begin_one(dsn, connection):
    await connection.execute(
        "UPDATE relaytest.trial_partition SET begun_at = begun_at - interval '32 d'"
    )
    others = [await asyncpg.connect(dsn) for _ in range(3)]
    async with asyncio.TaskGroup() as group:
        made = [group.create_task(retention.make_partitions(one)) for one in others]
    assert sorted(one.result() for one in made) == [0, 0, 1]
    assert await connection.fetchval("SELECT nextval('relaytest.trial_id')") == MONTH
    for one in others:
        await one.close()


async def test_a_month_whose_beginning_was_broken_off_is_finished(connection):
    """The sequence has jumped, and the rest was rolled back."""
    await connection.execute("SELECT setval('relaytest.trial_id', $1, false)", MONTH)
    assert await retention.make_partitions(connection) == 1
    rows = (
        "SELECT begun_at IS NULL, ended_at IS NULL FROM relaytest.trial_partition ORDER BY number"
    )
    assert [tuple(row) for row in await connection.fetch(rows)] == [
        (False, False),
        (False, True),
        (True, True),
    ]


@pytest.mark.parametrize("table", ["session", "outcome", "receipt", "verdict"])
async def test_who_asks_for_a_trial_reads_one_month(connection, table):
    await months_pass(connection, 0 * DAY)
    plan = await connection.fetch(f"EXPLAIN SELECT * FROM relaytest.{table} WHERE trial = {MONTH}")
    assert f"{table}_p1" in str(plan)
    assert f"{table}_p0" not in str(plan)
    assert f"{table}_p2" not in str(plan)


# --- What goes and what stays


async def test_old_evidence_goes_and_the_verdict_stays(connection):
    await on_file(connection, 1, age=200 * DAY, state="unlisted")
    await months_pass(connection, 91 * DAY)
    await on_file(connection, MONTH, age=91 * DAY)
    assert [await forgotten(connection) for _ in range(2)] == [1, 0]
    left = await kept(connection)
    assert [left[table] for table in TABLES[:5]] == [1, 1, 1, 2, 2]
    assert await connection.fetchval("SELECT min(trial) FROM relaytest.session") == MONTH


async def test_of_a_message_its_hash_stays(connection):
    await on_file(connection, 1, age=200 * DAY)
    await months_pass(connection, 91 * DAY)
    assert await forgotten(connection) == 1
    row = await connection.fetchrow("SELECT * FROM relaytest.receipt_digest")
    assert (row["trial"], row["mailbox"], row["size"]) == (1, "forward", 3)
    assert row["sha256"].hex().startswith("ba7816bf8f01cfea")  # of abc


async def test_a_month_goes_when_its_youngest_is_old_enough(connection):
    await on_file(connection, 1, age=119 * DAY)
    await months_pass(connection, 89 * DAY)
    assert await forgotten(connection) == 0
    assert await forgotten(connection, 88 * DAY) == 1


@pytest.mark.parametrize("state", ["listed", "suspected"])
async def test_the_evidence_of_what_is_listed_stays(connection, state):
    await on_file(connection, 1, age=1000 * DAY, state=state)
    await on_file(connection, 2, age=1000 * DAY)
    await months_pass(connection, 999 * DAY)
    whole = "SELECT s FROM relaytest.session AS s WHERE trial = 1"
    mail = "SELECT r FROM relaytest.receipt AS r WHERE trial = 1"
    before = await connection.fetchval(whole), await connection.fetchval(mail)
    assert [await forgotten(connection) for _ in range(2)] == [1, 0]
    assert await retention.forget_trials(connection, 730 * DAY, 10) == 0
    assert (await connection.fetchval(whole), await connection.fetchval(mail)) == before
    left = await kept(connection)
    assert [left[table] for table in TABLES[:5]] == [1, 1, 1, 2, 2]


async def test_it_goes_when_it_is_listed_no_more(connection):
    await on_file(connection, 1, age=1000 * DAY, state="listed")
    await on_file(connection, 2, age=1000 * DAY)
    await months_pass(connection, 999 * DAY)
    assert await forgotten(connection) == 1
    await connection.execute(
        "UPDATE relaytest.listing SET state = 'unlisted', listed_at = NULL, expires_at = NULL"
    )
    assert [await forgotten(connection) for _ in range(2)] == [1, 0]
    assert (await kept(connection))["session"] == 0


async def test_what_is_still_tested_or_judged_stays(connection):
    for trial in (1, 2, 3):
        await on_file(connection, trial, age=200 * DAY)
    await connection.execute("UPDATE relaytest.trial SET settle_at = now() WHERE id = 1")
    await connection.execute(
        "INSERT INTO relaytest.job (address, reason, priority, trial)"
        " VALUES ('192.0.2.2', 'operator', 1, 2)"
    )
    await months_pass(connection, 91 * DAY)
    assert await forgotten(connection) == 1
    rows = await connection.fetch("SELECT trial FROM relaytest.outcome ORDER BY trial")
    assert [row[0] for row in rows] == [1, 2]


async def test_old_trials_go_and_the_history_of_listings_stays(connection):
    await on_file(connection, 1, age=1000 * DAY, state="listed")
    await connection.execute(
        "UPDATE relaytest.listing SET state = 'unlisted', listed_at = NULL, expires_at = NULL"
    )
    await months_pass(connection, 800 * DAY, 700 * DAY)
    await on_file(connection, MONTH, age=710 * DAY)
    assert await retention.forget_trials(connection, 730 * DAY, 10) == 1
    left = await kept(connection)
    assert [left[table] for table in TABLES[:6]] == [1, 1, 1, 1, 1, 0]
    assert left["listing_change"] == 2
    assert await connection.fetchval("SELECT to_regclass('relaytest.verdict_p0')") is None
    assert await connection.fetchval("SELECT min(number) FROM relaytest.trial_partition") == 1
    assert await forgotten(connection, 1000 * DAY) == 0


async def test_trials_go_in_steps(connection):
    for trial in range(1, 6):
        await on_file(connection, trial, age=1000 * DAY)
    await months_pass(connection, 800 * DAY)
    steps = [await retention.forget_trials(connection, 730 * DAY, 2) for _ in range(4)]
    assert steps == [2, 2, 1, 0]
    assert await kept(connection) == dict.fromkeys(TABLES, 0)


async def test_who_reads_an_old_month_is_not_disturbed(dsn, connection):
    """A dump, say."""
    await on_file(connection, 1, age=1000 * DAY)
    await months_pass(connection, 800 * DAY)
    reader = await asyncpg.connect(dsn)
    async with reader.transaction():
        assert await reader.fetchval("SELECT count(*) FROM relaytest.session") == 1
        assert await forgotten(connection) is None
        assert await retention.forget_trials(connection, 730 * DAY, 10) is None
    assert await forgotten(connection) == 1
    assert await retention.forget_trials(connection, 730 * DAY, 10) == 1
    await reader.close()


async def test_late_mail_for_an_old_month_is_kept_until_it_is_judged(connection):
    await on_file(connection, 1, age=1000 * DAY)
    await months_pass(connection, 400 * DAY)
    assert await forgotten(connection) == 1
    await connection.execute(
        "INSERT INTO relaytest.receipt (trial, form, mailbox, peer, helo, reverse_path,"
        " forward_path, message, size) VALUES (1, 2, 'forward', '192.0.2.1', '', '', '', 'x', 1)"
    )
    await connection.execute("UPDATE relaytest.trial SET settle_at = now()")
    assert await forgotten(connection) == 0
    await connection.execute("UPDATE relaytest.trial SET settle_at = NULL")
    assert await forgotten(connection) == 1
    assert await connection.fetchval("SELECT count(*) FROM relaytest.receipt_digest") == 2
