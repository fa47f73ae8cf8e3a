"""Daemons in the database: there while they run, and not longer."""

import asyncio
from datetime import timedelta

from relaytest.daemons import presence
from relaytest.daemons.loop import Stop
from relaytest.daemons.presence import present
from relaytest.store import daemons
from tests.lab import until

NAMES = "SELECT name FROM relaytest.daemon"


async def test_a_daemon_is_there_while_its_block_runs(database, connection):
    stop = Stop()
    async with present("sink", database, stop):
        await stop.begun(1)
        (row,) = await daemons.current(connection)
        assert (row["name"], row["version"] > "") == ("sink", True)
    assert await daemons.current(connection) == []


async def test_it_beats_and_comes_back_if_it_was_buried(database, connection, monkeypatch):
    monkeypatch.setattr(presence, "_BEAT", timedelta(milliseconds=20))
    async with present("web", database, Stop()):
        await until(lambda: connection.fetchval(NAMES), "its row")
        await connection.execute("UPDATE relaytest.daemon SET beat_at = now() - interval '2 days'")
        await daemons.bury(connection)
        await until(lambda: connection.fetchval(NAMES), "its row once more")


async def test_who_lives_is_not_buried(database, connection):
    stop = Stop()
    async with present("web", database, stop):
        await stop.begun(1)
        await daemons.bury(connection)
        assert await connection.fetchval(NAMES) == "web"


async def test_without_a_database_it_has_not_begun_and_ends_all_the_same(nowhere):
    stop = Stop()
    async with present("web", nowhere, stop):
        begun = asyncio.ensure_future(stop.begun(1))
        await asyncio.sleep(0.05)
        assert not begun.done()
        begun.cancel()
