"""A list of a million entries on real DNS servers: from commit to answer, and load."""

import asyncio
import contextlib
import random
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path

import asyncpg

from relaytest.core.config import parse_config
from relaytest.core.dns_check import Question
from relaytest.core.zone import query_name
from relaytest.daemons import publisher
from relaytest.daemons.loop import Stop
from relaytest.net.dns_query import ask
from relaytest.store.database import open_database
from tests.bench.exporting import ENTRIES, FILL
from tests.bench.report import Report, Row, missing
from tests.bench.system import settings, upgraded
from tests.mta.name_servers import PowerDns
from tests.mta.packages import find
from tests.mta.process import fresh_address, fresh_port
from tests.mta.rbldnsd import Rbldnsd
from tests.postgres import temporary_cluster

ZONE = "relays.example"
CHANGES = {"PowerDNS": 60, "rbldnsd": 8}
SECONDS = 5  # of dnsperf
PUT = """
    INSERT INTO relaytest.listing (address, port, state, trial, listed_at, expires_at)
    VALUES ($1, 25, 'listed', 1, now(), now() + interval '1 day')
"""


def run() -> Report:
    """Measure both servers, one after the other."""
    absent = [missing(name, why) for name, why in _absent()]
    rows: list[Row] = list(absent)
    if not absent:
        with temporary_cluster() as cluster, tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            upgraded(settings(cluster.dsn()))
            rows = asyncio.run(_measure(cluster.dsn(), Path(folder)))
    return Report(
        f"dns: a list of {ENTRIES:,} entries",
        ("server", "commit to answer p50 ms", "p99 ms", "questions/s", "of rbldnsd"),
        rows,
        (
            "Half of the names were asked for before they were listed, so that their absence was "
            "in the caches. Questions by dnsperf (4 clients, half of them listed), on the same "
            "two cores. rbldnsd: publish.debounce = 1s, a signal after each publication.",
        ),
    )


def _absent() -> list[tuple[str, str]]:
    found = ((name, find(name)[1]) for name in ("pdns", "rbldnsd", "dnsperf"))
    return [(name, why) for name, why in found if why]


async def _measure(dsn: str, folder: Path) -> list[Row]:
    connection = await asyncpg.connect(dsn, timeout=60)
    await connection.execute("ALTER TABLE relaytest.listing DISABLE TRIGGER USER")
    await connection.execute(FILL.format(entries=ENTRIES))
    await connection.execute("VACUUM ANALYZE relaytest.listing")
    found: dict[str, tuple[list[float], float]] = {}
    async with _published(dsn, folder) as zones:
        host = fresh_address()
        port = fresh_port(host)
        args = [
            f"{ZONE}:{kind}:{zones / ZONE}.{suffix}"
            for kind, suffix in (("ip4set", "ip4"), ("ip6trie", "ip6"), ("generic", "apex"))
        ]
        with Rbldnsd(folder / "rbldnsd", args, host, port) as server:
            (folder / "pid").write_text(str(server.pids()[0]))
            found["rbldnsd"] = await _both(connection, "rbldnsd", host, port, folder)
    host = fresh_address()
    port = fresh_port(host)
    with PowerDns(folder / "pdns", dsn, host, port):
        found["PowerDNS"] = await _both(connection, "PowerDNS", host, port, folder)
    await connection.close()
    best = found["rbldnsd"][1]
    rows: list[Row] = []
    for name, (waits, rate) in found.items():
        cuts = statistics.quantiles(waits, n=100, method="inclusive")
        rows.append((name, cuts[49] * 1000, cuts[98] * 1000, round(rate), rate / best))
    return rows


@contextlib.asynccontextmanager
async def _published(dsn: str, folder: Path) -> AsyncIterator[Path]:
    """Run a publisher while the block runs; give its folder once all is written."""
    zones = folder / "zones"
    config = parse_config(
        {"publish": {"zone": ZONE, "directory": str(zones), "pidfile": str(folder / "pid")}}
    )
    stop = Stop()
    async with (
        open_database(dsn, pool=4, longest=config.database.timeout * 6, program="x") as database,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(publisher.run(config, database, stop))
        while not await asyncio.to_thread(Path(zones, f"{ZONE}.apex").exists):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        try:
            yield zones
        finally:
            stop.set()


async def _both(
    connection: asyncpg.Connection, name: str, host: str, port: int, folder: Path
) -> tuple[list[float], float]:
    rate = await asyncio.to_thread(_dnsperf, host, port, folder)
    return await _waits(connection, name, f"{host}:{port}"), rate


async def _waits(connection: asyncpg.Connection, name: str, place: str) -> list[float]:
    """Seconds from each commit to the first right answer."""
    waits = []
    for number in range(CHANGES[name]):
        address = IPv4Address(random.randrange(100 << 24, 120 << 24))
        question = Question(query_name(address, ZONE), "A")
        if number % 2:
            await _answer(place, question)
        await connection.execute(PUT, address)
        begun = time.perf_counter()
        await connection.execute("NOTIFY relaytest_listing")
        while not await _answer(place, question):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.001)
        waits.append(time.perf_counter() - begun)
    return waits


async def _answer(place: str, question: Question) -> Sequence[str]:
    answer = await ask(place, question, parse_config({}).dns.timeout)
    return answer.values if answer else ()


def _dnsperf(host: str, port: int, folder: Path) -> float:
    """Questions a second."""
    program, _ = find("dnsperf")
    assert program is not None
    queries = folder / "queries"
    first = int(IPv4Address("11.0.0.0"))
    some = (random.randrange(1, ENTRIES) * 211 + random.choice((0, 1)) for _ in range(200_000))
    names = (query_name(IPv4Address(first + one), ZONE) for one in some)
    queries.write_text("".join(f"{name} A\n" for name in names))
    said = subprocess.run(
        [
            program.path,
            *("-s", host, "-p", str(port), "-d", str(queries)),
            *("-l", str(SECONDS), "-c", "4", "-q", "200"),
        ],
        env=program.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    match = re.search(r"Queries per second:\s+([\d.]+)", said)
    assert match, said
    return float(match[1])
