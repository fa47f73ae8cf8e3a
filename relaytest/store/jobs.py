"""The job queue (sql/0001_queue.sql, sql/0006_vantage.sql).

A job is an open request to test one target.

States: waiting (run_at in the future), ready, leased to a worker. A finished job leaves the
table. A worker that dies leaves its jobs leased until its heartbeat or the lease is too old;
`rescue` makes them ready again. `attempt` only grows and is the fencing token: a worker that
lost its lease cannot finish the job any more.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import asyncpg

from relaytest.core.errors import RefusedRequestError
from relaytest.core.target import Address, Network
from relaytest.store.database import Connection

ENQUEUE = """
    INSERT INTO relaytest.retest (target, port, reason, priority, run_at, requester, note, vantage)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id
"""
CLAIM = """
    WITH claimed AS MATERIALIZED (SELECT * FROM relaytest.claim($1, $2, $3, $4)),
    -- What was made a moment ago is not yet known to all sinks.
    newest AS (
        SELECT coalesce((SELECT max(id) FROM relaytest.token_key
                          WHERE created_at < now() - interval '2 min'), min(id)) AS id
          FROM relaytest.token_key),
    begun AS (
        INSERT INTO relaytest.trial (id, job, address, port, reason, requester, vantage, key)
        SELECT c.trial, c.id, c.address, c.port, c.reason, c.requester, c.vantage, newest.id
          FROM claimed AS c CROSS JOIN newest
        ON CONFLICT (id) DO NOTHING)
    SELECT c.id, c.address, c.port, c.reason::text, c.attempt, c.trial, c.worker,
           coalesce(t.visits, 0) AS visits, k.key, now() - c.run_at AS waited
      FROM claimed AS c CROSS JOIN newest
      -- LIMIT: else a plan that was made while there were few trials reads them all for ever
      LEFT JOIN LATERAL (SELECT id, visits, key FROM relaytest.trial
                          WHERE id = c.trial LIMIT 1) AS t ON true
      JOIN relaytest.token_key AS k
        ON k.id = CASE WHEN t.id IS NULL THEN newest.id
                       ELSE coalesce(t.key, (SELECT min(id) FROM relaytest.token_key)) END
     ORDER BY c.priority, c.run_at, c.id
"""
NEXT_DUE = """
    SELECT min(first.run_at) - now()
      FROM unnest(ARRAY['', (SELECT vantage FROM relaytest.worker WHERE id = $1)]) AS place
     CROSS JOIN generate_series(0, 2) AS p CROSS JOIN generate_series(0, 15) AS l
     CROSS JOIN LATERAL (SELECT run_at FROM relaytest.job
                          WHERE NOT leased AND vantage = place AND priority = p AND lane = l
                          ORDER BY run_at, id LIMIT 1) AS first
"""
FINISH = """
    DELETE FROM relaytest.job
     WHERE id = $1 AND worker = $2 AND attempt = $3 AND leased
       AND NOT again AND further = '{}' AND $4::interval IS NULL
    RETURNING id
"""
REOPEN = """
    UPDATE relaytest.job
       SET leased = false, worker = NULL, lease_until = NULL, again = false,
           trial = CASE WHEN again OR $4::interval IS NULL THEN NULL ELSE trial END,
           vantage = CASE WHEN again OR $4::interval IS NOT NULL THEN vantage ELSE further[1] END,
           further = CASE WHEN again OR $4::interval IS NOT NULL THEN further ELSE further[2:] END,
           run_at = CASE WHEN again OR $4::interval IS NULL THEN now() ELSE now() + $4::interval END
     WHERE id = $1 AND worker = $2 AND attempt = $3 AND leased
    RETURNING trial IS NOT NULL
"""
RELEASE = """
    UPDATE relaytest.job
       SET leased = false, worker = NULL, lease_until = NULL, again = false, run_at = now()
     WHERE worker = $1 AND leased AND id <> ALL ($2::bigint[])
"""
RESCUE = """
    WITH lost AS (
        SELECT id FROM relaytest.job AS j
         WHERE leased AND (lease_until < now() OR j.worker = ANY ($1::integer[])
                           OR NOT EXISTS (SELECT FROM relaytest.worker AS w WHERE w.id = j.worker))
           FOR UPDATE SKIP LOCKED)
    UPDATE relaytest.job AS j
       SET leased = false, worker = NULL, lease_until = NULL, again = false,
           -- a job that kills its workers comes back more and more rarely
           run_at = now() + least(greatest(attempt - 1, 0) * interval '10 s', interval '10 min')
      FROM lost WHERE j.id = lost.id
    RETURNING j.id
