"""Places to test from (sql/0006_vantage.sql), and which of them a target is bound to."""

import asyncpg

from relaytest.core.target import Address
from relaytest.store.database import Connection
from relaytest.store.evidence import Trial

BOUND_TO = """
    SELECT t.vantage FROM relaytest.listing AS l JOIN relaytest.trial AS t ON t.id = l.trial
     WHERE l.address = $1 AND l.port = $2 AND l.state <> 'unlisted' AND t.vantage <> $3
       AND relaytest.vantage_lives(t.vantage)
"""
OTHER = """
    SELECT v.name FROM relaytest.vantage AS v
     WHERE v.name <> $3 AND v.seen_at > now() - interval '1 min'
       AND NOT EXISTS (SELECT FROM relaytest.trial AS t
                        WHERE t.address = $1 AND t.port = $2 AND t.vantage = v.name
                          AND t.started_at > now() - interval '1 day')
     ORDER BY v.name LIMIT 1
"""
VIEWS = """
    SELECT b.port, b.vantage, b.verdict, b.reason, b.decided_at, b.trial,
           ARRAY(SELECT host(source) FROM unnest(v.sources) AS source) AS sources
      FROM relaytest.verdict_by_vantage AS b LEFT JOIN relaytest.vantage AS v ON v.name = b.vantage
     WHERE b.address = $1 ORDER BY b.port, b.vantage
"""


async def bound_to(connection: Connection, trial: Trial) -> str | None:
    """Return the other place whose trial listed the target, if that still works."""
    key = (trial.address, trial.port, trial.vantage)
    place: str | None = await connection.fetchval(BOUND_TO, *key)
    return place


async def other(connection: Connection, trial: Trial) -> str | None:
    """Return a place that works and has not tried the target for a day, if there is one."""
    key = (trial.address, trial.port, trial.vantage)
    place: str | None = await connection.fetchval(OTHER, *key)
    return place


async def views_of(connection: Connection, address: Address) -> list[asyncpg.Record]:
    """Return port, vantage, verdict, reason, decided_at, trial and sources for each place.

    `sources` are the addresses that the place probes from, as text.
    """
    return await connection.fetch(VIEWS, address)
