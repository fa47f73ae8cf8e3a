"""Pauses: of one place, of a network or of all, one at a time, with their history."""

from datetime import timedelta
from ipaddress import ip_network

import pytest

from relaytest.store import jobs, pauses
from relaytest.store.pauses import Part

ALL, EAST = Part(), Part("east")
NET = Part(network=ip_network("192.0.2.0/28"))
MINUTE = timedelta(minutes=1)


async def test_a_pause_holds_where_it_was_said(connection):
    assert await pauses.begin(connection, EAST, "a complaint", "ann")
    assert await pauses.paused(connection, "east") == (True, False)
    assert await pauses.paused(connection, "west") == (False, False)
    assert await pauses.begin(connection, ALL, "all of it", "ann")
    assert await pauses.paused(connection, "west") == (True, False)
    assert not await pauses.begin(connection, ALL, "again", "bob")
    (first, second) = await pauses.current(connection)
    assert (first["vantage"], first["why"], second["actor"]) == ("", "all of it", "ann")


async def test_a_pause_ends_and_wakes_the_workers(connection):
    heard = []
    await connection.add_listener("relaytest_job", lambda *_: heard.append(1))
    await pauses.begin(connection, ALL, "x", "ann")
    assert not await pauses.end(connection, EAST, "bob")
    assert not await pauses.end(connection, NET, "bob")
    assert await pauses.end(connection, ALL, "bob")
    assert not await pauses.end(connection, ALL, "bob")
    assert await pauses.paused(connection, "east") == (False, False)
    assert await pauses.begin(connection, ALL, "once more", "ann")
    await connection.fetchval("SELECT 1")
    assert heard == [1]


@pytest.fixture
async def claim(connection):
    """Claims all that is due."""
    worker = await jobs.join_workers(
        connection, host="h", pid=1, vantage="default", version="1", slots=10
    )
    for host in (1, 14, 16, 200):
        request = jobs.Request(f"192.0.2.{host}", "operator")
        await jobs.enqueue(connection, request)

    async def some() -> dict[int, str]:
        claimed = await jobs.claim(connection, worker, 10, MINUTE)
        return {job.id: str(job.address) for job in claimed}

    return some


async def test_jobs_of_a_paused_network_wait_for_its_end_and_no_others(connection, claim):
    await connection.execute("UPDATE relaytest.network_limit SET at_once = NULL")
    await pauses.begin(connection, NET, "its owner asks", "ann")
    assert await pauses.paused(connection, "west") == (False, True)
    claimed = await claim()
    held = await pauses.hold(connection, list(claimed))
    assert {claimed[job] for job in held} == {"192.0.2.1", "192.0.2.14"}
    assert await claim() == {}
    rows = await connection.fetch(
        "SELECT run_at > now() AS later FROM relaytest.job WHERE NOT leased"
    )
    assert [row["later"] for row in rows] == [True, True]
    await pauses.end(connection, NET, "bob")
    assert set((await claim()).values()) == {"192.0.2.1", "192.0.2.14"}


async def test_a_long_pause_puts_its_jobs_off_for_as_long_again(connection, claim):
    await pauses.begin(connection, NET, "x", "ann")
    await connection.execute("UPDATE relaytest.pause SET since = now() - interval '5 h'")
    await pauses.hold(connection, list(await claim()))
    row = await connection.fetchrow(
        "SELECT min(run_at) - now() AS pause, count(*) FROM relaytest.job WHERE held_by IS NOT NULL"
    )
    assert (row["pause"] > timedelta(hours=4, minutes=59), row["count"]) == (True, 2)


async def test_what_is_inside_another_address_is_paused_with_it(connection, claim):
    await claim()
    job = await connection.fetchval(
        "INSERT INTO relaytest.job (address, reason, priority)"
        " VALUES ('2002:c000:0201::1', 'operator', 1) RETURNING id"
    )
    await pauses.begin(connection, NET, "x", "ann")
    assert await pauses.hold(connection, [job]) == {job}


async def test_a_deferred_job_is_not_pulled_forward_by_the_end_of_a_pause(connection, claim):
    await pauses.begin(connection, NET, "x", "ann")
    await connection.execute("UPDATE relaytest.job SET run_at = now() + interval '4 h'")
    await pauses.end(connection, NET, "bob")
    assert await claim() == {}


async def test_a_place_and_a_network_are_not_paused_together(connection):
    with pytest.raises(Exception, match="place_or_network"):
        await pauses.begin(connection, Part("east", NET.network), "x", "ann")
