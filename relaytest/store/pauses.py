"""No visits for a while: from a place, to a network, or at all (sql/0017_pause.sql and later)."""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from relaytest.core.target import Network
from relaytest.store.database import Connection

PAUSED = """
    SELECT coalesce(bool_or(network IS NULL), false) AS all, count(network) > 0 AS networks
      FROM relaytest.pause WHERE ended_at IS NULL AND vantage IN ('', $1)
"""
# Put off for as long as the pause has lasted, so that a long one costs little; its end pulls
# them forward.
HOLD = """
    WITH hit AS (
        SELECT DISTINCT ON (j.id) j.id, p.id AS pause, p.since
          FROM relaytest.job AS j
          JOIN relaytest.pause AS p
            ON p.network >>= j.address OR p.network >>= relaytest.embedded_ipv4(j.address)
         WHERE j.id = ANY ($1::bigint[]) AND p.ended_at IS NULL ORDER BY j.id, p.id)
    UPDATE relaytest.job AS j
       SET leased = false, worker = NULL, lease_until = NULL, held_by = hit.pause,
           run_at = now() + greatest(now() - hit.since, interval '10 min')
      FROM hit WHERE j.id = hit.id
    RETURNING j.id
"""
BEGIN = """
    INSERT INTO relaytest.pause (vantage, network, why, actor) VALUES ($1, $2, $3, $4)
    ON CONFLICT (vantage, coalesce(network::text, '')) WHERE ended_at IS NULL DO NOTHING
    RETURNING id
"""
END = """
    UPDATE relaytest.pause SET ended_at = now(), ended_by = $3
     WHERE vantage = $1 AND network IS NOT DISTINCT FROM $2 AND ended_at IS NULL RETURNING id
"""
LET_GO = """
    UPDATE relaytest.job SET run_at = now(), held_by = NULL WHERE held_by = $1 AND NOT leased
"""
CURRENT = """
    SELECT vantage, network, why, actor, since FROM relaytest.pause
     WHERE ended_at IS NULL ORDER BY vantage, network
"""
RING = "SELECT pg_notify('relaytest_job', '')"


@dataclass(frozen=True, slots=True)
class Part:
    """What is paused: a place, a network, or without either all.

    Attributes:
        vantage: "": all places.
        network: None: all networks.
    """

    vantage: str = ""
    network: Network | None = None

    def __str__(self) -> str:
        return self.vantage or (str(self.network) if self.network else "every place")


async def paused(connection: Connection, vantage: str) -> tuple[bool, bool]:
    """Whether nothing is to be visited from a place, and whether that is so of some networks."""
    row = (await connection.fetch(PAUSED, vantage))[0]
    return row["all"], row["networks"]


async def hold(connection: Connection, jobs: Sequence[int]) -> set[int]:
    """Put claimed jobs back whose network is paused; return which."""
    return {row["id"] for row in await connection.fetch(HOLD, jobs)}


async def begin(connection: Connection, part: Part, why: str, actor: str) -> bool:
    """Begin no visit any more; False if that is so already.

    Args:
        connection: Inside a transaction.
        part: Of what.
        why: For the history.
        actor: Who says so.
    """
    number = await connection.fetchval(BEGIN, part.vantage, part.network, why, actor)
    return number is not None


async def end(connection: Connection, part: Part, actor: str) -> bool:
    """Go on; False if there was no such pause."""
    number = await connection.fetchval(END, part.vantage, part.network, actor)
    if number is None:
        return False
    await connection.execute(LET_GO, number)
    await connection.execute(RING)
    return True


async def current(connection: Connection) -> list[asyncpg.Record]:
    """Return vantage, network, why, actor and since of each pause."""
    return await connection.fetch(CURRENT)
