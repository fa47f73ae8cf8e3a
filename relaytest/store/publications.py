"""What a person orders of the publisher, and what keeps it from publishing (sql/0011_dns.sql)."""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from relaytest.store.database import Connection

ADD = """
    INSERT INTO relaytest.publication_order (zone, kind, why, actor) VALUES ($1, $2, $3, $4)
"""
ORDERS = """
    SELECT coalesce(max(id) FILTER (WHERE done_at IS NULL), 0) AS pending,
           coalesce((array_agg(kind ORDER BY id DESC) FILTER (WHERE kind <> 'force'))[1] = 'shut',
                    false) AS shut
      FROM relaytest.publication_order WHERE zone = $1
"""
DONE = """
    UPDATE relaytest.publication_order SET done_at = now()
     WHERE zone = $1 AND id <= $2 AND done_at IS NULL
"""
NOTE = """
    INSERT INTO relaytest.publication AS p (zone, host, result, entries)
    VALUES ($1, $2, $3, coalesce($4::bigint, 0))
    ON CONFLICT (zone, host) DO UPDATE
       SET at = now(), result = excluded.result, entries = coalesce($4, p.entries)
"""
LAST = """
    SELECT zone, host, at, result, entries FROM relaytest.publication
     WHERE at > now() - interval '90 days' ORDER BY zone, host
"""
STANDBY = "SELECT pg_is_in_recovery()"
# A walk through the index for each special network, not through all listings. Addresses of
# documentation harm nobody, and are what one tries a list out with.
RESERVED = """
    SELECT host(found.address) AS address, s.why
      FROM relaytest.scope_network AS s
     CROSS JOIN LATERAL (
           SELECT l.address FROM relaytest.listing_current AS l
            WHERE l.address >= s.network
              AND l.address <= set_masklen(broadcast(s.network),
                                           CASE family(s.network) WHEN 4 THEN 32 ELSE 128 END)
              AND l.code = ANY ($1::smallint[])
              AND NOT EXISTS (SELECT FROM relaytest.scope_network AS a
                               WHERE a.rule = 'allow' AND a.network >>= l.address)
            LIMIT 1) AS found
     WHERE s.rule = 'special' AND s.why NOT LIKE 'documentation%' LIMIT 1
"""
WIDE = """
    SELECT address::text FROM relaytest.listing_current
     WHERE masklen(address) <> CASE family(address) WHEN 4 THEN 32 ELSE 128 END
       AND code = ANY ($1::smallint[]) LIMIT 1
"""
RING = "SELECT pg_notify('relaytest_listing', '')"


@dataclass(frozen=True, slots=True)
class Orders:
    """How a zone is to be published.

    Attributes:
        pending: Number of the last order that was not carried out yet; 0: none.
        shut: The list is at its end: nothing is published, not even test entries.
    """

    pending: int
    shut: bool


async def order(connection: Connection, zone: str, kind: str, why: str, actor: str) -> None:
    """Order `force`, `shut` or `reopen`, and wake the publisher."""
    await connection.execute(ADD, zone, kind, why, actor)
    await connection.execute(RING)


async def orders_of(connection: Connection, zone: str) -> Orders:
    """Return how a zone is to be published."""
    row = (await connection.fetch(ORDERS, zone))[0]
    return Orders(row["pending"], row["shut"])


async def carried_out(connection: Connection, zone: str, pending: int) -> None:
    """Note that the orders up to `pending` are published."""
    await connection.execute(DONE, zone, pending)


async def note(
    connection: Connection, zone: str, host: str, result: str, entries: int | None
) -> None:
    """Write down what a publisher did last; None: the entries are as before."""
    await connection.execute(NOTE, zone, host, result, entries)


async def last(connection: Connection) -> list[asyncpg.Record]:
    """Return zone, host, at, result and entries of what each publisher did last."""
    return await connection.fetch(LAST)


async def obstacle(connection: Connection, codes: Sequence[int]) -> str | None:
    """Return why the listings of these codes must not be published as they are, or None."""
    if await connection.fetchval(STANDBY):
        return "the database is a standby, and may be behind; see database.dsn"
    if (row := await connection.fetchrow(RESERVED, codes)) is not None:
        return f"{row['address']} is {row['why']}, and no address of a mail server"
    if (wide := await connection.fetchval(WIDE, codes)) is not None:
        return f"{wide} is wider than one address"
    return None
