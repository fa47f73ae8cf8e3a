"""A queue in which every fifth target only costs time: how long until it is empty."""

import asyncio
import re
import time
from collections.abc import Sequence
from pathlib import Path

import asyncpg

from relaytest.cli.running import raise_file_limit
from tests.bench.peers import TARPIT
from tests.bench.processes import beside, cpu_seconds, program
from tests.bench.queueing import until_a_worker_is_there
from tests.bench.report import Report, Row
from tests.bench.system import settings, upgraded
from tests.mta.process import fresh_address
from tests.postgres import temporary_cluster

SLOTS = (500, 3000)  # the first is the default
FIRST_PORT, PORTS = 20_000, 300  # of each of ten addresses
QUICK = 7  # of the ten addresses
GREETING, VISIT = 5, 10  # seconds; the longest a mute target takes, and the longest any does
LONGEST = 45  # seconds to wait for an empty queue
GOAL = 2  # seconds beyond the last deadline

# The kinds take turns, as in a real list.
FILL = """
    INSERT INTO relaytest.retest (target, port, reason)
    SELECT host, $2 + n, 'nominated'
      FROM generate_series(0, $3 - 1) AS n, unnest($1::text[]) AS host ORDER BY n
"""
# The control recipient is asked, too, and is no form. A target that was answered in full has no
# form left out but those that its names made equal.
ANSWERED = """
    SELECT count(*) FROM relaytest.trial AS t
     WHERE forms <@ ARRAY(SELECT form FROM relaytest.outcome WHERE trial = t.id)
       AND cardinality(forms) > 0 AND id > $1
"""
LAST = "SELECT coalesce(max(id), 0) FROM relaytest.trial"
LEFT = "SELECT count(*) AS open, count(*) FILTER (WHERE NOT leased) AS waiting FROM relaytest.job"


def run() -> Report:
    """Drain the same queue with different numbers of slots."""
    raise_file_limit()
    hosts = [fresh_address() for _ in range(10)]
    with temporary_cluster() as cluster:
        upgraded(settings(cluster.dsn()))
        rows = [_drain(cluster.dsn(), hosts, slots) for slots in SLOTS]
    return Report(
        f"mix: a queue of {len(hosts) * PORTS} targets: 70 % quick, 10 % tarpits with {TARPIT} s "
        "for a reply, 10 % mute, 10 % refuse TCP",
        (
            *("slots", "all claimed, s", "empty, s", "last deadline, s", "beyond it, s"),
            *("targets/s", "answered", "peak sessions", "CPU-ms/target", "peak RSS, MiB"),
        ),
        rows,
        (
            f"The time begins when the INSERT is committed. Limits: {GREETING} s for a greeting, "
            f"{VISIT} s for a visit; so a target claimed last may take until then. The goal is "
            f"{GOAL} s beyond it at most.",
            "answered: targets that answered all forms, as all quick ones should.",
            "A worker, PostgreSQL (fsync off), and the targets, which count the sessions, share "
            "the cores. The first number of slots is the default.",
        ),
    )


def _drain(dsn: str, hosts: Sequence[str], slots: int) -> Row:
    values = settings(
        dsn,
        POLITENESS__SLOTS=str(slots),
        TIMING__CONNECT=f"{GREETING}s",
        TIMING__GREETING=f"{GREETING}s",
        TIMING__SESSION=f"{VISIT}s",
        TIMING__VISIT=f"{VISIT}s",
    )
    with (
        beside("mix", FIRST_PORT, PORTS, *hosts) as targets,
        program("worker", values) as worker,
    ):
        claimed, empty, answered = asyncio.run(_wait(dsn, hosts))
        cpu, peak = cpu_seconds(worker.pid), _peak_memory(worker.pid)
        sessions = int(targets.end())
    count = len(hosts) * PORTS
    beyond = empty - VISIT
    return (
        *(slots, claimed, empty, VISIT, beyond),
        *(count / empty, f"{answered} of {QUICK * PORTS}", sessions, 1000 * cpu / count, peak),
    )


async def _wait(dsn: str, hosts: Sequence[str]) -> tuple[float, float, int]:
    """Fill the queue; return the seconds until all was claimed and done, and the answered."""
    connection = await asyncpg.connect(dsn)
    await until_a_worker_is_there(connection)
    last = await connection.fetchval(LAST)
    await connection.execute(FILL, hosts, FIRST_PORT, PORTS)
    begun, claimed = time.monotonic(), 0.0
    async with asyncio.timeout(LONGEST):
        while (left := await connection.fetchrow(LEFT))["open"]:
            if not left["waiting"] and not claimed:
                claimed = time.monotonic() - begun
            await asyncio.sleep(0.02)
    empty = time.monotonic() - begun
    answered: int = await connection.fetchval(ANSWERED, last)
    await connection.execute("DELETE FROM relaytest.worker")  # the next one is another
    await connection.close()
    return claimed, empty, answered


def _peak_memory(pid: int) -> float:
    """Return the most memory that a running process has had, in MiB (proc(5))."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024
