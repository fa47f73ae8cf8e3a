"""Who is listed (sql/0003_listing.sql). Nothing else writes these tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from relaytest.core.listing import BY_HAND, EXIT_PORT, Event, State
from relaytest.core.target import Address
from relaytest.store.database import Connection
from relaytest.store.evidence import Trial

STATE = """
    SELECT state, trial FROM relaytest.listing WHERE address = $1 AND port = $2 FOR UPDATE
"""
ENTER = """
    INSERT INTO relaytest.listing AS l
           (address, port, state, code, trial, listed_at, expires_at, recheck_at, exit_address)
    VALUES ($1, $2, 'listed', CASE $2::integer WHEN 0 THEN 3 ELSE 2 END, $3, now(), now() + $4,
            now() + $5::interval, nullif($6::inet, $1))
    ON CONFLICT (address, port) DO UPDATE SET
        state = 'listed', trial = excluded.trial, changed_at = now(),
        exit_address = excluded.exit_address,
        listed_at = coalesce(l.listed_at, excluded.listed_at),
        expires_at = excluded.expires_at, recheck_at = excluded.recheck_at
"""
EXIT_OF = """
    SELECT exit_address FROM relaytest.listing
     WHERE address = $1 AND port = $2 AND state = 'listed'
"""
INPUTS = """
    SELECT count(DISTINCT address) AS inputs, max(trial) AS trial
      FROM relaytest.listing WHERE exit_address = $1 AND state = 'listed'
"""
SUSPECT = """
    INSERT INTO relaytest.listing AS l (address, port, state, trial, expires_at, recheck_at)
    VALUES ($1, $2, 'suspected', $3, now() + $4, now() + $5::interval)
    ON CONFLICT (address, port) DO UPDATE SET
        state = 'suspected', trial = excluded.trial, changed_at = now(), listed_at = NULL,
        expires_at = excluded.expires_at,
        recheck_at = CASE WHEN l.state = 'suspected' AND $5 IS NOT NULL
                          THEN least(l.recheck_at, excluded.recheck_at)
                          ELSE excluded.recheck_at END
"""
LEAVE = """
    UPDATE relaytest.listing
       SET state = 'unlisted', trial = coalesce($3, trial), changed_at = now(), listed_at = NULL,
           expires_at = NULL, recheck_at = NULL
     WHERE address = $1 AND port = $2
"""
NOTE_CHANGE = """
    INSERT INTO relaytest.listing_change (address, port, event, old, new, trial, why, actor)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
RING = "SELECT pg_notify('relaytest_listing', '')"
EXPIRED = """
    SELECT address, port FROM relaytest.listing
     WHERE state <> 'unlisted' AND expires_at <= now() ORDER BY address, port LIMIT 1000
       FOR UPDATE    -- and wait: what `recheck` has locked would be looked at much later
"""
# The last recheck is a day before the end, if the one before it is older than a day.
RECHECK = """
    WITH due AS (
        SELECT address, port, state FROM relaytest.listing
         WHERE state <> 'unlisted' AND recheck_at <= now() ORDER BY address, port LIMIT 1000
           FOR UPDATE SKIP LOCKED),
    later AS (
        UPDATE relaytest.listing AS l
           SET recheck_at = CASE WHEN l.state = 'suspected' THEN now() + $2
                                 WHEN now() + $1 < expires_at THEN now() + $1
                                 ELSE now() + greatest(interval '24 h',
                                                       expires_at - now() - interval '24 h') END
          FROM due WHERE l.address = due.address AND l.port = due.port)
    INSERT INTO relaytest.retest (target, port, reason, requester, note)
    SELECT host(address), port, 'recheck', 'scheduler',
           CASE WHEN state = 'suspected' THEN 'to confirm that it relays' END
      FROM due
     WHERE relaytest.scope_refusal(address) IS NULL    -- one refusal would refuse them all
       AND relaytest.exclusion_of(address) IS NULL
     ORDER BY address, port
"""
RELAYED = """
    WITH last AS (
        SELECT DISTINCT ON (trial) trial, verdict FROM relaytest.verdict
         WHERE address = $1 AND port = $2 ORDER BY trial DESC, id DESC)
    SELECT t.started_at FROM last JOIN relaytest.trial AS t ON t.id = last.trial
     WHERE last.verdict = 'open' AND t.started_at > now() - $3::interval
       AND t.id > coalesce((SELECT max(trial) FROM last WHERE verdict = 'closed'), 0)
       AND NOT EXISTS (SELECT FROM relaytest.listing_change AS c
                        WHERE c.address = $1 AND c.port = $2 AND c.event = ANY($4)
                          AND c.at > t.started_at)
"""
OVERRULED = """
    SELECT EXISTS (SELECT FROM relaytest.listing_change AS c
                     JOIN relaytest.trial AS t ON t.id = $3
                    WHERE c.address = $1 AND c.port = $2 AND c.event = ANY($4)
                      AND c.at > t.started_at)
"""
STANDING = """
    SELECT address, port, state, trial FROM relaytest.listing
     WHERE address = $1 AND state <> 'unlisted' ORDER BY port FOR UPDATE
"""
# The first verdict of `open` put it there; the last one knows all forms that came back.
DECIDED_SINCE = """
    SELECT l.address, l.port, l.state, l.trial
      FROM relaytest.listing AS l
      CROSS JOIN LATERAL (SELECT min(decided_at) AS judged_at FROM relaytest.verdict
                           WHERE trial = l.trial AND verdict = 'open') AS first
      CROSS JOIN LATERAL (SELECT forms FROM relaytest.verdict
                           WHERE trial = l.trial AND verdict = 'open'
                           ORDER BY id DESC LIMIT 1) AS last
     WHERE l.state <> 'unlisted' AND first.judged_at >= $1
       AND ($2::text IS NULL OR last.forms = ARRAY[$2::text])
     ORDER BY l.address, l.port LIMIT $3
       FOR UPDATE OF l
"""
CODE = """
    SELECT min(code) FROM relaytest.listing_current
     WHERE address = $1 AND code = ANY ($2::smallint[])
"""
_BY_HAND = [event.value for event in BY_HAND]