"""
# Who did not beat for a minute has broken its visits off long ago (daemons.pulse).
REQUEUE = """
    WITH wanted AS MATERIALIZED (
        SELECT j.id, CASE WHEN j.leased AND w.id IS NULL THEN 'given back'
                          WHEN j.leased THEN 'runs, and then once more'
                          WHEN j.run_at > now() THEN 'pulled forward' END AS what
          FROM relaytest.job AS j
          LEFT JOIN relaytest.worker AS w
            ON w.id = j.worker AND w.beat_at > now() - interval '1 min'
         WHERE j.address <<= $1
           FOR UPDATE OF j)
    UPDATE relaytest.job AS j
       SET leased = again_then, again = again_then, held_by = NULL,
           trial = CASE WHEN again_then THEN trial
                        ELSE relaytest.unproven(trial, address, port) END,
           worker = CASE WHEN again_then THEN worker END,
           lease_until = CASE WHEN again_then THEN lease_until END,
           run_at = CASE WHEN again_then THEN run_at ELSE now() END,
           note = left(concat_ws('; ', $2::text, note), 2000)
      FROM (SELECT id, what, what LIKE 'runs%' AS again_then FROM wanted
             WHERE what IS NOT NULL) AS w
     WHERE j.id = w.id
    RETURNING j.id, j.address, j.port, w.what
"""
OPEN = "SELECT EXISTS (SELECT FROM relaytest.job WHERE address <<= $1)"
FOUND_SINCE = """
    SELECT DISTINCT v.address, v.port FROM relaytest.verdict AS v
     WHERE v.reason = $1 AND v.decided_at >= $2
       AND NOT EXISTS (SELECT FROM relaytest.verdict AS newer
                        WHERE newer.address = v.address AND newer.port = v.port
                          AND (newer.trial, newer.id) > (v.trial, v.id))
       AND NOT EXISTS (SELECT FROM relaytest.job AS j
                        WHERE j.address = v.address AND j.port = v.port)
     ORDER BY v.address, v.port
"""
JOIN_WORKERS = """
    INSERT INTO relaytest.worker (host, pid, vantage, version, slots)
    VALUES ($1, $2, $3, $4, $5) RETURNING id
"""
BEATS = "SELECT id, beat_at FROM relaytest.worker"
BEAT = "UPDATE relaytest.worker SET beat_at = now() WHERE id = $1"
LEAVE_WORKERS = "DELETE FROM relaytest.worker WHERE id = $1"
BURY_WORKERS = "DELETE FROM relaytest.worker WHERE beat_at < now() - interval '1 day'"
SEE_VANTAGES = """
    INSERT INTO relaytest.vantage AS v (name, seen_at, sources)
    SELECT w.vantage, max(w.beat_at),
           coalesce((SELECT array_agg(DISTINCT seen.source)
                       FROM (SELECT id FROM relaytest.trial AS t WHERE t.vantage = w.vantage
                              ORDER BY id DESC LIMIT 20) AS late
                       JOIN relaytest.session AS seen ON seen.trial = late.id
                      WHERE seen.source IS NOT NULL), '{}')
      FROM relaytest.worker AS w GROUP BY w.vantage
    ON CONFLICT (name) DO UPDATE SET
        seen_at = greatest(v.seen_at, excluded.seen_at),
        sources = CASE WHEN excluded.sources = '{}' THEN v.sources ELSE excluded.sources END
"""
# Nobody has been there for a day: what waits for that place begins anew anywhere.
FORSAKEN = """
    WITH moved AS (
        UPDATE relaytest.job AS j SET vantage = '', trial = NULL
          FROM relaytest.vantage AS v
         WHERE NOT relaytest.vantage_lives(v.name) AND NOT j.leased AND j.vantage = v.name
        RETURNING (SELECT trial FROM relaytest.job AS old WHERE old.id = j.id) AS trial)
    UPDATE relaytest.trial AS t SET ended = true, settle_at = now()
      FROM moved WHERE t.id = moved.trial AND t.visits > 0
    RETURNING t.id
"""
QUEUE = """
    SELECT priority, due, later, leased, oldest_due FROM relaytest.queue_status ORDER BY priority
"""
RING = "SELECT pg_notify('relaytest_job', '')"


_TOO_SOON = "RT001"  # SQLSTATE of relaytest's own: a removal was requested a short while ago


@dataclass(frozen=True, slots=True)
class Request:
    """One INSERT into the view relaytest.retest; None lets the database choose."""

    target: str
    reason: str
    port: int | None = None
    priority: int | None = None
    run_at: datetime | None = None
    requester: str | None = None
    note: str | None = None
    vantage: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job.

    Attributes:
        attempt: Fencing token of the lease.
        trial: Whose tokens to use; it exists.
        visits: Visits of the trial that have ended.
        key: Signs its tokens, at every visit the same.
        waited: Since it was due.
    """

    id: int
    address: Address
    port: int
    reason: str
    attempt: int
    trial: int
    worker: int
    visits: int
    key: bytes = field(repr=False)
    waited: timedelta = timedelta(0)


class Ending(enum.Enum):
    """What became of a job, or rather of its trial."""

    ENDED = "ended"  # no further visit for this trial
    CONTINUES = "continues"  # the same trial is visited again
    LOST = "lost"  # another worker has the job: write nothing about it


