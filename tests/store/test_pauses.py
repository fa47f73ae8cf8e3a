"""Pauses: of one place or of all, one at a time, with their history."""

from relaytest.store import pauses


async def test_a_pause_holds_where_it_was_said(connection):
    assert await pauses.begin(connection, "east", "a complaint", "ann")
    assert await pauses.paused(connection, "east")
    assert not await pauses.paused(connection, "west")
    assert await pauses.begin(connection, "", "all of it", "ann")
    assert await pauses.paused(connection, "west")
    assert not await pauses.begin(connection, "", "again", "bob")
    (first, second) = await pauses.current(connection)
    assert (first["vantage"], first["why"], second["actor"]) == ("", "all of it", "ann")


async def test_a_pause_ends_and_wakes_the_workers(connection):
    heard = []
    await connection.add_listener("relaytest_job", lambda *_: heard.append(1))
    await pauses.begin(connection, "", "x", "ann")
    assert not await pauses.end(connection, "east", "bob")
    assert await pauses.end(connection, "", "bob")
    assert not await pauses.end(connection, "", "bob")
    assert not await pauses.paused(connection, "east")
    assert await pauses.begin(connection, "", "once more", "ann")
    await connection.fetchval("SELECT 1")
    assert heard == [1]
