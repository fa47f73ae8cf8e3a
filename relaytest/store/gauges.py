"""How much there is of what: reading only, for metrics."""

import asyncpg

from relaytest.store.database import Connection

JOBS = """
    SELECT priority,
           count(*) FILTER (WHERE NOT leased AND run_at <= now()) AS due,
           count(*) FILTER (WHERE NOT leased AND run_at > now()) AS later,
           count(*) FILTER (WHERE leased) AS leased,
           coalesce(extract(epoch FROM now() - min(run_at)
                                         FILTER (WHERE NOT leased AND run_at <= now())), 0)::float8
               AS oldest_due
      FROM relaytest.job GROUP BY priority
"""
LISTED = """
    SELECT code, count(*) AS listed FROM relaytest.listing
     WHERE state = 'listed' AND expires_at > now() GROUP BY code
"""
WORKERS = """
    SELECT vantage, count(*) AS workers FROM relaytest.worker
     WHERE beat_at > now() - interval '20 s' GROUP BY vantage
"""
REST = """
    SELECT (SELECT count(*) FROM relaytest.trial WHERE settle_at IS NOT NULL) AS unsettled,
           (SELECT extract(epoch FROM now() - max(received_at))::float8
              FROM relaytest.sink_check) AS sink_proven
"""


async def jobs(connection: Connection) -> list[asyncpg.Record]:
    """Return due, later, leased and oldest_due (seconds) for each priority."""
    return await connection.fetch(JOBS)


async def listed(connection: Connection) -> list[asyncpg.Record]:
    """Return how many targets are listed with each code."""
    return await connection.fetch(LISTED)


async def workers(connection: Connection) -> list[asyncpg.Record]:
    """Return how many workers live at each place."""
    return await connection.fetch(WORKERS)


async def rest(connection: Connection) -> asyncpg.Record:
    """Return unsettled trials, and seconds since our own mail came back (None: it never did)."""
    return (await connection.fetch(REST))[0]
