"""The queue beside other queues on PostgreSQL, and beside pgbench with the same SQL."""

import asyncio
import contextlib
import importlib
import importlib.util
import itertools
import re
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import asyncpg

from relaytest.store import jobs
from relaytest.store.binaries import find_binaries
from tests.bench.report import Report, Row, missing
from tests.bench.system import settings, upgraded
from tests.postgres import temporary_cluster

BATCHES = (1, 10, 100)
JOBS = {1: 1500, 10: 5000, 100: 10_000}  # of one round
ROUNDS = 3  # alternating; the median counts
LEASE = timedelta(minutes=10)
INSTALL = "pip install pgqueuer procrastinate 'psycopg[binary]'"

# Of one round: jobs, batch; returns when all are in the queue, or all are done.
Part = Callable[[int, int], Awaitable[None]]
INSERT = """
    INSERT INTO relaytest.retest (target, reason)
    SELECT host('11.0.0.0'::inet + 256 * n), 'operator'
      FROM generate_series($1::bigint, $2::bigint) AS n
"""
# What the claim and the end of a job cost PostgreSQL, without a driver and a program.
PGBENCH = {
    "enqueue": """
\\set first random(1, 65000) * 256 + :client_id * 16777216
INSERT INTO relaytest.retest (target, reason)
SELECT host('11.0.0.0'::inet + :first + 256 * n), 'operator' FROM generate_series(1, {batch}) AS n;
""",
    "claim": """
WITH claimed AS MATERIALIZED (SELECT * FROM relaytest.claim(:worker, {batch}, '10 min')),
     begun AS (INSERT INTO relaytest.trial (id, job, address, port, reason, requester, vantage)
               SELECT trial, id, address, port, reason, requester, 'default' FROM claimed)
SELECT array_agg(id) AS ids FROM claimed \\gset
DELETE FROM relaytest.job WHERE id = ANY(':ids'::bigint[]);
""",
}


def run() -> Report:
    """Let each fill its queue and empty it, in turns."""
    rows = asyncio.run(_measure())
    return Report(
        "queues: jobs a second",
        (
            "queue",
            *(f"{what} {batch}" for what in ("enqueue", "claim+finish") for batch in BATCHES),
        ),
        rows,
        (
            "One connection each, PostgreSQL with fsync off on the same machine; median of "
            f"{ROUNDS} alternating rounds; the number in the head is the batch. relaytest keeps "
            "the limit of every /24, takes turns between requesters and makes a trial of each "
            "job, and ends jobs one by one; pgqueuer and procrastinate do none of that here.",
        ),
    )


async def _measure() -> list[Row]:
    found: dict[str, dict[tuple[str, int], list[float]]] = {}
    absent: list[Row] = []
    for _ in range(ROUNDS):
        absent.clear()
        for name, contestant in CONTESTANTS.items():
            if module := next((one for one in contestant[1] if not _is_there(one)), None):
                absent.append(missing(name, f"no {module}; {INSTALL}"))
                continue
            with temporary_cluster() as cluster:
                async with contestant[0](cluster.dsn()) as (enqueue, finish):
                    for batch in BATCHES:
                        for what, part in (("enqueue", enqueue), ("claim+finish", finish)):
                            begun = time.perf_counter()
                            await part(JOBS[batch], batch)
                            rate = JOBS[batch] / (time.perf_counter() - begun)
                            found.setdefault(name, {}).setdefault((what, batch), []).append(rate)
    order = [("enqueue", batch) for batch in BATCHES] + [("claim+finish", b) for b in BATCHES]
    rows: list[Row] = [
        (name, *(round(statistics.median(found[name][part])) for part in order)) for name in found
    ]
    with temporary_cluster() as cluster:
        upgraded(settings(cluster.dsn()))
        rows.append(await _pgbench(cluster.dsn()))
    return [*rows, *absent]


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


