"""The daemons that run, whatever the host (sql/0020_service.sql); workers are in store.jobs."""

import asyncpg

from relaytest.store.database import Connection

JOIN = """
    INSERT INTO relaytest.daemon (name, host, pid, version) VALUES ($1, $2, $3, $4) RETURNING id
"""
BEAT = "UPDATE relaytest.daemon SET beat_at = now() WHERE id = $1"
LEAVE = "DELETE FROM relaytest.daemon WHERE id = $1"
BURY = "DELETE FROM relaytest.daemon WHERE beat_at < now() - interval '1 day'"
CURRENT = """
    SELECT name, host, pid, version, started_at, beat_at FROM relaytest.daemon
     ORDER BY name, host, id
"""


async def join(connection: Connection, *, name: str, host: str, pid: int, version: str) -> int:
    """Make a daemon known; return its id."""
    daemon: int = await connection.fetchval(JOIN, name, host, pid, version)
    return daemon


async def beat(connection: Connection, daemon: int) -> bool:
    """Say that a daemon lives. False: it was buried meanwhile and must join anew."""
    done: str = await connection.execute(BEAT, daemon)
    return done != "UPDATE 0"


async def leave(connection: Connection, daemon: int) -> None:
    """Forget a daemon that ended."""
    await connection.execute(LEAVE, daemon)


async def bury(connection: Connection) -> None:
    """Forget those that were not seen for a day."""
    await connection.execute(BURY)


async def current(connection: Connection) -> list[asyncpg.Record]:
    """Return a row for each daemon that is not a worker."""
    return await connection.fetch(CURRENT)