@dataclass(frozen=True, slots=True)
class Standing:
    """A target that is listed or suspected, and the trial that put it there."""

    address: Address
    port: int
    state: State
    trial: int


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the history.

    Attributes:
        trial: The evidence, if a trial was the cause.
        why: For the public.
        actor: Who did it by hand; None: the program.
    """

    address: Address
    port: int
    event: Event
    old: State
    new: State
    trial: int | None
    why: str
    actor: str | None = None


async def state_of(connection: Connection, address: Address, port: int) -> tuple[State, int | None]:
    """Return where a target stands and by which trial, locked until the transaction ends."""
    row = await connection.fetchrow(STATE, address, port)
    return (State.UNLISTED, None) if row is None else (State(row["state"]), row["trial"])


async def enter(
    connection: Connection,
    trial: Trial,
    *,
    expire_after: timedelta,
    recheck_every: timedelta,
    exit_address: Address | None = None,
) -> None:
    """List the trial's target, or renew its listing.

    Args:
        connection: Inside a transaction.
        trial: It relayed.
        expire_after: How long the listing lives.
        recheck_every: Until the next automatic test.
        exit_address: Who handed its message to us, if not the target itself.
    """
    key = (trial.address, trial.port, trial.id)
    await connection.execute(ENTER, *key, expire_after, recheck_every, exit_address)


async def enter_exit(
    connection: Connection, address: Address, trial: int, expire_after: timedelta
) -> None:
    """List the exit of a relay, or renew its listing; `trial` is one of a relay's."""
    await connection.execute(ENTER, address, EXIT_PORT, trial, expire_after, None, None)


async def exit_of(connection: Connection, address: Address, port: int) -> Address | None:
    """Return through whom a listed relay sends, if not by itself."""
    found: Address | None = await connection.fetchval(EXIT_OF, address, port)
    return found


async def inputs_of(connection: Connection, address: Address) -> tuple[int, int | None]:
    """Return how many listed relays send through an exit, and the latest trial that shows it."""
    row = (await connection.fetch(INPUTS, address))[0]
    return row["inputs"], row["trial"]


async def suspect(
    connection: Connection,
    trial: Trial,
    *,
    expire_after: timedelta,
    confirm_after: timedelta | None,
) -> None:
    """Suspect the trial's target, or renew the suspicion.

    Args:
        connection: Inside a transaction.
        trial: It relayed.
        expire_after: How long the suspicion lives.
        confirm_after: When to test again to confirm it; None: no need. An earlier test stays.
    """
    await connection.execute(
        SUSPECT, trial.address, trial.port, trial.id, expire_after, confirm_after
    )


async def relayed_at(
    connection: Connection, address: Address, port: int, within: timedelta
) -> tuple[datetime, ...]:
    """Return when the trials began that relayed, since the last that was closed or taken back."""
    rows = await connection.fetch(RELAYED, address, port, within, _BY_HAND)
    return tuple(row[0] for row in rows)


async def overruled(connection: Connection, trial: Trial) -> bool:
    """Whether an administrator took the target off since the trial began."""
    key = (trial.address, trial.port, trial.id, _BY_HAND)
    return bool(await connection.fetchval(OVERRULED, *key))


async def standing_of(connection: Connection, address: Address) -> list[Standing]:
    """Return where an address is listed or suspected, locked until the transaction ends."""
    return [_standing(row) for row in await connection.fetch(STANDING, address)]


async def decided_since(
    connection: Connection, since: datetime, form: str | None, most: int
) -> list[Standing]:
    """Return what was listed or suspected by a trial judged since then, locked.

    Args:
        connection: Inside a transaction.
        since: The deciding trial was first found open then or later.
        form: Only where no other form came back; None: all.
        most: Rows.
    """
    return [_standing(row) for row in await connection.fetch(DECIDED_SINCE, since, form, most)]


def _standing(row: asyncpg.Record) -> Standing:
    return Standing(row["address"], row["port"], State(row["state"]), row["trial"])


async def leave(connection: Connection, address: Address, port: int, trial: int | None) -> None:
    """Take a target off the list."""
    await connection.execute(LEAVE, address, port, trial)


async def note_change(connection: Connection, change: Change) -> None:
    """Write the audit row of a change from one state to another, and wake the publisher."""
    await connection.execute(
        NOTE_CHANGE,
        change.address,
        change.port,
        change.event.value,
        change.old.value,
        change.new.value,
        change.trial,
        change.why,
        change.actor,
    )
    await connection.execute(RING)


async def expired(connection: Connection) -> list[tuple[Address, int]]:
    """Return listings and suspicions past their end, locked until the transaction ends."""
    return [(row["address"], row["port"]) for row in await connection.fetch(EXPIRED)]


async def recheck(
    connection: Connection,
    recheck_every: timedelta,
    confirm_after: timedelta = timedelta(hours=24),
) -> int:
    """Ask for the automatic retests of the listed and suspected that are due; return how many."""
    done: str = await connection.execute(RECHECK, recheck_every, confirm_after)
    return int(done.rpartition(" ")[2])


async def code_of(
    connection: Connection, address: Address, codes: Sequence[int] = (2,)
) -> int | None:
    """Return the least of the codes under which an address is published; None: under none."""
    found: int | None = await connection.fetchval(CODE, address, codes)
    return found
