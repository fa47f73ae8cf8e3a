"""A zone of a million entries: how fast it is written, beside psql, and with how much memory."""

import asyncio
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import asyncpg

from relaytest.core.zone import OPEN_RELAY, PATH
from relaytest.store import exports
from relaytest.store.binaries import find_binaries
from tests.bench.peers import fast_loop
from tests.bench.report import Report, Row
from tests.bench.system import settings, upgraded
from tests.postgres import temporary_cluster

ENTRIES = 1_000_000
ROUNDS = 3  # the best counts
CODES = f"'{{{OPEN_RELAY}}}'"
TEXT = "Open relay, tested and confirmed; see https://lists.example/lookup/"
FILL = """
    INSERT INTO relaytest.trial (id, job, address, port, reason, requester)
    VALUES (1, 1, '11.0.0.1', 25, 'operator', 'x');
    INSERT INTO relaytest.listing (address, port, state, trial, listed_at, expires_at)
    SELECT '11.0.0.0'::inet + n * 211, 25, 'listed', 1, now(), now() + interval '1 day'
      FROM generate_series(1, {entries}) AS n;
"""
SAME = "SELECT host FROM ({query}) AS entry"


def run() -> Report:
    """Fill, and write what the publisher writes."""
    with temporary_cluster() as cluster:
        upgraded(settings(cluster.dsn()))
        with asyncio.Runner(loop_factory=fast_loop) as runner:
            rows = runner.run(_measure(cluster.dsn()))
    return Report(
        f"export: a zone of {ENTRIES:,} entries",
        ("what", "seconds", "entries/s", "of psql", "octets"),
        rows,
        (
            "Best of three, one connection. Peak memory of this process: "
            f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB.",
        ),
    )


async def _measure(dsn: str) -> list[Row]:
    connection = await asyncpg.connect(dsn, timeout=60)
    await connection.execute("ALTER TABLE relaytest.listing DISABLE TRIGGER USER")
    await connection.execute(FILL.format(entries=ENTRIES))
    await connection.execute("VACUUM ANALYZE relaytest.listing")
    query = SAME.format(query=exports.PUBLISHED4.replace("$1", CODES))
    query = " ".join(query.split())
    records = " ".join(_records().split())
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "zone")
        beside: dict[str, float] = {}
        for what, rows_of in (("ZONE.ip4", query), ("ZONE.zone", records)):
            took = [await asyncio.to_thread(_psql, dsn, rows_of, file) for _ in range(ROUNDS)]
            beside[what] = min(took)
            rows.append((rf"psql \copy, the rows of {what}", *_told(min(took), min(took), file)))
        for what, export in (
            ("ZONE.ip4", exports.addresses),
            ("ZONE.zone", exports.records),
            ("ZONE.apex", exports.names_above),
        ):
            more = (PATH,) if what == "ZONE.apex" else ()
            took = []
            for _ in range(ROUNDS):
                out = await asyncio.to_thread(file.open, "wb")
                begun = time.perf_counter()
                await export(connection, 4, out.write, {OPEN_RELAY: TEXT}, *more)
                out.close()
                took.append(time.perf_counter() - begun)
            rows.append((what, *_told(min(took), beside.get(what, min(took)), file)))
    await connection.close()
    return rows


def _records() -> str:
    """Write out what `exports.records` asks for."""
    query = exports.EXPORT_RECORDS.format(query=exports.PUBLISHED4, owner=exports.OWNER4)
    return query.replace("$1", f"{CODES}::smallint[]").replace("$2", f"ARRAY['{TEXT}']")


def _told(seconds: float, theirs: float, file: Path) -> tuple[float, int, float, int]:
    return seconds, round(ENTRIES / seconds), theirs / seconds, file.stat().st_size


def _psql(dsn: str, query: str, file: Path) -> float:
    begun = time.perf_counter()
    subprocess.run(
        [find_binaries() / "psql", "-qX", dsn, "-c", rf"\copy ({query}) TO '{file}'"],
        timeout=300,
        check=True,
    )
    return time.perf_counter() - begun
