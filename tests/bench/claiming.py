"""What a claim costs, however much waits: batches, backlogs, and beside a bare SKIP LOCKED."""

import asyncio
import statistics
import time
from datetime import timedelta

import asyncpg

from relaytest.store import jobs
from tests.bench.report import Report, Row
from tests.bench.system import settings, upgraded
from tests.postgres import temporary_cluster

BACKLOGS = (10_000, 1_000_000)
FUTURE = 1_000_000
BATCHES = (1, 10, 100)
CLAIMS = 60  # of each batch
LEASE = timedelta(minutes=10)

# A /24 for each, as in a scan of the whole Internet; past the view, which is measured elsewhere.
FILL = """
    INSERT INTO relaytest.job (address, reason, priority, run_at, requester)
    SELECT '11.0.0.0'::inet + 256 * n, 'operator', 1 + n % 2,
           $2::timestamptz + n * interval '1 ms', 'tool' || n % 5
      FROM generate_series($3::bigint, $3 + $1 - 1) AS n
"""
# What any queue on PostgreSQL does at least: no limits, no lanes, no places, no trial.
BARE = """
    WITH due AS MATERIALIZED (
        SELECT id FROM relaytest.job
         WHERE NOT leased AND vantage = '' AND priority = 1 AND lane = $3 AND run_at <= now()
         ORDER BY run_at, id LIMIT $2 FOR UPDATE SKIP LOCKED)
    UPDATE relaytest.job AS j
       SET leased = true, worker = $1, lease_until = now() + interval '10 min',
           attempt = attempt + 1
      FROM due WHERE j.id = due.id RETURNING j.id
"""


def run() -> Report:
    """Fill the queue step by step, and claim at each."""
    with temporary_cluster() as cluster:
        upgraded(settings(cluster.dsn()))
        rows = asyncio.run(_measure(cluster.dsn()))
    return Report(
        "claim: milliseconds of one claim, and jobs a second with finish",
        ("queue", "batch", "claim p50", "claim p99", "jobs/s", "bare SKIP LOCKED p50", "ratio"),
        rows,
        (
            "One connection. A claim takes turns between requesters, keeps the limits of every "
            "/24 exact and makes the trial; the bare one takes the next rows. jobs/s is claim "
            "and finish, each job in a transaction of its own.",
        ),
    )


async def _measure(dsn: str) -> list[Row]:
    connection = await asyncpg.connect(dsn, server_settings={"jit": "off"})
    worker = await jobs.join_workers(
        connection, host="bench", pid=1, vantage="default", version="1", slots=1
    )
    rows: list[Row] = []
    there = 0
    yesterday = await connection.fetchval("SELECT now() - interval '1 day'")
    for backlog in BACKLOGS:
        await connection.execute(FILL, backlog - there, yesterday, there)
        there = backlog
        rows += await _batches(connection, worker, f"{backlog:,} due")
    tomorrow = await connection.fetchval("SELECT now() + interval '1 day'")
    await connection.execute(FILL, FUTURE, tomorrow, there)
    rows += await _batches(connection, worker, f"{there:,} due, {FUTURE:,} future")
    await connection.close()
    return rows


async def _batches(connection: asyncpg.Connection, worker: int, queue: str) -> list[Row]:
    await connection.execute("VACUUM ANALYZE relaytest.job")
    return [await _batch(connection, worker, queue, batch) for batch in BATCHES]


async def _batch(connection: asyncpg.Connection, worker: int, queue: str, batch: int) -> Row:
    claims, bare, done, spent = [], [], 0, 0.0
    lane = await connection.fetchval("SELECT lane FROM relaytest.job WHERE priority = 1 LIMIT 1")
    for _ in range(CLAIMS):
        begun = time.perf_counter()
        claimed = await jobs.claim(connection, worker, batch, LEASE)
        claims.append(time.perf_counter() - begun)
        for job in claimed:
            await jobs.finish(connection, job, retry_in=None)
        spent += time.perf_counter() - begun
        done += len(claimed)
        begun = time.perf_counter()
        taken = await connection.fetch(BARE, worker, batch, lane)
        bare.append(time.perf_counter() - begun)
        await connection.execute(
            "DELETE FROM relaytest.job WHERE id = ANY($1)", [row["id"] for row in taken]
        )
    ours, theirs = statistics.median(claims), statistics.median(bare)
    p99 = statistics.quantiles(claims, n=100)[98]
    return (
        queue,
        str(batch),
        f"{ours * 1000:.2f}",
        f"{p99 * 1000:.2f}",
        f"{done / spent:.0f}",
        f"{theirs * 1000:.2f}",
        f"{ours / theirs:.1f}",
    )
