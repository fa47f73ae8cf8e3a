"""Limits of networks under load, and a queue that VACUUM cannot clean.

The first part is a closed loop: two claimers with 100 slots each over a million jobs (50 in each
/24), behind a sweep of 50 whole /24s, one target of a /24 at once, "probes" of 0.2 to 0.4 s. The
second churns jobs while another transaction holds the horizon, so that no dead row can be removed.
"""

import asyncio
import collections
import random
import statistics
import time
from datetime import timedelta

import asyncpg

from relaytest.store import jobs
from relaytest.store.jobs import Job
from tests.bench.report import Report, Row
from tests.bench.system import settings, upgraded
from tests.postgres import temporary_cluster

SECONDS = 12.0
CLAIMERS, SLOTS, MEAN = 2, 100, 0.3
LEASE = timedelta(minutes=10)
CHURN, STEP = 60_000, 10_000
FILL = """
    INSERT INTO relaytest.job (address, reason, priority, run_at, requester)
    SELECT '11.0.0.0'::inet + n, 'operator'::relaytest.reason, 1,
           now() - interval '1 hour' + n * interval '1 ms', 'x'
      FROM generate_series(0, 50 * 256 - 1) AS n
    UNION ALL
    SELECT '12.0.0.0'::inet + 256 * (n % ($1 / 50)) + n / ($1 / 50), 'operator', 1,
           now() - interval '30 min' + n * interval '1 ms', 'x'
      FROM generate_series(0, $1::bigint - 1) AS n
"""
MORE = """
    INSERT INTO relaytest.job (address, reason, priority, run_at, requester)
    SELECT '13.0.0.0'::inet + 256 * n, 'operator', 1, now(), 'x'
      FROM generate_series($1::bigint, $2::bigint) AS n
"""


def run() -> Report:
    """Run both parts."""
    rows: list[Row] = []
    for backlog in (0, 1_000_000):
        with temporary_cluster() as cluster:
            upgraded(settings(cluster.dsn()))
            rows.append(asyncio.run(_closed_loop(cluster.dsn(), max(backlog, 50_000))))
    for held in (False, True):
        with temporary_cluster() as cluster:
            upgraded(settings(cluster.dsn()))
            rows += asyncio.run(_churn(cluster.dsn(), held=held))
    return Report(
        "caps: limits under load, and a held horizon",
        ("what", "probes/s", "of the ideal", "over the limit", "claim of 10 p50 ms", "p99 ms"),
        rows,
        (
            f"{CLAIMERS} claimers x {SLOTS} slots, probes of {MEAN} s on average: "
            f"{CLAIMERS * SLOTS / MEAN:.0f} a second would be ideal.",
        ),
    )


async def _closed_loop(dsn: str, backlog: int) -> Row:
    boss = await asyncpg.connect(dsn, timeout=60)
    await boss.execute("UPDATE relaytest.network_limit SET at_once = 1 WHERE network = '0.0.0.0/0'")
    await boss.execute(FILL, backlog)
    await boss.execute("VACUUM ANALYZE relaytest.job")
    loop = _Loop()
    async with asyncio.TaskGroup() as group:
        for _ in range(CLAIMERS):
            group.create_task(_claimer(dsn, loop))
    await boss.close()
    cuts = statistics.quantiles(loop.claims, n=100)
    rate = loop.done / SECONDS
    ideal = CLAIMERS * SLOTS / MEAN
    what = f"closed loop, {backlog:,} jobs"
    return (what, rate, rate / ideal, loop.over, cuts[49] * 1000, cuts[98] * 1000)


class _Loop:
    """What the claimers share to be judged by."""

    def __init__(self) -> None:
        self.until = time.monotonic() + SECONDS
        self.claims: list[float] = []
        self.done = self.over = 0
        self.at_once: collections.Counter[str] = collections.Counter()


async def _claimer(dsn: str, loop: _Loop) -> None:
    async with asyncpg.create_pool(dsn, min_size=4, max_size=4) as pool:
        async with pool.acquire() as connection:
            worker = await jobs.join_workers(
                connection, host="bench", pid=1, vantage="default", version="1", slots=SLOTS
            )
        free = asyncio.Semaphore(SLOTS)
        async with asyncio.TaskGroup() as probes:
            while time.monotonic() < loop.until:
                await free.acquire()
                most = 1
                while most < 10 and not free.locked():
                    await free.acquire()
                    most += 1
                begun = time.perf_counter()
                async with pool.acquire() as connection:
                    claimed = await jobs.claim(connection, worker, most, LEASE)
                loop.claims.append(time.perf_counter() - begun)
                for _ in range(most - len(claimed)):
                    free.release()
                for job in claimed:
                    probes.create_task(_probe(pool, job, loop, free))
                if not claimed:
                    await asyncio.sleep(0.005)


async def _probe(pool: asyncpg.Pool, job: Job, loop: _Loop, free: asyncio.Semaphore) -> None:
    network = str(job.address).rpartition(".")[0]
    loop.at_once[network] += 1
    loop.over += loop.at_once[network] > 1
    await asyncio.sleep(random.uniform(0.2, 0.4))
    loop.at_once[network] -= 1
    async with pool.acquire() as connection:
        await jobs.finish(connection, job, retry_in=None)
    loop.done += time.monotonic() < loop.until
    free.release()


async def _churn(dsn: str, *, held: bool) -> list[Row]:
    connection, other = await asyncpg.connect(dsn), await asyncpg.connect(dsn, timeout=60)
    worker = await jobs.join_workers(
        connection, host="bench", pid=1, vantage="default", version="1", slots=1
    )
    if held:
        await other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM relaytest.job")
    rows: list[Row] = []
    for first in range(0, CHURN, STEP):
        await connection.execute(MORE, first, first + STEP - 1)
        claims: list[float] = []
        for _ in range(STEP // 10):
            begun = time.perf_counter()
            claimed = await jobs.claim(connection, worker, 10, LEASE)
            claims.append(time.perf_counter() - begun)
            await connection.execute(
                "DELETE FROM relaytest.job WHERE id = ANY($1)", [job.id for job in claimed]
            )
        await connection.execute("VACUUM relaytest.job")
        cuts = statistics.quantiles(claims, n=100)
        if first + STEP in {STEP, CHURN}:
            what = f"{first + STEP:,} jobs done, horizon {'held' if held else 'free'}"
            rows.append((what, None, None, None, cuts[49] * 1000, cuts[98] * 1000))
    await connection.close()
    await other.close()
    return rows
