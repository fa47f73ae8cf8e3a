"""From INSERT to the first packet: how soon a running worker goes to a target that is asked for."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from ipaddress import ip_address
from typing import NamedTuple

import asyncpg

from tests.bench.processes import beside, program
from tests.bench.report import Report, Row
from tests.bench.system import settings, upgraded
from tests.mta.process import fresh_address
from tests.postgres import temporary_cluster

INSERTS = 100  # in one turn
TURNS = 2  # with each queue
WARM_UP = 5
PAUSE = 0.03  # seconds between two INSERTs
QUEUES = (0, 10_000, 1_000_000)  # jobs of the future
PORT = 2525

INSERT = "INSERT INTO relaytest.retest (target, port, reason) VALUES ($1, $2, 'nominated')"
# Nobody will ever go there: they are due tomorrow, and the database is gone in a minute.
FILL = """
    INSERT INTO relaytest.job (address, port, reason, priority, run_at, requester)
    SELECT '11.0.0.0'::inet + 256 * n, 9, 'nominated', 1, now() + interval '1 day', 'bench'
      FROM generate_series(1, $1::bigint) AS n
"""
CLEAR = "DELETE FROM relaytest.job WHERE port = 9"
# A claim makes the trial; the trigger fires when its transaction commits.
NOTE_CLAIMS = """
    CREATE TABLE public.claimed (address inet, at float8);
    CREATE FUNCTION public.note_claim() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        INSERT INTO public.claimed
        VALUES (NEW.address, extract(epoch FROM clock_timestamp()));
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER note_claim AFTER INSERT ON relaytest.trial
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.note_claim();
"""
NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
CLAIMED = "SELECT host(address), at FROM public.claimed"


def run() -> Report:
    """Measure, turn by turn, with an empty queue and with others full of future jobs."""
    hosts = [fresh_address() for _ in range(WARM_UP + len(QUEUES) * TURNS * INSERTS)]
    with temporary_cluster() as cluster:
        values = upgraded(settings(cluster.dsn()))
        with beside("note-accepts", PORT, *hosts) as clock, program("worker", values):
            inserts, claimed = asyncio.run(_insert_all(cluster.dsn(), hosts))
            lines = (line.split() for line in clock.end().splitlines())
            accepted = {host: float(at) for host, at in lines}
    rows = []
    for queue, its in inserts.items():
        name = f"{queue:,} future jobs"
        rows.append(_row(name, "the INSERT itself", its, {one.host: one.done for one in its}))
        rows.append(_row("", "INSERT to claimed", its, claimed))
        rows.append(_row("", "INSERT to accept()", its, accepted))
    return Report(
        "queue: from INSERT to the claim, and to the target's accept(), milliseconds",
        ("queue", "what", "INSERTs", "arrived", "p50", "p90", "p99", "longest"),
        rows,
        (
            "Worker, PostgreSQL (fsync off) and target are processes of their own; the time begins "
            "before the INSERT is sent. Claimed is when the claim commits, by a trigger. The goals "
            "are a p50 of 5 ms and a p99 of 30 ms until claimed, and 20 ms until accept().",
        ),
    )


class Insert(NamedTuple):
    """One target's; both times are of the monotonic clock."""

    host: str
    begun: float
    done: float


async def _insert_all(
    dsn: str, hosts: Sequence[str]
) -> tuple[dict[int, list[Insert]], dict[str, float]]:
    """Make all INSERTs, the turns of the queues alternating; return them, and the claims."""
    inserts: dict[int, list[Insert]] = {queue: [] for queue in QUEUES}
    connection = await asyncpg.connect(dsn, timeout=60)
    await connection.execute(NOTE_CLAIMS)
    await until_a_worker_is_there(connection)
    await _insert(connection, hosts[:WARM_UP])
    for turn, queue in enumerate(QUEUES * TURNS):
        first = WARM_UP + turn * INSERTS
        await connection.execute(CLEAR)
        await connection.execute(FILL, queue)
        await connection.execute("VACUUM ANALYZE relaytest.job")
        await asyncio.sleep(0.2)
        inserts[queue] += await _insert(connection, hosts[first : first + INSERTS])
    await asyncio.sleep(1)  # for the last one to arrive
    ahead = await connection.fetchval(NOW) - time.monotonic()
    claimed = {host: at - ahead for host, at in await connection.fetch(CLAIMED)}
    await connection.close()
    return inserts, claimed


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
        inserts.append(Insert(host, begun, time.monotonic()))
        await asyncio.sleep(PAUSE)
    return inserts


def _row(queue: str, what: str, inserts: Sequence[Insert], ends: dict[str, float]) -> Row:
    waits = sorted(1000 * (ends[one.host] - one.begun) for one in inserts if one.host in ends)
    cuts = statistics.quantiles(waits, n=100, method="inclusive")
    return (queue, what, len(inserts), len(waits), cuts[49], cuts[89], cuts[98], waits[-1])
