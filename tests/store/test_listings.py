"""Listings: states, audit rows, expiry, rechecks, and what is published."""

from datetime import timedelta
from ipaddress import ip_address

import asyncpg
import pytest

from relaytest.core.listing import Event, State
from relaytest.store import listings, pages
from relaytest.store.evidence import Trial

DAY = timedelta(days=1)
A = ip_address("192.0.2.1")


async def trial(connection, number=1, address=A, port=25) -> Trial:
    await connection.execute(
        "INSERT INTO relaytest.trial (id, job, address, port, reason, requester)"
        " VALUES ($1, 1, $2, $3, 'operator', 'x')",
        number,
        address,
        port,
    )
    return Trial(number, address, port, (), None, False, "operator")


async def enter(connection, found: Trial, expire=DAY * 30, recheck=DAY * 7):
    await listings.enter(connection, found, expire_after=expire, recheck_every=recheck)


async def exported(connection, version=4) -> bytes:
    parts: list[bytes] = []
    count = await listings.export(connection, version, parts.append)
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


async def test_the_export_is_sorted_by_address_and_by_version(connection):
    for number, text in enumerate(["192.0.2.10", "192.0.2.9", "2001:db8::2", "2001:db8::1"]):
        await enter(connection, await trial(connection, number + 1, ip_address(text)))
    assert await exported(connection, 4) == b"192.0.2.9\n192.0.2.10\n"
    assert await exported(connection, 6) == b"2001:db8::1\n2001:db8::2\n"


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
        (A, 25),
        Event.FOUND_OPEN,
        (State.UNLISTED, State.LISTED),
        trial=1,
        why="it relays",
    )
    while not heard:
        await ears.fetchval("SELECT 1")
    await ears.close()
    (row,) = (await pages.standing_of(connection, A)).history
    assert (row["event"], row["old"], row["new"], row["why"], row["trial"]) == (
        "found-open",
        "unlisted",
        "listed",
        "it relays",
        1,
    )


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
        ("expires_at = NULL", "listed_has_times"),
        ("code = 1", "code"),
    ],
)
async def test_a_broken_row_cannot_be_stored(connection, change, constraint):
    await enter(connection, await trial(connection))
    with pytest.raises(asyncpg.CheckViolationError, match=constraint):
        await connection.execute(f"UPDATE relaytest.listing SET {change}")
