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
DAEMONS = """
    SELECT name, count(*) AS daemons FROM relaytest.daemon
     WHERE beat_at > now() - interval '20 s' GROUP BY name
"""
PAUSES = """
    SELECT count(*) FILTER (WHERE vantage = '' AND network IS NULL) AS all,
           count(*) FILTER (WHERE vantage <> '') AS vantage,
           count(network) AS network
      FROM relaytest.pause WHERE ended_at IS NULL
"""
MAIL = """
    SELECT count(*) FILTER (WHERE send_at <= now()) AS due,
           count(*) FILTER (WHERE send_at > now()) AS later,
           coalesce(extract(epoch FROM now() - min(send_at)
                                         FILTER (WHERE send_at <= now())), 0)::float8 AS oldest_due
      FROM relaytest.mail WHERE send_at IS NOT NULL
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


async def daemons(connection: Connection) -> list[asyncpg.Record]:
    """Return how many of the other daemons live, by name."""
    return await connection.fetch(DAEMONS)


async def pauses(connection: Connection) -> asyncpg.Record:
    """Return how many pauses there are of all, of a vantage and of a network."""
    return (await connection.fetch(PAUSES))[0]


async def mail(connection: Connection) -> asyncpg.Record:
    """Return how many mails are due or wait for later, and oldest_due (seconds)."""
    return (await connection.fetch(MAIL))[0]


async def rest(connection: Connection) -> asyncpg.Record:
    """Return unsettled trials, and seconds since our own mail came back (None: it never did)."""
    return (await connection.fetch(REST))[0]
