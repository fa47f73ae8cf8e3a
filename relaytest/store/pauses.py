"""No visits for a while, at one place or everywhere (sql/0017_pause.sql)."""

import asyncpg

from relaytest.store.database import Connection

PAUSED = """
    SELECT EXISTS (SELECT FROM relaytest.pause WHERE ended_at IS NULL AND vantage IN ('', $1))
"""
BEGIN = """
    INSERT INTO relaytest.pause (vantage, why, actor) VALUES ($1, $2, $3)
    ON CONFLICT (vantage) WHERE ended_at IS NULL DO NOTHING RETURNING id
"""
END = """
    UPDATE relaytest.pause SET ended_at = now(), ended_by = $2
     WHERE vantage = $1 AND ended_at IS NULL RETURNING id
"""
CURRENT = """
    SELECT vantage, why, actor, since FROM relaytest.pause WHERE ended_at IS NULL ORDER BY vantage
"""
RING = "SELECT pg_notify('relaytest_job', '')"


async def paused(connection: Connection, vantage: str) -> bool:
    """Whether nothing is to be visited from a place."""
    return bool(await connection.fetchval(PAUSED, vantage))


async def begin(connection: Connection, vantage: str, why: str, actor: str) -> bool:
    """Begin no visit any more; False if that is so already.

    Args:
        connection: Inside a transaction.
        vantage: A place; "": all.
        why: For the history.
        actor: Who says so.
    """
    return await connection.fetchval(BEGIN, vantage, why, actor) is not None


async def end(connection: Connection, vantage: str, actor: str) -> bool:
    """Go on; False if there was no such pause."""
    if await connection.fetchval(END, vantage, actor) is None:
        return False
    await connection.execute(RING)
    return True


async def current(connection: Connection) -> list[asyncpg.Record]:
    """Return vantage, why, actor and since of each pause."""
    return await connection.fetch(CURRENT)
