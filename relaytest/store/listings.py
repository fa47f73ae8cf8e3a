"""Who is listed (sql/0003_listing.sql). Nothing else writes these tables."""

from collections.abc import Callable
from datetime import timedelta

from relaytest.core.listing import Event, State
from relaytest.core.target import Address
from relaytest.store.database import Connection
from relaytest.store.evidence import Trial

STATE = """
    SELECT state, trial FROM relaytest.listing WHERE address = $1 AND port = $2 FOR UPDATE
"""
ENTER = """
    INSERT INTO relaytest.listing AS l
           (address, port, state, trial, listed_at, expires_at, recheck_at)
    VALUES ($1, $2, 'listed', $3, now(), now() + $4, now() + $5)
    ON CONFLICT (address, port) DO UPDATE SET
        state = 'listed', trial = excluded.trial, changed_at = now(),
        listed_at = coalesce(l.listed_at, excluded.listed_at),
        expires_at = excluded.expires_at, recheck_at = excluded.recheck_at
"""
LEAVE = """
    UPDATE relaytest.listing
       SET state = 'unlisted', trial = coalesce($3, trial), changed_at = now(), listed_at = NULL,
           expires_at = NULL, recheck_at = NULL
     WHERE address = $1 AND port = $2
"""
NOTE_CHANGE = """
    INSERT INTO relaytest.listing_change (address, port, event, old, new, trial, why)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
RING = "SELECT pg_notify('relaytest_listing', '')"
EXPIRED = """
    SELECT address, port FROM relaytest.listing
     WHERE state = 'listed' AND expires_at <= now() ORDER BY address, port LIMIT 1000
       FOR UPDATE    -- and wait: what `recheck` has locked would be looked at much later
"""
RECHECK = """
    WITH due AS (
        SELECT address, port FROM relaytest.listing
         WHERE state = 'listed' AND recheck_at <= now() ORDER BY address, port LIMIT 1000
           FOR UPDATE SKIP LOCKED),
    later AS (
        UPDATE relaytest.listing AS l SET recheck_at = now() + $1 FROM due
         WHERE l.address = due.address AND l.port = due.port)
    INSERT INTO relaytest.retest (target, port, reason, requester)
    SELECT host(address), port, 'recheck', 'scheduler' FROM due
     WHERE relaytest.scope_refusal(address) IS NULL    -- one refusal would refuse them all
     ORDER BY address, port
"""
PUBLISHED4 = """
    SELECT DISTINCT host(address), address FROM relaytest.listing_current
     WHERE family(address) = 4 ORDER BY address
"""
PUBLISHED6 = """
    SELECT DISTINCT host(address), address FROM relaytest.listing_current
     WHERE family(address) = 6 ORDER BY address
"""
EXPORT = "SELECT host FROM ({query}) AS entry"
CODE = "SELECT min(code) FROM relaytest.listing_current WHERE address = $1"


async def state_of(connection: Connection, address: Address, port: int) -> tuple[State, int | None]:
    """Return where a target stands and by which trial, locked until the transaction ends."""
    row = await connection.fetchrow(STATE, address, port)
    return (State.UNLISTED, None) if row is None else (State(row["state"]), row["trial"])


async def enter(
    connection: Connection, trial: Trial, *, expire_after: timedelta, recheck_every: timedelta
) -> None:
    """List the trial's target, or renew its listing."""
    await connection.execute(
        ENTER, trial.address, trial.port, trial.id, expire_after, recheck_every
    )


async def leave(connection: Connection, address: Address, port: int, trial: int | None) -> None:
    """Take a target off the list."""
    await connection.execute(LEAVE, address, port, trial)


async def note_change(
    connection: Connection,
    target: tuple[Address, int],
    event: Event,
    change: tuple[State, State],
    *,
    trial: int | None,
    why: str,
) -> None:
    """Write the audit row of a change from one state to another, and wake the publisher."""
    old, new = change
    await connection.execute(NOTE_CHANGE, *target, event.value, old.value, new.value, trial, why)
    await connection.execute(RING)


async def expired(connection: Connection) -> list[tuple[Address, int]]:
    """Return listings past their end, locked until the transaction ends."""
    return [(row["address"], row["port"]) for row in await connection.fetch(EXPIRED)]


async def recheck(connection: Connection, recheck_every: timedelta) -> int:
    """Ask for the automatic retests that are due; return how many."""
    done: str = await connection.execute(RECHECK, recheck_every)
    return int(done.rpartition(" ")[2])


async def export(connection: Connection, version: int, write: Callable[[bytes], object]) -> int:
    """Stream the published addresses of one IP version, a line each, in order; return the count.

    COPY with a callback needs no memory for the rows and is as fast as psql's copy.
    """
    query = EXPORT.format(query=PUBLISHED4 if version == 4 else PUBLISHED6)

    async def take(data: bytes) -> None:
        write(data)

    done: str = await connection.copy_from_query(query, output=take)
    return int(done.rpartition(" ")[2])


async def code_of(connection: Connection, address: Address) -> int | None:
    """Return the code under which an address is published, or None."""
    code: int | None = await connection.fetchval(CODE, address)
    return code
