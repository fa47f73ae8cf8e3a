"""From INSERT to the first packet: how soon a running worker goes to a target that is asked for."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from ipaddress import ip_address

import asyncpg

from tests.bench.processes import beside, program
from tests.bench.report import Report, Row
from tests.bench.system import settings, upgraded
from tests.mta.process import fresh_address
from tests.postgres import temporary_cluster

INSERTS = 100  # in one turn
TURNS = 2  # with an empty queue, and as many with a full one
WARM_UP = 5
PAUSE = 0.03  # seconds between two INSERTs
FUTURE = 10_000
PORT = 2525
EMPTY, FULL = "empty", f"{FUTURE} future jobs"

INSERT = "INSERT INTO relaytest.retest (target, port, reason) VALUES ($1, $2, 'nominated')"
# Nobody will ever go there: they are due tomorrow, and the database is gone in a minute.
FILL = """
    INSERT INTO relaytest.retest (target, port, reason, run_at)
    SELECT host('127.66.0.0'::inet + n), 9, 'nominated', now() + interval '1 day'
      FROM generate_series(1, $1) AS n
"""
CLEAR = "DELETE FROM relaytest.job WHERE port = 9"


def run() -> Report:
    """Measure, turn by turn, with an empty queue and with one full of future jobs."""
    hosts = [fresh_address() for _ in range(WARM_UP + 2 * TURNS * INSERTS)]
    with temporary_cluster() as cluster:
        values = upgraded(settings(cluster.dsn()))
        with beside("note-accepts", PORT, *hosts) as clock, program("worker", values):
            begun = asyncio.run(_insert_all(cluster.dsn(), hosts))
            accepted = dict(line.split() for line in clock.end().splitlines())
    rows = [_row(queue, its, accepted) for queue, its in begun.items()]
    return Report(
        "queue: from INSERT to the target's accept(), milliseconds",
        ("queue", "INSERTs", "arrived", "p50", "p90", "p99", "longest", "the INSERT itself, p50"),
        rows,
        (
            "Worker, PostgreSQL (fsync off) and target are processes of their own; the time "
            "begins before the INSERT is sent. The goal is a p50 of 20 ms at most.",
        ),
    )


# Of each INSERT: the target, when it began, and when it was committed.
Insert = tuple[str, float, float]


async def _insert_all(dsn: str, hosts: Sequence[str]) -> dict[str, list[Insert]]:
    """Make all INSERTs, the turns of the two queues alternating."""
    inserts: dict[str, list[Insert]] = {EMPTY: [], FULL: []}
    connection = await asyncpg.connect(dsn)
    await until_a_worker_is_there(connection)
    await _insert(connection, hosts[:WARM_UP])
    for turn in range(2 * TURNS):
        first = WARM_UP + turn * INSERTS
        queue = FULL if turn % 2 else EMPTY
        await (connection.execute(FILL, FUTURE) if queue == FULL else connection.execute(CLEAR))
        await connection.execute("ANALYZE relaytest.job")
        await asyncio.sleep(0.2)
        inserts[queue] += await _insert(connection, hosts[first : first + INSERTS])
    await asyncio.sleep(1)  # for the last one to arrive
    await connection.close()
    return inserts


async def until_a_worker_is_there(connection: asyncpg.Connection) -> None:
    async with asyncio.timeout(20):
        while not await connection.fetchval("SELECT count(*) FROM relaytest.worker"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)  # until it listens


async def _insert(connection: asyncpg.Connection, hosts: Sequence[str]) -> list[Insert]:
    inserts = []
    for host in hosts:
        begun = time.monotonic()
        await connection.execute(INSERT, str(ip_address(host)), PORT)
        inserts.append((host, begun, time.monotonic()))
        await asyncio.sleep(PAUSE)
    return inserts


def _row(queue: str, inserts: Sequence[Insert], accepted: dict[str, str]) -> Row:
    waits = sorted(
        1000 * (float(accepted[host]) - begun) for host, begun, _ in inserts if host in accepted
    )
    cuts = statistics.quantiles(waits, n=100, method="inclusive")
    own = statistics.median(1000 * (done - begun) for _, begun, done in inserts)
    return (queue, len(inserts), len(waits), cuts[49], cuts[89], cuts[98], waits[-1], own)
