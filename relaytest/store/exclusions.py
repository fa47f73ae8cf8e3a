"""Networks that are not tested, by the administrator's word (sql/0005_policy.sql)."""

from collections.abc import Collection
from datetime import datetime

import asyncpg

from relaytest.core.target import Address, Network
from relaytest.store.database import Connection

EXCLUSION = "SELECT relaytest.exclusion_of($1)"
BARRED = """
    SELECT a.address, relaytest.exclusion_of(a.address) AS why
      FROM (SELECT DISTINCT unnest($1::inet[]) AS address) AS a
     WHERE relaytest.exclusion_of(a.address) IS NOT NULL
"""
ANY = "SELECT EXISTS (SELECT FROM relaytest.exclusion_current)"
LOCK = "SELECT pg_advisory_xact_lock(hashtext('relaytest exclusion'))"  # one at a time
END = """
    UPDATE relaytest.exclusion SET ended_at = now(), ended_by = $2, ended_why = $3
     WHERE network = $1 AND ended_at IS NULL
    RETURNING until IS NULL OR until > now()
"""
EXCLUDE = "INSERT INTO relaytest.exclusion (network, why, actor, until) VALUES ($1, $2, $3, $4)"
CURRENT = """
    SELECT network, why, actor, since, until FROM relaytest.exclusion_current ORDER BY network
"""
COVERING = """
    SELECT network, why, actor, since, until FROM relaytest.exclusion_current
     WHERE network >>= $1 OR network >>= relaytest.embedded_ipv4($1) ORDER BY network
"""
OVERLAPPING = """
    SELECT network FROM relaytest.exclusion_current
     WHERE network && $1::cidr ORDER BY network LIMIT 20
"""


async def exclusion_of(connection: Connection, address: Address) -> str | None:
    """Return why an address is excluded, or None."""
    why: str | None = await connection.fetchval(EXCLUSION, address)
    return why


async def barred(connection: Connection, addresses: Collection[Address]) -> dict[Address, str]:
    """Return those of the addresses that are excluded, each with the reason."""
    if not addresses or not await connection.fetchval(ANY):
        return {}
    rows = await connection.fetch(BARRED, list(addresses))
    return {row["address"]: row["why"] for row in rows}


async def exclude(
    connection: Connection, network: Network, *, why: str, actor: str, until: datetime | None
) -> bool:
    """Exclude a network; return whether that replaces an exclusion of the very same one."""
    await connection.execute(LOCK)
    replaced = await include(connection, network, why=f"replaced: {why}", actor=actor)
    await connection.execute(EXCLUDE, network, why, actor, until)
    return replaced


async def include(connection: Connection, network: Network, *, why: str, actor: str) -> bool:
    """End the exclusion of a network; return whether there was one that counted."""
    return bool(await connection.fetchval(END, network, actor, why))


async def current(connection: Connection) -> list[asyncpg.Record]:
    """Return a row for each network that is excluded now."""
    return await connection.fetch(CURRENT)


async def covering(connection: Connection, address: Address) -> list[asyncpg.Record]:
    """Return the exclusions that an address falls under."""
    return await connection.fetch(COVERING, address)


async def overlapping(connection: Connection, network: Network) -> list[Network]:
    """Return excluded networks that have something in common with a network."""
    return [row["network"] for row in await connection.fetch(OVERLAPPING, network)]
