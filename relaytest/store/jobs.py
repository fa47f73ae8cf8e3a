"""The job queue (sql/0001_queue.sql). A job is an open request to test one target.

States: waiting (run_at in the future), ready, leased to a worker. A finished job leaves the
table. A worker that dies leaves its jobs leased until its heartbeat or the lease is too old;
`rescue` makes them ready again. `attempt` only grows and is the fencing token: a worker that
lost its lease cannot finish the job any more.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from relaytest.core.errors import RefusedRequestError
from relaytest.core.target import Address
from relaytest.store.database import Connection

ENQUEUE = """
    INSERT INTO relaytest.retest (target, port, reason, priority, run_at, requester, note)
    VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id
"""
# One index range for each priority, so that jobs of the future are never walked.
CLAIM = """
    WITH due AS MATERIALIZED (
        SELECT ready.id
          FROM generate_series(0, 2) AS p
          CROSS JOIN LATERAL (SELECT id, priority, run_at FROM relaytest.job
                               WHERE NOT leased AND priority = p AND run_at <= now()
                               ORDER BY run_at, id LIMIT $2 FOR UPDATE SKIP LOCKED) AS ready
         ORDER BY ready.priority, ready.run_at, ready.id LIMIT $2),
    claimed AS (
        UPDATE relaytest.job AS j
           SET leased = true, worker = $1, lease_until = now() + $3, attempt = attempt + 1,
               trial = coalesce(trial, nextval('relaytest.trial_id'))
          FROM due WHERE j.id = due.id
        RETURNING j.*),
    begun AS (
        INSERT INTO relaytest.trial (id, job, address, port, reason, requester)
        SELECT trial, id, address, port, reason, requester FROM claimed
        ON CONFLICT (id) DO NOTHING)
    SELECT c.id, c.address, c.port, c.reason::text, c.attempt, c.trial, c.worker,
           coalesce(t.visits, 0) AS visits
      FROM claimed AS c LEFT JOIN relaytest.trial AS t ON t.id = c.trial
     ORDER BY c.priority, c.run_at, c.id
"""
NEXT_DUE = """
    SELECT min(first.run_at) - now() FROM generate_series(0, 2) AS p
     CROSS JOIN LATERAL (SELECT run_at FROM relaytest.job WHERE NOT leased AND priority = p
                          ORDER BY run_at, id LIMIT 1) AS first
"""
FINISH = """
    DELETE FROM relaytest.job
     WHERE id = $1 AND worker = $2 AND attempt = $3 AND leased
       AND NOT again AND $4::interval IS NULL
    RETURNING id
"""
REOPEN = """
    UPDATE relaytest.job
       SET leased = false, worker = NULL, lease_until = NULL, again = false,
           trial = CASE WHEN again THEN NULL ELSE trial END,
           run_at = CASE WHEN again THEN now() ELSE now() + $4 END
     WHERE id = $1 AND worker = $2 AND attempt = $3 AND leased
    RETURNING trial IS NOT NULL
"""
RELEASE = """
    UPDATE relaytest.job
       SET leased = false, worker = NULL, lease_until = NULL, again = false, run_at = now()
     WHERE worker = $1 AND leased
"""
RESCUE = """
    WITH lost AS (
        SELECT id FROM relaytest.job AS j
         WHERE leased AND (lease_until < now() OR NOT EXISTS (
                   SELECT FROM relaytest.worker AS w
                    WHERE w.id = j.worker
                      -- nobody could beat before the server was up
                      AND greatest(w.beat_at, pg_postmaster_start_time()) > now() - $1::interval))
           FOR UPDATE SKIP LOCKED)
    UPDATE relaytest.job AS j
       SET leased = false, worker = NULL, lease_until = NULL, again = false,
           -- a job that kills its workers comes back more and more rarely
           run_at = now() + least(greatest(attempt - 1, 0) * interval '10 s', interval '10 min')
      FROM lost WHERE j.id = lost.id
    RETURNING j.id
"""
JOIN_WORKERS = """
    INSERT INTO relaytest.worker (host, pid, vantage, version, slots)
    VALUES ($1, $2, $3, $4, $5) RETURNING id
"""
BEAT = "UPDATE relaytest.worker SET beat_at = now() WHERE id = $1"
LEAVE_WORKERS = "DELETE FROM relaytest.worker WHERE id = $1"
BURY_WORKERS = "DELETE FROM relaytest.worker WHERE beat_at < now() - interval '1 day'"
QUEUE = """
    SELECT priority, due, later, leased, oldest_due FROM relaytest.queue_status ORDER BY priority
"""
RING = "SELECT pg_notify('relaytest_job', '')"


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


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job.

    Attributes:
        attempt: Fencing token of the lease.
        trial: Whose tokens to use; it exists.
        visits: Visits of the trial that have ended.
    """

    id: int
    address: Address
    port: int
    reason: str
    attempt: int
    trial: int
    worker: int
    visits: int


class Ending(enum.Enum):
    """What became of a job, or rather of its trial."""

    ENDED = "ended"  # no further visit for this trial
    CONTINUES = "continues"  # the same trial is visited again
    LOST = "lost"  # another worker has the job: write nothing about it


async def enqueue(connection: Connection, request: Request) -> int:
    """Ask for a retest; return the job's id, an older one's if it joined that.

    Raises:
        RefusedRequestError: The target or the reason will not do; the text says why.
    """
    try:
        job: int = await connection.fetchval(
            ENQUEUE,
            request.target,
            request.port,
            request.reason,
            request.priority,
            request.run_at,
            request.requester,
            request.note,
        )
    except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
        raise RefusedRequestError(error.message or str(error), error.hint or "") from None
    return job


async def claim(connection: Connection, worker: int, most: int, lease: timedelta) -> list[Job]:
    """Take up to `most` of the most urgent ready jobs. No job is ever given to two workers."""
    return [Job(**row) for row in await connection.fetch(CLAIM, worker, most, lease)]


async def next_due(connection: Connection) -> timedelta | None:
    """Return how long until the next job is due (by the database's clock), or None if none is."""
    due: timedelta | None = await connection.fetchval(NEXT_DUE)
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


async def release(connection: Connection, worker: int) -> None:
    """Give all jobs of a worker back at once, for another to take."""
    await connection.execute(RELEASE, worker)
    await connection.execute(RING)


async def rescue(connection: Connection, silence: timedelta) -> int:
    """Free the jobs of workers that were silent for `silence`, and those past their lease."""
    freed: Sequence[asyncpg.Record] = await connection.fetch(RESCUE, silence)
    await connection.execute(BURY_WORKERS)
    if freed:
        await connection.execute(RING)
    return len(freed)


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
