"""Listings: states, audit rows, expiry, rechecks, and what is published."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import asyncpg
import pytest

from relaytest.core.listing import BY_HAND, Event, State
from relaytest.store import exports, listings, pages
from relaytest.store.evidence import Trial
from relaytest.store.listings import Change

DAY = timedelta(days=1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
A = ip_address("192.0.2.1")


async def trial(connection, number=1, address=A, port=25) -> Trial:
    await connection.execute(
        "INSERT INTO relaytest.trial (id, job, address, port, reason, requester)"
        " VALUES ($1, 1, $2, $3, 'operator', 'x')",
        number,
        address,
        port,
    )
    return Trial(number, address, port, (), None, False, "operator", read_at=NOW)


async def enter(connection, found: Trial, expire=DAY * 30, recheck=DAY * 7):
    await listings.enter(connection, found, expire_after=expire, recheck_every=recheck)


async def exported(connection, version=4) -> bytes:
    parts: list[bytes] = []
    count = await exports.addresses(connection, version, parts.append, {2: ""})
    text = b"".join(parts)
    assert count == text.count(b"\n")
    return text


async def test_an_unknown_address_is_unlisted(connection):
    assert await listings.state_of(connection, A, 25) == (State.UNLISTED, None)
    assert await listings.code_of(connection, A) is None


async def test_a_listing_is_published_until_it_leaves(connection):
    found = await trial(connection)
    await enter(connection, found)
    assert await listings.state_of(connection, A, 25) == (State.LISTED, 1)
    assert await listings.code_of(connection, A) == 2
    assert await exported(connection) == b"192.0.2.1\n"
    await listings.leave(connection, A, 25, 1)
    assert await listings.state_of(connection, A, 25) == (State.UNLISTED, 1)
    assert await exported(connection) == b""


async def test_renewal_keeps_the_beginning_and_moves_the_end(connection):
    await enter(connection, await trial(connection, 1))
    first = await connection.fetchrow("SELECT * FROM relaytest.listing")
    await enter(connection, await trial(connection, 2), expire=DAY * 60)
    second = await connection.fetchrow("SELECT * FROM relaytest.listing")
    assert second["listed_at"] == first["listed_at"]
    assert second["expires_at"] > first["expires_at"]
    assert second["trial"] == 2


async def test_an_address_open_on_two_ports_is_published_once_until_both_are_closed(connection):
    await enter(connection, await trial(connection, 1, port=25))
    await enter(connection, await trial(connection, 2, port=587))
    assert await exported(connection) == b"192.0.2.1\n"
    await listings.leave(connection, A, 25, 1)
    assert await exported(connection) == b"192.0.2.1\n"
    await listings.leave(connection, A, 587, 2)
    assert await exported(connection) == b""


async def test_an_expired_listing_is_not_published_even_before_it_is_taken_off(connection):
    await enter(connection, await trial(connection), expire=-DAY)
    assert await exported(connection) == b""
    assert await listings.code_of(connection, A) is None
    assert await listings.expired(connection) == [(A, 25)]


async def test_a_due_recheck_asks_for_one_job_and_then_waits(connection):
    await enter(connection, await trial(connection), recheck=-DAY)
    assert await listings.recheck(connection, DAY) == 1
    assert await listings.recheck(connection, DAY) == 0
    (job,) = await connection.fetch("SELECT target, reason, priority FROM relaytest.retest")
    assert tuple(job) == ("192.0.2.1", "recheck", 2)


async def test_every_change_has_its_audit_row_and_rings(connection, dsn):
    ears = await asyncpg.connect(dsn)
    heard: list[int] = []
    await ears.add_listener("relaytest_listing", lambda *_: heard.append(1))
    await trial(connection)
    await listings.note_change(
        connection,
        Change(A, 25, Event.FOUND_OPEN, State.UNLISTED, State.LISTED, 1, "it relays", "root"),
    )
    while not heard:
        await ears.fetchval("SELECT 1")
    await ears.close()
    (row,) = (await pages.standing_of(connection, A)).history
    assert tuple(row)[2:-1] == ("found-open", "unlisted", "listed", "it relays", 1, "root")


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.0.0.2", "127.0.0.3", "::ffff:127.0.0.1", "::ffff:1.2.3.4"]
)
async def test_test_entries_and_mapped_addresses_can_never_be_listed(connection, address):
    found = await trial(connection, address=ip_address(address))
    with pytest.raises(asyncpg.CheckViolationError, match="listing_is_no_test_entry"):
        await enter(connection, found)


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("address = '192.0.2.0/24'", "listing_is_a_host"),
        ("state = 'unlisted'", "listed_has_times"),
        ("state = 'suspected'", "listed_has_times"),
        ("state = 'suspicious', listed_at = NULL", "listing_state"),
        ("expires_at = NULL", "listed_has_times"),
        ("code = 1", "code"),
    ],
)
async def test_a_broken_row_cannot_be_stored(connection, change, constraint):
    await enter(connection, await trial(connection))
    with pytest.raises(asyncpg.CheckViolationError, match=constraint):
        await connection.execute(f"UPDATE relaytest.listing SET {change}")


# --- suspicions


async def suspect(connection, found: Trial, *, confirm=DAY):
    await listings.suspect(connection, found, expire_after=DAY * 30, confirm_after=confirm)


async def row_of(connection):
    return await connection.fetchrow(
        "SELECT state, listed_at, expires_at - changed_at AS left, recheck_at - changed_at AS test"
        " FROM relaytest.listing"
    )


async def test_a_suspicion_is_not_published(connection):
    await suspect(connection, await trial(connection))
    assert await listings.state_of(connection, A, 25) == (State.SUSPECTED, 1)
    assert await exported(connection) == b""
    assert tuple(await row_of(connection)) == ("suspected", None, DAY * 30, DAY)


async def test_a_suspicion_that_needs_no_further_trial_is_not_tested(connection):
    await suspect(connection, await trial(connection), confirm=None)
    assert (await row_of(connection))["test"] is None


async def test_a_test_on_the_same_day_does_not_put_off_the_confirming_one(connection):
    await suspect(connection, await trial(connection, 1), confirm=DAY)
    await suspect(connection, await trial(connection, 2), confirm=DAY * 3)
    assert (await row_of(connection))["test"] < DAY
    assert await listings.state_of(connection, A, 25) == (State.SUSPECTED, 2)


async def test_a_suspicion_becomes_a_listing_and_back(connection):
    found = await trial(connection)
    await suspect(connection, found)
    await enter(connection, found)
    assert await exported(connection) == b"192.0.2.1\n"
    await suspect(connection, found)
    assert (await row_of(connection))["listed_at"] is None


async def test_a_suspicion_is_rechecked_to_confirm_it_and_expires(connection):
    await suspect(connection, await trial(connection), confirm=-DAY)
    assert await listings.recheck(connection, DAY * 7, DAY * 2) == 1
    (job,) = await connection.fetch("SELECT reason, note FROM relaytest.retest")
    assert tuple(job) == ("recheck", "to confirm that it relays")
    wait = await connection.fetchval("SELECT recheck_at - now() FROM relaytest.listing")
    assert DAY < wait <= DAY * 2
    await connection.execute("UPDATE relaytest.listing SET expires_at = now()")
    assert await listings.expired(connection) == [(A, 25)]


@pytest.mark.parametrize(
    ("left", "next_in"),
    [(DAY * 10, DAY * 7), (DAY * 5, DAY * 4), (DAY * 1.5, DAY), (DAY / 2, DAY)],
    ids=["far", "last-one-a-day-before", "not-twice-a-day", "over"],
)
async def test_the_last_recheck_is_a_day_before_the_end(connection, left, next_in):
    await enter(connection, await trial(connection), expire=left, recheck=-DAY)
    assert await listings.recheck(connection, DAY * 7) == 1
    wait = await connection.fetchval("SELECT recheck_at - now() FROM relaytest.listing")
    assert abs(wait - next_in) < timedelta(minutes=5)


# --- trials that relayed


async def judged(connection, number, *verdicts, ago=timedelta(0)):
    await trial(connection, number)
    await connection.execute(
        "UPDATE relaytest.trial SET started_at = now() - $2::interval WHERE id = $1", number, ago
    )
    for verdict in verdicts:
        await connection.execute(
            "INSERT INTO relaytest.verdict (trial, address, port, verdict, reason, confidence,"
            " explanation, forms, decided_at)"
            " VALUES ($1, $2, 25, $3, '-', 'high', '-', '{S-EXT/R-PLAIN}', now() - $4::interval)",
            number,
            A,
            verdict,
            ago,
        )


async def relayed(connection) -> int:
    return len(await listings.relayed_at(connection, A, 25, DAY * 30))


async def test_trials_that_relayed_count_by_their_last_verdict(connection):
    await judged(connection, 1, "unknown", "open", ago=DAY * 3)
    await judged(connection, 2, "unknown", ago=DAY * 2)
    await judged(connection, 3, "closed", "open", ago=DAY)
    assert await relayed(connection) == 2


async def test_trials_before_one_that_was_closed_count_no_more(connection):
    await judged(connection, 1, "open", ago=DAY * 3)
    await judged(connection, 2, "closed", ago=DAY * 2)
    await judged(connection, 3, "open", ago=DAY)
    assert await relayed(connection) == 1


async def test_trials_of_long_ago_count_no_more(connection):
    await judged(connection, 1, "open", ago=DAY * 31)
    assert await relayed(connection) == 0


@pytest.mark.parametrize("event", BY_HAND)
async def test_trials_from_before_the_administrator_took_it_off_count_no_more(connection, event):
    await judged(connection, 1, "open", ago=DAY)
    change = Change(A, 25, event, State.LISTED, State.UNLISTED, None, "mistake", "root")
    await listings.note_change(connection, change)
    await judged(connection, 2, "open", ago=-DAY)
    assert await relayed(connection) == 1
    overruled = [
        await listings.overruled(
            connection, Trial(number, A, 25, (), None, True, "operator", read_at=NOW)
        )
        for number in (1, 2)
    ]
    assert overruled == [True, False]


# --- what a purge takes


async def decided(connection, *, since=DAY, form=None) -> list[int]:
    now = await connection.fetchval("SELECT now()")
    found = await listings.decided_since(connection, now - since, form, 100)
    return [one.trial for one in found]


async def test_a_purge_goes_by_when_the_deciding_trial_was_first_found_open(connection):
    await judged(connection, 1, "open", ago=DAY * 2)
    await enter(connection, Trial(1, A, 25, (), None, True, "operator", read_at=NOW))
    await judged(connection, 2, "open", ago=DAY / 2)
    assert await decided(connection) == []
    assert await decided(connection, since=DAY * 3) == [1]
    await enter(connection, Trial(2, A, 25, (), None, True, "operator", read_at=NOW))
    assert await decided(connection) == [2]


async def test_a_purge_of_a_form_spares_who_is_proven_by_another(connection):
    await judged(connection, 1, "open")
    await enter(connection, Trial(1, A, 25, (), None, True, "operator", read_at=NOW))
    assert await decided(connection, form="S-EXT/R-PLAIN") == [1]
    assert await decided(connection, form="S-NULL/R-PLAIN") == []
    await connection.execute(
        "UPDATE relaytest.verdict SET forms = '{S-EXT/R-PLAIN,S-NULL/R-PLAIN}'"
    )
    assert await decided(connection, form="S-EXT/R-PLAIN") == []


async def test_a_purge_takes_suspicions_and_not_what_is_off_already(connection):
    await judged(connection, 1, "open")
    await suspect(connection, Trial(1, A, 25, (), None, True, "operator", read_at=NOW))
    assert await decided(connection) == [1]
    await listings.leave(connection, A, 25, None)
    assert await decided(connection) == []


# --- every change has exactly one audit row


async def audit(connection) -> list[tuple[str, str, str]]:
    rows = await connection.fetch(
        "SELECT event, old, new FROM relaytest.listing_change ORDER BY id"
    )
    return [tuple(row) for row in rows]


async def test_a_change_by_sql_gets_its_row_with_who_made_it(connection):
    await enter(connection, await trial(connection))
    await connection.execute(
        "UPDATE relaytest.listing SET state = 'unlisted', listed_at = NULL, expires_at = NULL"
    )
    await connection.execute("DELETE FROM relaytest.listing")  # unlisted: no change
    assert await audit(connection) == [
        ("changed-by-sql", "unlisted", "listed"),
        ("changed-by-sql", "listed", "unlisted"),
    ]
    actor = await connection.fetchval("SELECT DISTINCT actor FROM relaytest.listing_change")
    assert actor == await connection.fetchval("SELECT session_user")


async def test_a_row_that_is_deleted_is_a_change(connection):
    await enter(connection, await trial(connection))
    await connection.execute("DELETE FROM relaytest.listing")
    assert (await audit(connection))[-1] == ("changed-by-sql", "listed", "unlisted")


async def test_a_renewal_is_no_change_of_the_state(connection):
    for number in (1, 2):
        await enter(connection, await trial(connection, number))
    assert len(await audit(connection)) == 1


async def list_with_rows(connection, rows: int) -> None:
    """List a target in one transaction, with so many audit rows."""
    change = Change(A, 25, Event.FOUND_OPEN, State.UNLISTED, State.LISTED, 1, "it relays")
    async with connection.transaction():
        await enter(connection, await trial(connection))
        for _ in range(rows):
            await listings.note_change(connection, change)


async def test_the_programs_own_row_is_the_only_one(connection):
    await list_with_rows(connection, 1)
    assert await audit(connection) == [("found-open", "unlisted", "listed")]


async def test_two_rows_for_one_change_are_refused(connection):
    with pytest.raises(asyncpg.CheckViolationError, match="2 audit rows for one change"):
        await list_with_rows(connection, 2)
    assert await audit(connection) == []
