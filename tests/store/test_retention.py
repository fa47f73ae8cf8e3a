"""Retention: what is old goes, what is listed stays, and the history stays for good."""

from datetime import timedelta

import pytest

from relaytest.store import retention

DAY = timedelta(days=1)
TABLES = ("outcome", "session", "receipt", "verdict", "trial", "listing", "listing_change")


async def on_file(connection, trial: int, *, age: timedelta, state: str | None = None) -> None:
    """A trial of a target of its own, with one of everything."""
    await connection.execute(
        "INSERT INTO relaytest.trial (id, job, address, port, reason, requester, started_at)"
        " VALUES ($1, 1, '192.0.2.0'::inet + $1, 25, 'nominated', 'test', now() - $2::interval)",
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
        " forward_path, message, size) VALUES ($1, 1, 'forward', '192.0.2.1', '', '', '', '', 0)",
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


async def test_old_evidence_goes_and_the_verdict_stays(connection):
    await on_file(connection, 1, age=91 * DAY, state="unlisted")
    await on_file(connection, 2, age=89 * DAY)
    assert await retention.forget_evidence(connection, 90 * DAY, 10) == 1
    assert await retention.forget_evidence(connection, 90 * DAY, 10) == 0
    left = await kept(connection)
    assert [left[table] for table in TABLES[:5]] == [1, 1, 1, 2, 2]


@pytest.mark.parametrize("state", ["listed", "suspected"])
async def test_the_evidence_of_what_is_listed_stays(connection, state):
    await on_file(connection, 1, age=1000 * DAY, state=state)
    before = await kept(connection)
    assert await retention.forget_evidence(connection, 90 * DAY, 10) == 0
    assert await retention.forget_trials(connection, 730 * DAY, 10) == 0
    assert await kept(connection) == before


async def test_what_is_still_tested_or_judged_stays(connection):
    await on_file(connection, 1, age=91 * DAY)
    await on_file(connection, 2, age=91 * DAY)
    await connection.execute("UPDATE relaytest.trial SET settle_at = now() WHERE id = 1")
    await connection.execute(
        "INSERT INTO relaytest.job (address, reason, priority, trial)"
        " VALUES ('192.0.2.2', 'operator', 1, 2)"
    )
    assert await retention.forget_evidence(connection, 90 * DAY, 10) == 0


async def test_old_trials_go_and_the_history_of_listings_stays(connection):
    await on_file(connection, 1, age=800 * DAY, state="listed")
    await connection.execute(
        "UPDATE relaytest.listing SET state = 'unlisted', listed_at = NULL, expires_at = NULL"
    )
    assert await retention.forget_evidence(connection, 90 * DAY, 10) == 1
    assert await retention.forget_trials(connection, 730 * DAY, 10) == 1
    left = await kept(connection)
    assert [left[table] for table in TABLES[:6]] == [0] * 6
    assert left["listing_change"] == 2


async def test_it_goes_in_steps(connection):
    for trial in range(1, 6):
        await on_file(connection, trial, age=91 * DAY)
    steps = [await retention.forget_evidence(connection, 90 * DAY, 2) for _ in range(4)]
    assert steps == [2, 2, 1, 0]
