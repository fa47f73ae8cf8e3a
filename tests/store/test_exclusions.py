"""Exclusions: who is under one, since when, until when, and how they end."""

import asyncio
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import asyncpg
import pytest

from relaytest.store import exclusions, jobs
from tests.lab import until

A = ip_address("192.0.2.1")
NETWORK = ip_network("192.0.2.0/24")
FAR = datetime(2999, 1, 1, tzinfo=UTC)


async def exclude(connection, network="192.0.2.0/24", *, why="owner objects", until=None):
    async with connection.transaction():
        return await exclusions.exclude(
            connection, ip_network(network), why=why, actor="root", until=until
        )


async def why(connection, address="192.0.2.1"):
    return await exclusions.exclusion_of(connection, ip_address(address))


async def test_nobody_is_excluded_at_first(connection):
    assert await why(connection) is None
    assert await exclusions.barred(connection, [A]) == {}


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("192.0.2.0", True),
        ("192.0.2.255", True),
        ("192.0.3.0", False),
        ("2002:c000:207::1", True),
        ("64:ff9b::c000:207", True),
        ("2001:db8::1", False),
    ],
)
async def test_a_network_is_judged_by_value(connection, address, inside):
    await exclude(connection)
    found = await why(connection, address)
    assert found == ("192.0.2.0/24 is excluded from testing: owner objects" if inside else None)


async def test_the_narrowest_network_tells_the_reason(connection):
    await exclude(connection)
    await exclude(connection, "192.0.2.1/32", why="a trap of ours")
    assert "192.0.2.1/32 is excluded from testing: a trap" in await why(connection)
    rows = await exclusions.covering(connection, A)
    assert [str(row["network"]) for row in rows] == ["192.0.2.0/24", "192.0.2.1/32"]


async def test_many_are_asked_about_at_once(connection):
    await exclude(connection)
    six = ip_address("2001:db8::1")
    assert list(await exclusions.barred(connection, [A, A, six])) == [A]
    assert await exclusions.barred(connection, []) == {}


async def test_an_exclusion_ends_by_itself(connection):
    await exclude(connection, until=FAR)
    assert await why(connection)
    await connection.execute(
        "UPDATE relaytest.exclusion SET since = now() - interval '2 h', until = now()"
    )
    assert await why(connection) is None
    assert not await exclusions.include(connection, NETWORK, why="-", actor="root")


async def test_an_exclusion_is_ended_and_stays_on_file(connection):
    await exclude(connection)
    assert await exclusions.include(connection, NETWORK, why="agreed", actor="admin")
    assert not await exclusions.include(connection, NETWORK, why="agreed", actor="admin")
    assert await why(connection) is None
    row = await connection.fetchrow("SELECT actor, ended_by, ended_why FROM relaytest.exclusion")
    assert tuple(row) == ("root", "admin", "agreed")


async def test_a_second_word_on_the_same_network_replaces_the_first(connection):
    assert not await exclude(connection)
    assert await exclude(connection, why="for a while", until=FAR)
    (row,) = await exclusions.current(connection)
    assert (row["why"], row["until"]) == ("for a while", FAR)
    assert await connection.fetchval("SELECT count(*) FROM relaytest.exclusion") == 2


async def test_overlapping_exclusions_are_found(connection):
    await exclude(connection)
    await exclude(connection, "2001:db8::/32")
    for text in ("192.0.2.1/32", "192.0.0.0/16"):
        assert await exclusions.overlapping(connection, ip_network(text)) == [NETWORK]


async def test_an_insert_is_refused_with_the_reason_and_a_hint(connection):
    await exclude(connection)
    for address in ("192.0.2.1", "::ffff:192.0.2.1"):
        with pytest.raises(asyncpg.DataError, match=r"target 192\.0\.2\.1 is not tested: ") as told:
            await connection.execute(
                "INSERT INTO relaytest.retest (target, reason) VALUES ($1, 'operator')", address
            )
        assert "owner objects" in told.value.message
        assert "relaytest include NETWORK" in told.value.hint
    await jobs.enqueue(connection, jobs.Request("127.0.0.1", "operator"))


@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        ("('192.0.2.0/24', ' ')", "why"),
        ("('::ffff:192.0.2.0/120', 'x')", "excluded_in_one_spelling"),
    ],
)
async def test_a_broken_row_cannot_be_stored(connection, columns, constraint):
    with pytest.raises(asyncpg.CheckViolationError, match=constraint):
        await connection.execute(f"INSERT INTO relaytest.exclusion (network, why) VALUES {columns}")


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("until = since", "until_is_later"),
        ("ended_at = now()", "ended_by_somebody"),
        ("ended_at = now(), ended_by = 'x'", "ended_by_somebody"),
    ],
)
async def test_a_broken_change_cannot_be_stored(connection, change, constraint):
    await exclude(connection)
    with pytest.raises(asyncpg.CheckViolationError, match=constraint):
        await connection.execute(f"UPDATE relaytest.exclusion SET {change}")


async def test_many_exclusions_are_looked_up_by_their_index(connection):
    await connection.execute(
        "INSERT INTO relaytest.exclusion (network, why)"
        " SELECT set_masklen('11.0.0.0'::inet + n * 256, 24)::cidr, 'x'"
        " FROM generate_series(1, 20000) AS n"
    )
    await connection.execute("ANALYZE relaytest.exclusion")
    plan = await connection.fetch(
        "EXPLAIN SELECT FROM relaytest.exclusion WHERE ended_at IS NULL"
        " AND (network >>= '11.0.1.1'::inet OR network >>= relaytest.embedded_ipv4('11.0.1.1'))"
    )
    assert "exclusion_network" in "\n".join(row[0] for row in plan)
    assert await why(connection, "11.0.1.1")


async def test_what_ends_lies_ahead(connection):
    past = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(days=1)
    with pytest.raises(asyncpg.CheckViolationError, match="until_is_later"):
        await exclude(connection, until=past)


async def test_two_who_exclude_the_same_network_at_once_follow_each_other(connection, dsn):
    other = await asyncpg.connect(dsn)
    first = connection.transaction()
    await first.start()
    await exclusions.exclude(connection, NETWORK, why="one", actor="a", until=None)
    second = asyncio.ensure_future(exclude(other, why="two"))

    async def waits() -> bool | None:
        return await connection.fetchval(
            "SELECT count(*) > 0 OR NULL FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        )

    await until(waits, "the second one's turn to wait")
    await first.commit()
    assert await second is True
    await other.close()
    assert "two" in await why(connection)