@contextlib.asynccontextmanager
async def _relaytest(dsn: str) -> AsyncIterator[tuple[Part, Part]]:
    upgraded(settings(dsn))
    connection = await asyncpg.connect(dsn, server_settings={"jit": "off"})
    worker = await jobs.join_workers(
        connection, host="bench", pid=1, vantage="default", version="1", slots=1
    )
    first = itertools.count(step=20_000)

    async def enqueue(count: int, batch: int) -> None:
        start = next(first)
        for done in range(0, count, batch):
            await connection.execute(INSERT, start + done, start + done + batch - 1)

    async def finish(count: int, batch: int) -> None:
        while count:
            claimed = await jobs.claim(connection, worker, batch, LEASE)
            for job in claimed:
                await jobs.finish(connection, job, retry_in=None)
            count -= len(claimed)

    yield enqueue, finish
    await connection.close()


@contextlib.asynccontextmanager
async def _pgqueuer(dsn: str) -> AsyncIterator[tuple[Part, Part]]:
    guest = importlib.import_module("pgqueuer.queries")
    connection = await asyncpg.connect(dsn)
    queries = guest.Queries(importlib.import_module("pgqueuer.db").AsyncpgDriver(connection))
    await queries.install()
    points = {"test": guest.EntrypointExecutionParameter(concurrency_limit=0)}
    manager = uuid.uuid4()

    async def enqueue(count: int, batch: int) -> None:
        for _ in range(0, count, batch):
            await queries.enqueue(["test"] * batch, [None] * batch, [0] * batch)

    async def finish(count: int, batch: int) -> None:
        while count:
            taken = await queries.dequeue(
                batch, points, manager, global_concurrency_limit=None, heartbeat_timeout=LEASE
            )
            await queries.log_jobs([(job, "successful", None) for job in taken])
            count -= len(taken)

    yield enqueue, finish
    await connection.close()


@contextlib.asynccontextmanager
async def _procrastinate(dsn: str) -> AsyncIterator[tuple[Part, Part]]:
    procrastinate = importlib.import_module("procrastinate")
    done = importlib.import_module("procrastinate.jobs").Status.SUCCEEDED
    app = procrastinate.App(
        connector=procrastinate.PsycopgConnector(conninfo=dsn, min_size=1, max_size=1)
    )
    task = app.task(name="test")(lambda: None)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        worker = await app.job_manager.register_worker()

        async def enqueue(count: int, batch: int) -> None:
            for _ in range(0, count, batch):
                if batch == 1:
                    await task.defer_async()
                else:
                    await task.batch_defer_async(*[{} for _ in range(batch)])

        async def finish(count: int, batch: int) -> None:
            for _ in range(count):  # it takes one job at a time
                job = await app.job_manager.fetch_job(queues=None, worker_id=worker)
                await app.job_manager.finish_job(job, status=done, delete_job=True)

        yield enqueue, finish


async def _pgbench(dsn: str) -> Row:
    connection = await asyncpg.connect(dsn)
    worker = await jobs.join_workers(
        connection, host="bench", pid=1, vantage="default", version="1", slots=1
    )
    found = {}
    for what, batch in itertools.product(PGBENCH, BATCHES):
        if what == "claim":
            await connection.execute("DELETE FROM relaytest.job")
            await connection.execute(INSERT, 0, 2 * JOBS[batch])
        turns = JOBS[batch] // batch
        script = PGBENCH[what].format(batch=batch)
        tps = await asyncio.to_thread(_run_pgbench, dsn, script, turns, worker)
        found[what, batch] = round(tps * batch)
    await connection.close()
    return ("pgbench, our SQL", *found.values())


def _run_pgbench(dsn: str, script: str, turns: int, worker: int) -> float:
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        Path(file.name).write_text(script, "utf-8")
        said = subprocess.run(
            [
                find_binaries() / "pgbench",
                *("--no-vacuum", "-c", "1", "-t", str(turns), "-D", f"worker={worker}"),
                *("-f", file.name, dsn),
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        ).stdout
    match = re.search(r"tps = ([\d.]+)", said)
    assert match, said
    return float(match[1])


CONTESTANTS: dict[
    str,
    tuple[
        Callable[[str], contextlib.AbstractAsyncContextManager[tuple[Part, Part]]], tuple[str, ...]
    ],
] = {
    "relaytest": (_relaytest, ()),
    "pgqueuer": (_pgqueuer, ("pgqueuer",)),
    "procrastinate": (_procrastinate, ("procrastinate", "psycopg")),
}