async def enqueue(connection: Connection, request: Request) -> int | None:
    """Ask for a retest; return the job's id, an older one's if it joined that.

    A name has no job yet: None. It gets one for each of its addresses once they are known.

    Raises:
        RefusedRequestError: The target or the reason will not do; the text says why.
    """
    try:
        job: int | None = await connection.fetchval(
            ENQUEUE,
            request.target,
            request.port,
            request.reason,
            request.priority,
            request.run_at,
            request.requester,
            request.note,
            request.vantage,
        )
    except (
        asyncpg.DataError,
        asyncpg.IntegrityConstraintViolationError,
        asyncpg.ProgramLimitExceededError,
    ) as error:
        raise RefusedRequestError(error.message or str(error), error.hint or "") from None
    except asyncpg.PostgresError as error:
        if error.sqlstate != _TOO_SOON:
            raise
        raise RefusedRequestError(f"{error.message}. {error.detail}", error.hint or "") from None
    return job


async def claim(
    connection: Connection, worker: int, most: int, lease: timedelta, *, from_below: bool = False
) -> list[Job]:
    """Take up to `most` ready jobs for a worker's vantage. No job is ever given to two workers.

    Args:
        connection: Inside a transaction.
        worker: Whose vantage counts; an unknown one gets nothing.
        most: At most so many.
        lease: How long they are its own.
        from_below: The least urgent first; once in a while, so that none waits for ever.
    """
    rows = await connection.fetch(CLAIM, worker, most, lease, from_below)
    return [Job(**row) for row in rows]


async def next_due(connection: Connection, worker: int) -> timedelta | None:
    """Return how long until a worker's next job is due (by the database's clock), or None."""
    due: timedelta | None = await connection.fetchval(NEXT_DUE, worker)
    return due


async def finish(connection: Connection, job: Job, *, retry_in: timedelta | None) -> Ending:
    """End the job, or put it back for `retry_in`; asked for again meanwhile, it runs anew."""
    key = (job.id, job.worker, job.attempt, retry_in)
    if await connection.fetchval(FINISH, *key) is not None:
        return Ending.ENDED
    goes_on: bool | None = await connection.fetchval(REOPEN, *key)
    if goes_on is None:
        return Ending.LOST
    return Ending.CONTINUES if goes_on else Ending.ENDED


async def release(connection: Connection, worker: int, but: Sequence[int] = ()) -> None:
    """Give back all jobs of a worker, but those that it has in hand."""
    await connection.execute(RELEASE, worker, but)
    await connection.execute(RING)


async def beats(connection: Connection) -> dict[int, datetime]:
    """Return the last beat of each worker, by whatever clock the database then had."""
    return {row["id"]: row["beat_at"] for row in await connection.fetch(BEATS)}


async def rescue(connection: Connection, dead: Sequence[int] = ()) -> int:
    """Free the jobs of dead workers, of those that are gone, and those past their lease."""
    freed: Sequence[asyncpg.Record] = await connection.fetch(RESCUE, dead)
    await connection.execute(SEE_VANTAGES)
    await connection.execute(BURY_WORKERS)
    await connection.execute(FORSAKEN)
    if freed:
        await connection.execute(RING)
    return len(freed)


async def requeue(connection: Connection, network: Network, why: str) -> list[asyncpg.Record]:
    """Let the open jobs in a network run now; return id, address, port and what, of each.

    What waits is pulled forward, what a dead worker has is given back, and what is under way
    runs once more.
    """
    rows: list[asyncpg.Record] = await connection.fetch(REQUEUE, network, why)
    await connection.execute(RING)
    return rows


async def is_open(connection: Connection, network: Network) -> bool:
    """Whether there is an open job in a network."""
    return bool(await connection.fetchval(OPEN, network))


async def found_since(
    connection: Connection, reason: str, since: datetime
) -> list[tuple[Address, int]]:
    """Return targets whose last verdict, since then, has a reason, and that have no open job."""
    return [(row[0], row[1]) for row in await connection.fetch(FOUND_SINCE, reason, since)]


async def join_workers(
    connection: Connection, *, host: str, pid: int, vantage: str, version: str, slots: int
) -> int:
    """Make a worker known; return its id."""
    worker: int = await connection.fetchval(JOIN_WORKERS, host, pid, vantage, version, slots)
    return worker


async def beat(connection: Connection, worker: int) -> bool:
    """Say that the worker lives. False: it was buried meanwhile and must join anew."""
    done: str = await connection.execute(BEAT, worker)
    return done != "UPDATE 0"


async def leave_workers(connection: Connection, worker: int) -> None:
    """Forget a worker that ended."""
    await connection.execute(LEAVE_WORKERS, worker)


async def queue_status(connection: Connection) -> list[asyncpg.Record]:
    """Return the rows of the view relaytest.queue_status."""
    return await connection.fetch(QUEUE)
